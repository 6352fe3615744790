"""The pool is plain memory: a block is one stretch of bytes at a known address."""

import math

import numpy as np
import pytest
import torch
from naive_llama import TINY

from aquasim.runtime.arenas import create
from aquasim.runtime.copy import Descriptors, open_copier
from aquasim.runtime.engine import KvPool


def filled(pool: KvPool, blocks: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Write random keys and values of 10 tokens to every layer; return those of layer 1."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.arange(10)
    slots = pool.slots(torch.tensor(blocks)[positions // 4], positions)
    made = (torch.empty(0), torch.empty(0))
    for layer in range(pool.layers):
        keys, values = (torch.randn(10, pool.kv_heads, pool.head_dim, generator=generator) for _ in range(2))
        made = keys, values
        pool.write(layer, slots, *made)
        assert all(torch.equal(a, b) for a, b in zip(pool.read(layer, slots), made, strict=True))
    return made


def test_a_token_is_where_the_layout_says() -> None:
    """data[block, layer, 0 or 1, offset] holds a token's heads; everything else stays untouched."""
    pool = KvPool.of(TINY, blocks=6, block_size=4, fill=math.nan)
    keys, values = filled(pool, [5, 0, 3], seed=1)

    assert pool.data.shape == (6, 2, 2, 4, 2, 8)
    assert torch.equal(pool.data[5, 1, 0], keys[:4])
    assert torch.equal(pool.data[0, 1, 1], values[4:8])
    assert torch.equal(pool.values(1)[3, :2], values[8:])
    assert int((~pool.data.isnan()).sum()) == 10 * 2 * 2 * 16
    assert pool.block_bytes == 2 * 2 * 4 * 2 * 8 * 4
    assert pool.nbytes == 7 * pool.block_bytes


def test_a_copier_moves_blocks_by_address() -> None:
    """Pages that go out to an arena and come back to other blocks are the same bytes."""
    pool = KvPool.of(TINY, blocks=6, block_size=4, fill=math.nan)
    filled(pool, [5, 0, 3], seed=2)
    before = pool.data[[5, 0, 3]].clone()
    size = pool.block_bytes
    with open_copier("cpu") as copier, create("memfd", 3 * size) as arena:
        out = Descriptors.of_blocks(pool.base, [5, 0, 3], arena.ptr, [2, 0, 1], size)
        copier.submit(out, copier.outgoing).wait(30)
        pool.data.fill_(math.nan)
        back = Descriptors.of_blocks(arena.ptr, [2, 0, 1], pool.base, [1, 2, 4], size)
        copier.submit(back, copier.incoming).wait(30)

    assert torch.equal(pool.data[[1, 2, 4]].view(torch.int32), before.view(torch.int32))


def test_a_pool_lies_over_given_memory() -> None:
    """An arena's bytes serve as the pool; too few of them are refused."""
    size = KvPool.of(TINY, blocks=6, block_size=4).nbytes
    with create("memfd", size) as arena:
        pool = KvPool.of(TINY, blocks=6, block_size=4, memory=arena.tensor())
        assert pool.base == arena.ptr
        filled(pool, [0, 1, 2], seed=3)
        first = np.frombuffer(arena.view(), np.float32, 16).tolist()
        assert first == pool.data[0, 0, 0].flatten()[:16].tolist()
        del pool
    with pytest.raises(ValueError, match="needs 7168 bytes on cpu, not 100 bytes"):
        KvPool.of(TINY, blocks=6, block_size=4, memory=torch.zeros(100, dtype=torch.uint8))
    with pytest.raises(ValueError, match="at least 1"):
        KvPool.of(TINY, blocks=0)
