"""The hybrid policy: peer memory, host memory, the host's cores and recomputation, by predicted delay."""

import random
from dataclasses import replace
from typing import Any

import pytest
from driver import Driver, Load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import both, random_limits
from player import Player
from tables import predictor

from aquasim.core import Limits, Scheduler, Step, make_policy, replay
from aquasim.core.policies.base import Policy
from aquasim.core.predictor import Copying, Curve

FAST, SLOW = Copying(10.0, 10.0), Copying(1000.0, 1000.0)


def hybrid(
    machine: dict[str, Any] | None = None, peer: Copying = FAST, host: Copying = SLOW, **options: Any
) -> Policy:
    """Return the policy with tables."""
    made = make_policy("hybrid", **options)
    made.predictor = predictor(**(machine or {}), copies={"peer": peer, "host": host})
    return made


def machine(seed: int) -> dict[str, Any]:
    """Return a machine on which the host is of some use, or none, and links of any speed."""
    rng = random.Random(seed)
    return {
        "machine": {"host": rng.choice([0.01, 1.0, 50.0]), "launch": rng.choice([0.0, 300.0, 2000.0])},
        "peer": Copying(*[rng.choice([1.0, 1e3, 1e6]) for _ in range(2)]),
        "host": Copying(*[rng.choice([1.0, 1e3, 1e6]) for _ in range(2)]),
        "slice_length": rng.choice([1, 4, 16]),
        "overhead": rng.choice([0.001, 0.02, 1.0]),
    }


def sizes(**changes: Any) -> Limits:
    """Return an engine with 20 blocks of 4 tokens on the GPU, 40 at a peer and 400 on the host."""
    fixed: dict[str, Any] = {"blocks": 20, "block_size": 4, "max_num_seqs": 64, "max_num_batched_tokens": 400}
    return Limits(**{**fixed, "tiers": (("peer", 40), ("host", 400)), **changes})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_everyone_ends_and_no_invariant_breaks(seed: int) -> None:
    """Random engines, hosts, links, leases, aborts: everybody ends, blocks are owned once, nothing leaks."""
    limits, load = random_limits(seed, "chunked", False)
    driver = Driver(limits, hybrid(**machine(seed)), load, seed).run()
    assert set(driver.outcome) == set(range(len(load.jobs)))
    assert driver.scheduler.pool.free == limits.blocks
    assert all(pool.held == 0 for pool in driver.scheduler.pager.tiers.values())
    assert not driver.scheduler.requests
    assert not driver.scheduler.paged


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_runs_are_what_single_iterations_are(seed: int) -> None:
    """Every token comes at the same time whether iterations are simulated one by one or in runs."""
    limits, load = random_limits(seed, "chunked", False)
    stepped, fused = both(limits, lambda: hybrid(**machine(seed)), load, seed)
    assert stepped == fused


@pytest.mark.parametrize("seed", range(24))
def test_tables_need_not_go_beyond_the_budget(seed: int) -> None:
    """More requests hold blocks than an iteration has tokens: products are looked up for a whole budget at most."""
    rng = random.Random(seed)
    limits = sizes(
        blocks=40, max_num_seqs=256, max_num_batched_tokens=8, tiers=(("host", rng.choice([40, 400])),)
    )
    jobs: list[Any] = [
        (rng.randint(0, 150), rng.randint(1, 6), rng.choice([2, 10, 40]), 0, ()) for _ in range(100)
    ]
    made = hybrid({"host": 0.01}, host=Copying(1.0, 1.0), slice_length=rng.choice([4, 16]), overhead=1.0)
    assert made.predictor is not None
    made.predictor = replace(made.predictor, linear=Curve([1, 8], [1000.0, 1000.0]))
    driver = Driver(limits, made, Load(jobs), seed, check=False).run()
    assert set(driver.outcome) == set(range(100))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_replaying_the_events_gives_the_same_commands(seed: int) -> None:
    """A recorded event stream, fed to a fresh scheduler with the same tables, yields every command again."""
    limits, load = random_limits(seed, "chunked", False)
    driver = Driver(limits, hybrid(**machine(seed)), load, seed, check=False).run()
    assert replay(limits, hybrid(**machine(seed)), driver.records) == driver.commands


JOBS = [(0, 40, 30), (0, 30, 30)]
"""Eighteen of twenty blocks, and more as they grow."""


