"""How fast, and how near the bound, for the mixes and sizes of AQUA's placer study and beyond."""

import random
import time

import pytest
from placements import MIXES, check, study

from aquasim.place import Model, Problem, place
from aquasim.place.problem import MIB


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("gpus", "limit_s"), [(128, 5.0), (256, 20.0)])
def test_the_study_is_solved_to_proven_optimum(gpus: int, limit_s: float, mix: str, spare: int) -> None:
    """128 GPUs take 5 s at most and 256 take 20 s, with and without idle servers, for every mix."""
    started = time.monotonic()
    plan = place(study(gpus, mix, spare))
    assert plan.optimal
    assert time.monotonic() - started < limit_s
    check(plan)


@pytest.mark.parametrize("gpus", [16, 128, 256])
def test_the_released_mix_puts_as_many_donors_as_consumers_on_each_server(gpus: int) -> None:
    """With half the GPUs donors, every server gets 4 of each, and every consumer all it needs."""
    plan = place(study(gpus, "llm"))
    assert {(server.donors, server.consumers) for server in plan.servers} == {(4, 4)}
    assert plan.paired == plan.consumers == gpus // 2
    assert plan.lent_bytes == plan.need_bytes


@pytest.mark.slow
@pytest.mark.parametrize("spare", [0, 16])
@pytest.mark.parametrize("mix", MIXES)
def test_a_thousand_gpus_are_within_a_percent_in_a_minute(mix: str, spare: int) -> None:
    """1,024 GPUs, with and without idle servers, for every mix of the study."""
    plan = place(study(1024, mix, spare), time_limit_s=60)
    assert plan.gap <= 0.01
    assert plan.seconds < 60
    check(plan)


def many_kinds(servers: int, kinds: int, tps: tuple[int, ...], gpus: int = 8) -> Problem:
    """Fill the servers with models whose amounts all differ, to the MiB."""
    rng = random.Random(servers * kinds)
    sizes = [(rng.choice(tps), rng.choice([-1, 1]) * rng.randint(5_000, 45_000) * MIB) for _ in range(kinds)]
    replicas = [0] * kinds
    left = servers * gpus
    while any(tp <= left for tp, _ in sizes):
        i = rng.choice([i for i, (tp, _) in enumerate(sizes) if tp <= left])
        replicas[i] += 1
        left -= sizes[i][0]
    models = (Model(f"m{i}", sizes[i][1], n, sizes[i][0]) for i, n in enumerate(replicas) if n)
    return Problem(servers, tuple(models), gpus)


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "kinds", "tps"), [(16, 20, (1,)), (32, 40, (1, 2, 4))])
def test_more_kinds_than_patterns_can_hold_come_within_a_percent(
    servers: int, kinds: int, tps: tuple[int, ...]
) -> None:
    """Exchanges end near the bound where millions of patterns would have to be enumerated."""
    plan = place(many_kinds(servers, kinds, tps), time_limit_s=240)
    assert plan.formulation == "columns"
    assert plan.gap <= 0.01
    check(plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("servers", "kinds", "tps", "gpus"),
    [
        (128, 10, (1,), 8),
        (128, 12, (1,), 8),
        (128, 60, (1,), 8),
        (128, 20, (1, 2, 4, 8), 8),
    ],
)
def test_a_thousand_gpus_of_uneven_amounts(servers: int, kinds: int, tps: tuple[int, ...], gpus: int) -> None:
    """Amounts without a common step, and shards: within a percent in a minute."""
    plan = place(many_kinds(servers, kinds, tps, gpus), time_limit_s=60)
    assert plan.gap <= 0.01
    assert plan.seconds < 60
    check(plan)
