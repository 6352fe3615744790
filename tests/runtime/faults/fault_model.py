"""A tiny model, requests, and what each of them says when nothing ever happens to it."""

import random
from functools import cache
from typing import Any

import torch

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, random_weights
from aquasim.runtime.executor import Executor

torch.set_num_threads(
    1
)  # before any fork: small products gain nothing from more, and a pool would not survive it
CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=64, intermediate=64, max_positions=256
)
SIZE, BLOCKS, PADDED = 4, 12, 32
MIB = 1 << 20
JOBS, SHARED = 24, 8
"""Requests of their own, and then some whose prompts begin alike."""
COMMON = 2 * SIZE
Job = tuple[list[int], int]


@cache
def jobs() -> list[Job]:
    """Return requests (prompt, tokens to generate); a few together exceed the cache several times."""
    rng = random.Random(1)
    found = []
    for job in range(JOBS + SHARED):
        prompt = [rng.randrange(97) for _ in range(rng.randint(4, 14))]
        if job >= JOBS:
            prompt = [*range(COMMON), *prompt[:6]]
        found.append((prompt, rng.randint(12, 24)))
    return found


def request(id: int, job: int) -> tuple[int, list[int], int, list[int]]:
    """Return what to ask of an engine: id, prompt, tokens to generate, hashes of blocks that others share."""
    return id, *jobs()[job], [1001, 1002] if job >= JOBS else []


def make_runner(rank: int = 0, world: int = 1, pool: KvPool | None = None) -> Runner:
    """Return a runner over a pool of `BLOCKS` blocks, one of `world` ranks."""
    pool = pool or KvPool.of(CONFIG, BLOCKS, SIZE, world=world, fill=float("nan"))
    weights = random_weights(CONFIG, 3, rank=rank, world=world)
    return Runner(CONFIG, weights, pool, padded=PADDED, max_seqs=8, rank=rank, world=world)


def make_scheduler(policy: str, tiers: tuple[tuple[str, int], ...] = (), **options: Any) -> Scheduler:
    """Return a scheduler for such a runner."""
    prefix = bool(options.pop("prefix_caching", False))
    limits = Limits(
        blocks=BLOCKS, block_size=SIZE, max_num_seqs=8, max_num_batched_tokens=PADDED, tiers=tiers, max_repeat=1,
        prefix_caching=prefix,
    )  # fmt: skip
    return Scheduler(limits, make_policy(policy, **options))


@cache
def alone(job: int) -> list[int]:
    """Return what a request generates by itself, never interrupted."""
    prompt, count = jobs()[job]
    executor = Executor(make_scheduler("fcfs"), make_runner())
    executor.submit(0, prompt, count)
    sequence = executor.sequences[0]
    executor.run()
    return sequence.generated
