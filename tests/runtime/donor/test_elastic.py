"""A cache over reserved addresses is a cache like any other, and stays one while parts of its memory are away."""

import math

import pytest
import torch
from lending_stage import CONFIG, EACH, EXTENT, SIZE, WEIGHTS

from aquasim.runtime.arenas import ArenaError
from aquasim.runtime.donor.elastic import ElasticPool
from aquasim.runtime.engine import KvPool, Prefill, Runner, random_weights

PROMPT = [(13 * i * i + 5) % 97 for i in range(21)]


def says(runner: Runner, elastic: ElasticPool | None, low: list[int], high: list[int]) -> list[int]:
    """Return 24 tokens: from blocks `low`, then, with their bytes copied by hand, from `high`, then from `low` again.

    The extents that are not used leave meanwhile.
    """
    pool = runner.pool
    told = [runner.step([Prefill(1, PROMPT, 0, low)])[1]]
    runner.batch.join(1, told[0], len(PROMPT), low)
    for old, new in ((low, high), (high, low)):
        told += [runner.step()[1] for _ in range(8)]
        if elastic is None:
            continue
        pool.data[new] = pool.data[old]
        runner.batch.readdress(dict(zip(old, new, strict=True)))
        away = {block // elastic.per_extent for block in old}
        if pool.device.type == "cuda":
            torch.cuda.synchronize()
        for extent in away:
            elastic.memory.leave(extent)
        told += [runner.step()[1] for _ in range(3)]
        for extent in away:
            elastic.memory.come(extent)
    return told[:17] if elastic is None else told


def test_blocks_move_and_memory_leaves_between_steps() -> None:
    """Tokens are those of a cache that nothing happens to; the moved blocks' tables follow."""
    elastic = ElasticPool(CONFIG, 3 * EACH + 5, SIZE, extent_bytes=EXTENT, fill=math.nan)
    assert (elastic.extents, elastic.blocks) == (3, 3 * EACH)
    runner = Runner(CONFIG, WEIGHTS, elastic.pool, max_seqs=4, max_len=64)
    found = says(runner, elastic, list(range(12)), [2 * EACH + block for block in range(12)])
    plain = Runner(CONFIG, WEIGHTS, KvPool.of(CONFIG, 16, SIZE), max_seqs=4, max_len=64)
    wanted = says(plain, None, list(range(12)), [])
    assert found[:17] == wanted
    assert len(set(found)) > 5
    del runner
    elastic.close()


def test_sizes_fit_blocks_and_pages() -> None:
    """Extents are whole blocks and whole pages, of at most the size asked for where that is possible."""
    elastic = ElasticPool(CONFIG, 100, SIZE, extent_bytes=5 * 8192 + 1)
    assert (elastic.per_extent, elastic.extents, elastic.extent_bytes) == (5, 20, 5 * 8192)
    assert elastic.pool.block_bytes == elastic.block_bytes
    elastic.close()
    odd = ElasticPool(CONFIG, 100, 3, extent_bytes=1)
    assert odd.extent_bytes == 2 * odd.block_bytes == 3 * 4096
    odd.close()
    with pytest.raises(
        ValueError, match="1 blocks of 6144 bytes fill no extent; the smallest is 12288 bytes"
    ):
        ElasticPool(CONFIG, 1, 3)
    with pytest.raises(ArenaError, match=r"a cache of \d+ bytes is wanted, and \d+ can still be taken here"):
        ElasticPool(CONFIG, 1 << 30, SIZE)


@pytest.mark.gpu
def test_cuda_graphs_hold_while_memory_leaves_and_comes_back() -> None:
    """On a GPU: graphs captured once, extents leave and come between replays, the tokens of a plain cache."""
    pytest.importorskip("triton")
    weights = random_weights(CONFIG, seed=3, device="cuda")
    options = {"device": "cuda", "max_seqs": 4, "max_len": 64}
    elastic = ElasticPool(
        CONFIG, 3 * 256, SIZE, extent_bytes=2 << 20, backend="cuda-vmm", place=0, device="cuda", fill=0.0
    )
    runner = Runner(CONFIG, weights, elastic.pool, **options)  # type: ignore[arg-type]
    each = elastic.per_extent
    found = says(runner, elastic, list(range(12)), [2 * each + block for block in range(12)])
    pool = KvPool.of(CONFIG, 16, SIZE, device="cuda", fill=0.0)
    plain = Runner(CONFIG, weights, pool, **options)  # type: ignore[arg-type]
    assert found[:17] == says(plain, None, list(range(12)), [])