def leaves(made: Policy, **changes: Any) -> list[str]:
    """Return how the first that leaves HBM does: its transfer, or the step that says it lost its memory."""
    log = Player(sizes(max_repeat=1, **changes), made, JOBS).play(until=20)
    return [line for line in log if " out " in line or " x " in line][:1]


@pytest.mark.parametrize(
    ("peer", "host", "where"),
    [
        (Copying(10, 10), Copying(1000, 1000), "out peer"),
        (Copying(1000, 1000), Copying(10, 10), "out host"),
        (Copying(10, 1000), Copying(500, 100), "out host"),
        (Copying(1e9, 10), Copying(10, 1e9), " x "),
    ],
)
def test_who_leaves_goes_where_it_is_delayed_least(peer: Copying, host: Copying, where: str) -> None:
    """Copies out and back count; where both tiers cost more than a prompt for everyone, it is computed again."""
    (line,) = leaves(hybrid(peer=peer, host=host))
    assert where in line


def test_a_full_tier_leaves_the_next_best() -> None:
    """The peer is nearest and has no room: the host it is."""
    (line,) = leaves(hybrid(host=Copying(100, 100)), tiers=(("peer", 2), ("host", 400)))
    assert "out host" in line


def test_what_the_host_decodes_counts_for_it() -> None:
    """A host that lately decoded everybody delays nobody: it is nearer than a faster link's end."""
    made = hybrid({"flat": 1e6}, peer=Copying(10, 10), host=Copying(100, 100))
    made.pace = 1.0  # type: ignore[attr-defined]
    (line,) = leaves(made)
    assert "out host" in line


@pytest.mark.parametrize(("host", "staged"), [(1.0, True), (1e6, False)])
def test_a_newcomer_goes_to_the_host_or_displaces_somebody(host: float, staged: bool) -> None:
    """HBM is full: the host takes the newcomer's prompt where its return is cheaper than the two ways of another."""
    jobs = [(0, 70, 30), (1, 30, 3)]
    log = Player(sizes(max_repeat=1), hybrid(host=Copying(host, host)), jobs).play(until=6)
    assert any("staged 1" in line for line in log) == staged, log
    assert any("out peer 0:" in line for line in log) != staged, log


def test_a_newcomer_waits_rather_than_have_somebody_computed_again() -> None:
    """No tier has room for anyone: nobody who runs gives up its memory for a newcomer."""
    limits = sizes(max_repeat=1, tiers=(("peer", 1), ("host", 1)))
    log = Player(limits, hybrid(), [(0, 70, 5), (1, 30, 3)]).play()
    assert not any(" x " in line or " out " in line for line in log), log
    first = next(line for line in log if "1[0:30]" in line)
    assert int(first.split(":")[0]) >= 5


def test_a_slice_goes_on_while_its_exchange_costs_too_much() -> None:
    """Two that do not fit together take turns; the dearer the copies, the longer the turns."""

    def turns(each: float) -> int:
        copying = Copying(each, each)
        made = hybrid(peer=copying, host=copying, slice_length=2, overhead=0.5)
        log = Player(sizes(max_repeat=1), made, [(0, 40, 38), (0, 40, 38)]).play(until=400)
        return sum(" in " in line for line in log)

    assert turns(1e-3) > turns(1.0) > 0


def test_sizes_and_options_that_cannot_be_are_refused() -> None:
    """Before anything runs, in words."""
    with pytest.raises(ValueError, match=r"overhead is 0\.0; it must be above 0"):
        hybrid(overhead=0.0)
    with pytest.raises(ValueError, match="chunked prefill"):
        Scheduler(sizes(prefill="prompt-only"), hybrid())
    with pytest.raises(ValueError, match="prefix caching"):
        Scheduler(sizes(prefix_caching=True), hybrid())


def test_a_full_host_goes_on() -> None:
    """Outputs outgrow a host that took all prompts: the newest there starts over, and most tokens are the host's."""
    limits = sizes(tiers=(("host", 150),), max_num_batched_tokens=80, max_repeat=1)
    made = hybrid({"host": 0.01, "launch": 0.0}, host=Copying(1, 1))
    load = Load([(0, 16, 60, 0, ()) for _ in range(40)])
    driver = Driver(limits, made, load).run()
    steps = [command for command in driver.commands if isinstance(command, Step)]
    hosted = [len(step.lanes.first) + len(step.lanes.second) for step in steps if step.lanes]
    assert set(driver.outcome.values()) == {"finished"}
    assert sum(hosted) > 40 * 60 / 2
    assert any(step.preempted for step in steps)
