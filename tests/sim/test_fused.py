"""A run of many iterations in one event is the same run, iteration by iteration, to the nanosecond."""

import random
from typing import Any

import numpy as np
import pytest
from scenes import load_one

from aquasim.core import POLICIES, Limits, Step, make_policy, replay
from aquasim.records.run import Run
from aquasim.sim.simulate import Plan, simulate_system

PLAIN = sorted(name for name, policy in POLICIES.items() if policy.lanes is None)
PAGING = {name for name, policy in POLICIES.items() if policy.pages}
SEEDS = range(4)


HYBRID = (
    'systems.x.policy="hybrid"',
    "systems.x.options={}",
    "engine.prefix_caching=false",
    'engine.prefill="chunked"',
    "engine.max_num_batched_tokens=2048",
)


def changes(policy: str, seed: int) -> list[str]:
    """Return changes of `small-h100` that make a short scenario of a random shape for one policy."""
    rng = random.Random(f"{policy} {seed}")
    tiers = rng.choice(['["peer","host"]', '["host"]']) if policy in PAGING else "[]"
    sliced = POLICIES[policy].sliced and policy in ("cfs", "aqua")
    return [
        f'systems.x.policy="{policy}"',
        f"systems.x.tiers={tiers}",
        f'systems.x.copies="{rng.choice(["scattered", "column", "block"])}"',
        *([f"systems.x.options.slice_length={rng.choice([2, 3, 6, 40])}"] if sliced else []),
        *([f"systems.x.options.overlap={rng.choice(['true', 'false'])}"] if policy == "cfs" else []),
        f"seed={seed}",
        "workload.requests=40",
        f"engine.kv_blocks={rng.choice([300, 500, 1500])}",
        f"engine.max_num_seqs={rng.choice([8, 512])}",
        f"engine.prefix_caching={rng.choice(['true', 'false'])}",
        f'engine.prefill="{rng.choice(["chunked", "prompt-only"])}"',
        f"machine.peer_gib={rng.choice([1, 20])}",
        *rng.choice([[], [], ["workload.cap=12"]]),
    ]


def plan(policy: str, seed: int) -> Plan:
    """Resolve a random scenario."""
    return Plan.of(load_one("small-h100", changes(policy, seed)))


