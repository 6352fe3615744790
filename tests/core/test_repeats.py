"""A run of identical iterations stands for what single iterations would have done, for every policy."""

import random

import pytest
from driver import Job, Load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import MODES, PLAIN, Mode, both, options, random_limits

from aquasim.core import Limits, make_policy


def small(seed: int) -> tuple[Limits, Load]:
    """Return an engine whose tiers are as small as its memory, in any order, and requests that fill it."""
    rng = random.Random(seed)
    blocks, size = rng.randint(6, 40), rng.choice([1, 2, 4])
    peer, host = ("peer", blocks * rng.choice([0, 1, 3])), ("host", blocks * rng.choice([1, 2, 10]))
    limits = Limits(
        blocks=blocks,
        block_size=size,
        max_num_seqs=rng.choice([1, 2, 4, 64]),
        max_num_batched_tokens=blocks * size * rng.choice([1, 2]),
        tiers=rng.choice([(host,), (peer, host), (host, peer)]),
    )
    room = blocks * size
    jobs: list[Job] = [
        (rng.randint(0, 60), rng.randint(1, max(1, room // rng.choice([1, 2, 4]))), rng.randint(1, room // 2), 0, ())
        for _ in range(rng.randint(1, 25))
    ]  # fmt: skip
    return limits, Load(jobs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), caching=st.booleans())
def test_runs_are_what_single_iterations_are(name: str, mode: Mode, seed: int, caching: bool) -> None:
    """Every token comes at the same time, on random engines with aborts, prefixes and tiers that come and go."""
    limits, load = random_limits(seed, mode, caching)
    chosen = options(name, seed, mode)
    stepped, fused = both(limits, lambda: make_policy(name, **chosen), load, seed)
    assert stepped == fused


@pytest.mark.parametrize("name", ["cfs", "aqua", "fcfs-swap", "mlfq", "srpt"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_so_they_are_where_memory_is_tight(name: str, seed: int) -> None:
    """Tiers as small as HBM, newcomers that wait for blocks which growth takes first."""
    limits, load = small(seed)
    chosen = options(name, seed)
    stepped, fused = both(limits, lambda: make_policy(name, **chosen), load, seed)
    assert stepped == fused
