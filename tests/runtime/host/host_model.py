"""A tiny model, requests of several lengths, and a runner over two pools: the device's and the host's."""

import math
from typing import Any

import torch

from aquasim.runtime.engine import HostLanes, KvPool, LlamaConfig, Runner, random_weights

CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=3, heads=4, kv_heads=2, head_dim=8, intermediate=64, max_positions=256
)
PROMPTS = {id: [(7 * id + 3 * i) % 97 for i in range(3 + 4 * id)] for id in range(6)}
STEPS = 12


def made(dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any) -> Runner:
    """Return a runner whose host has 60 blocks of 4 tokens, its own cache 60 too; what nobody wrote is NaN."""
    pool = KvPool.of(CONFIG, 60, 4, dtype=dtype, device=device, fill=math.nan)
    copier = None
    if device != "cpu":
        from aquasim.runtime.copy import open_copier

        copier = open_copier(0)
    memory = torch.empty(61 * pool.block_bytes, dtype=torch.uint8, pin_memory=device != "cpu")
    there = KvPool.of(CONFIG, 60, 4, dtype=dtype, memory=memory, fill=math.nan)
    host = HostLanes(there, CONFIG.heads, max_seqs=8, threads=2, device=device, copier=copier)
    weights = random_weights(CONFIG, 3, dtype=dtype, device=device)
    return Runner(CONFIG, weights, pool, device=device, max_seqs=8, host=host, **options)


def blocks(id: int) -> list[int]:
    """Return a request's blocks, out of order."""
    return [10 * id + i for i in (3, 0, 9, 1, 8, 2, 7, 4, 6, 5)]