def tables(run: Run, *names: str) -> dict[str, list[Any]]:
    """Return tables as lists of rows."""
    columns = {name: run.columns(name) for name in names}
    return {
        name: list(zip(*(c.tolist() for c in cols.values()), strict=True)) for name, cols in columns.items()
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", PLAIN)
def test_fused_equals_stepped_to_the_nanosecond(policy: str, seed: int) -> None:
    """Requests, preemptions, transfers and moves are the same rows; only steps are fewer."""
    resolved = plan(policy, seed)
    fused = simulate_system(resolved, "x")
    stepped = simulate_system(resolved, "x", fused=False)
    same = ("requests", "preemptions", "transfers", "moves")
    assert tables(fused, *same) == tables(stepped, *same)
    assert fused.count("steps") <= stepped.count("steps") == fused.columns("steps")["iterations"].sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_fused_equals_stepped_with_lanes_beside_slices(seed: int) -> None:
    """The same for `hybrid`, whose host decodes beside some steps and not beside others."""
    resolved = Plan.of(
        load_one("small-h100", [*changes("cfs", seed), *HYBRID, f"machine.host_gbs={20 + seed}"])
    )
    fused, stepped = (simulate_system(resolved, "x", fused=fused) for fused in (True, False))
    same = ("requests", "preemptions", "transfers", "moves")
    assert tables(fused, *same) == tables(stepped, *same)


def test_fused_equals_stepped_where_the_host_decodes() -> None:
    """The same on a server whose host has a part in many steps."""
    changed = ["workload.requests=60", "engine.kv_blocks=500", "engine.max_model_len=4000", "seed=3"]
    resolved = Plan.of(load_one("neo/length-a10g", changed))
    fused, stepped = (simulate_system(resolved, "hybrid", fused=fused) for fused in (True, False))
    same = ("requests", "preemptions", "transfers", "moves")
    assert tables(fused, *same) == tables(stepped, *same)
    assert sum(fused.columns("spans")["lane"].tolist()) > 20


def test_fused_equals_stepped_when_seats_are_short() -> None:
    """The same with more requests than sequences allowed, for a policy in which newcomers compete by rank."""
    changed = [
        *changes("srpt", 1),
        "engine.max_num_seqs=8",
        "engine.kv_blocks=500",
        'engine.prefill="chunked"',
    ]
    resolved = Plan.of(load_one("small-h100", changed))
    fused, stepped = (simulate_system(resolved, "x", fused=fused) for fused in (True, False))
    assert tables(fused, "requests") == tables(stepped, "requests")


def test_fused_equals_stepped_when_a_slice_ends_within_a_run() -> None:
    """The running order at the end of a slice nobody competed in is the same if the slice ends within a step."""
    changed = [*changes("cfs", 6), 'engine.prefill="prompt-only"', "systems.x.options.overlap=false"]
    resolved = Plan.of(load_one("small-h100", changed))
    fused, stepped = (simulate_system(resolved, "x", fused=fused) for fused in (True, False))
    assert tables(fused, "requests") == tables(stepped, "requests")


def test_fused_equals_stepped_when_a_page_out_makes_room() -> None:
    """A victim may return as soon as its own blocks, more than the one that was short, are free."""
    changed = [
        'systems.x.policy="srpt"',
        'systems.x.tiers=["peer","host"]',
        'systems.x.copies="scattered"',
        "seed=5048",
        "workload.requests=60",
        "engine.kv_blocks=600",
        'engine.prefill="prompt-only"',
        "machine.peer_gib=1",
    ]
    resolved = Plan.of(load_one("small-h100", changed))
    fused, stepped = (simulate_system(resolved, "x", fused=fused) for fused in (True, False))
    assert tables(fused, "requests", "transfers") == tables(stepped, "requests", "transfers")


def iterations(run: Run) -> np.ndarray:
    """Return (start, length, sequences) of every single iteration of a run."""
    steps = run.columns("steps")
    rows = []
    for start, first, growth, count, batch in zip(
        *(steps[name].tolist() for name in ("start_ns", "first_ns", "growth_ns", "iterations", "batch")),
        strict=True,
    ):
        for j in range(count):
            rows.append((start, first + growth * j, batch))
            start += first + growth * j
    return np.array(rows)


@pytest.mark.parametrize("policy", ["fcfs", "cfs", "aqua"])
def test_every_iteration_is_the_same(policy: str) -> None:
    """Unrolled, the steps of a fused run are the stepped run's: start, length and batch of each iteration."""
    resolved = plan(policy, 1)
    fused = simulate_system(resolved, "x")
    stepped = simulate_system(resolved, "x", fused=False)
    assert np.array_equal(iterations(fused), iterations(stepped))
    assert fused.count("steps") < stepped.count("steps")


def limits_of(resolved: Plan, run: Run) -> Limits:
    """Return the limits that a simulated engine had, from its scenario and its records."""
    engine = resolved.scenario.engine
    policy = resolved.scenario.systems["x"].policy
    return Limits(
        blocks=run.meta["blocks"],
        block_size=engine.block_size,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=run.meta["max_model_len"],
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        prefix_caching=engine.prefix_caching,
        prefill="prompt-only" if policy == "fcfs-v0" else engine.prefill,
        tiers=tuple(run.meta["tiers"].items()),
        max_repeat=1 << 30,
    )


@pytest.mark.parametrize("policy", PLAIN)
def test_replay_of_a_simulated_run_gives_its_commands(policy: str) -> None:
    """The recorded events, fed to a fresh scheduler twice, give the same commands: one step per row recorded."""
    resolved = plan(policy, 2)
    run = simulate_system(resolved, "x", record_events=True)
    assert run.log is not None
    options = resolved.scenario.systems["x"].options
    commands = replay(limits_of(resolved, run), make_policy(policy, **options), run.log)
    assert commands == replay(limits_of(resolved, run), make_policy(policy, **options), run.log)
    steps = [command for command in commands if isinstance(command, Step)]
    assert [step.step for step in steps] == run.columns("steps")["step"].tolist()
    assert [step.batch for step in steps] == run.columns("steps")["batch"].tolist()
    chunks = [(s.step, c.request, c.tokens) for s in steps for c in s.chunks]
    found = run.columns("chunks")
    assert chunks == list(zip(*(found[name].tolist() for name in ("step", "request", "tokens")), strict=True))


@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "cfs", "aqua"])
def test_recording_changes_nothing(policy: str) -> None:
    """A run with events recorded has the tables of one without."""
    resolved = plan(policy, 3)
    recorded = simulate_system(resolved, "x", record_events=True)
    plain = simulate_system(resolved, "x")
    names = ("requests", "steps", "chunks", "spans", "preemptions", "transfers", "moves")
    assert tables(recorded, *names) == tables(plain, *names)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 10))
@pytest.mark.parametrize("policy", PLAIN)
def test_fused_equals_stepped_more_often(policy: str, seed: int) -> None:
    """The same over more shapes."""
    test_fused_equals_stepped_to_the_nanosecond(policy, seed)
