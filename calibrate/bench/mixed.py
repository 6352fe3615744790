"""Attention of one layer when a chunk of prefill and decodes share a launch, as in chunked prefill.

Only kernels that take sequences of different lengths do that: those of engines, where they are installed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import accumulate, product
from typing import Any

from aquasim.calibrate.bench.bench import DTYPE_BYTES, Bench
from aquasim.calibrate.bench.kernels import PAGE, TOLERANCE, flash_attention_version, pick_kernel, sdpa
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Sizes
from aquasim.calibrate.bench.timing import Call, Timing

Lengths = list[tuple[int, int]]
"""For each sequence its new tokens, and all its tokens."""

Ragged = Callable[[Bench, Lengths, Any, Any, Any], Call]


def flash_attn(bench: Bench, lengths: Lengths, queries: Any, keys: Any, values: Any) -> Call:
    """FlashAttention 2's own package, caches one behind the other."""
    package = import_module("flash_attn")
    starts, ends = _starts(bench, [new for new, _ in lengths]), _starts(bench, [all_ for _, all_ in lengths])
    most = max(new for new, _ in lengths), max(all_ for _, all_ in lengths)
    return partial(package.flash_attn_varlen_func, queries, keys, values, starts, ends, *most, causal=True)


def vllm(bench: Bench, lengths: Lengths, queries: Any, keys: Any, values: Any) -> Call:
    """vLLM's flash attention; every cache begins at a page of its own."""
    package = import_module("vllm.vllm_flash_attn")
    torch = bench.torch
    pages = [-(-tokens // PAGE) for _, tokens in lengths]
    pools = [_paged(bench, lengths, cache) for cache in (keys, values)]
    table = torch.zeros(len(lengths), max(pages), dtype=torch.int32, device=bench.device)
    for row, (first, count) in enumerate(zip(accumulate([0, *pages]), pages, strict=False)):
        table[row, :count] = torch.arange(first, first + count, dtype=torch.int32, device=bench.device)
    return partial(
        package.flash_attn_varlen_func,
        queries,
        *pools,
        cu_seqlens_q=_starts(bench, [new for new, _ in lengths]),
        max_seqlen_q=max(new for new, _ in lengths),
        seqused_k=torch.tensor([tokens for _, tokens in lengths], dtype=torch.int32, device=bench.device),
        max_seqlen_k=max(tokens for _, tokens in lengths),
        causal=True,
        block_table=table,
        fa_version=flash_attention_version(bench),
    )


KERNELS: dict[str, Ragged] = {"vllm": vllm, "flash_attn": flash_attn}


def _starts(bench: Bench, counts: list[int]) -> Any:
    return bench.torch.tensor([0, *accumulate(counts)], dtype=bench.torch.int32, device=bench.device)


def _paged(bench: Bench, lengths: Lengths, cache: Any) -> Any:
    """Return caches one behind the other in pages, the last page of each filled up."""
    pad = bench.torch.nn.functional.pad
    parts = cache.split([tokens for _, tokens in lengths])
    filled = [pad(part, (0, 0, 0, 0, 0, -len(part) % PAGE)) for part in parts]
    return bench.torch.cat(filled).view(-1, PAGE, *cache.shape[1:])


def mixed_piece(bench: Bench, sizes: Sizes) -> Piece | None:
    """Return launches of one chunk and equal decodes, or None where no kernel here makes them."""
    name = pick_kernel(bench)[0]
    if not bench.cuda or name not in KERNELS or not _agrees(bench, KERNELS[name]):
        return None
    points = tuple(
        {
            **dict(zip(("heads", "kv_heads", "head_dim"), heads, strict=True)),
            **{"new": new, "cached": cached, "batch": batch, "length": length, "kernel": name},
        }
        for heads, new, cached in product(sizes.heads[:2], sizes.new[::2], sizes.cached[:2])
        for batch, length in product(sizes.batches[::2], sizes.lengths[1:-1])
        if 4 * DTYPE_BYTES * heads[1] * heads[2] * batch * length <= bench.room
    )
    return Piece("mixed_attention", points, partial(_open, KERNELS[name]), {"mixed attention": name})


@contextmanager
def _open(kernel: Ragged, bench: Bench) -> Iterator[Measure]:
    def measure(point: Point) -> Timing:
        batch, length, new = (int(point[name]) for name in ("batch", "length", "new"))
        lengths = [(1, length)] * batch + [(new, int(point["cached"]) + new)]
        heads = int(point["heads"]), int(point["kv_heads"]), int(point["head_dim"])
        moved = 2 * sum(tokens for _, tokens in lengths) * heads[1] * heads[2] * DTYPE_BYTES
        sets = [_operands(bench, lengths, heads) for _ in range(bench.turns(2 * moved))]
        return bench.time([kernel(bench, lengths, *operands) for operands in sets])

    yield measure
    bench.free()


def _operands(bench: Bench, lengths: Lengths, heads: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """Return queries, keys and values of all sequences, one behind the other."""
    new, tokens = (sum(column) for column in zip(*lengths, strict=True))
    queries = bench.tensor(new, heads[0], heads[2])
    return queries, bench.tensor(tokens, heads[1], heads[2]), bench.tensor(tokens, heads[1], heads[2])


def _agrees(bench: Bench, kernel: Ragged) -> bool:
    """Compare a decode and a chunk in one launch with torch's results for each."""
    lengths: Lengths = [(1, 40), (24, 56)]
    try:
        queries, keys, values = _operands(bench, lengths, (8, 2, 128))
        found: Any = kernel(bench, lengths, queries, keys, values)()
        wanted = _one_by_one(bench, lengths, queries, keys, values)
        return bool(bench.torch.allclose(found, wanted, atol=TOLERANCE, rtol=0.0))
    except Exception:  # another version's arguments, or not for this GPU
        return False


def _one_by_one(bench: Bench, lengths: Lengths, queries: Any, keys: Any, values: Any) -> Any:
    """Return torch's attention of each sequence by itself, one behind the other."""
    new, tokens = ([pair[i] for pair in lengths] for i in (0, 1))
    parts = zip(queries.split(new), keys.split(tokens), values.split(tokens), strict=True)
    results: list[Any] = [sdpa(bench, *(part.unsqueeze(0) for part in each))() for each in parts]
    return bench.torch.cat([result[0].transpose(0, 1) for result in results])
