"""Adapters in the scheduler: no more different ones than slots, nobody starves, without them nothing changes."""

import random
from itertools import pairwise

import pytest
from driver import Driver, Load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aquasim.core import POLICIES, Arrived, Limits, Scheduler, Step, StepDone, make_policy
from aquasim.core.events import Chunk
from aquasim.core.policies.base import Policy
from aquasim.core.request import State

PLAIN = sorted(name for name, policy in POLICIES.items() if policy.lanes is None)
MODES = ("chunked", "prompt-only")


class Adapted(Driver):
    """A driver whose request i needs adapter `needs[i]`, and that counts adapters after every decision."""

    def __init__(self, limits: Limits, policy: Policy, load: Load, needs: list[int], seed: int = 0) -> None:
        self.needs = needs
        self.most = 0
        super().__init__(limits, policy, load, seed)

    def _tell(self, now: int, event: object) -> None:
        if isinstance(event, Arrived):
            event = event._replace(adapter=self.needs[event.request])
        super()._tell(now, event)  # type: ignore[arg-type]

    def _plan(self, now: int) -> None:
        super()._plan(now)
        s = self.scheduler
        holding = [r for r in s.requests.values() if r.state in (State.RUNNING, State.ARRIVING)]
        used = {r.adapter for r in holding} - {-1}
        self.most = max(self.most, len(used))
        if s.limits.max_loras:
            assert len(used) <= s.limits.max_loras, used


def random_case(seed: int, mode: str, max_loras: int) -> tuple[Limits, Load, list[int]]:
    """A small engine, with or without tiers, and a load in which some requests need adapters."""
    rng = random.Random(seed)
    blocks = rng.randint(6, 30)
    tiers = (("host", blocks * 10),) if rng.random() < 0.6 else ()
    limits = Limits(
        blocks=blocks,
        block_size=4,
        max_num_seqs=rng.choice([2, 8, 64]),
        max_num_batched_tokens=rng.choice([8, 64]),
        prefill=mode,  # type: ignore[arg-type]
        tiers=tiers,
        max_repeat=rng.choice([1, 1 << 30]),
        max_loras=max_loras,
    )
    room = blocks * 4
    jobs = [
        (rng.randint(0, 60), rng.randint(1, room // rng.choice([2, 4, 8])), rng.randint(1, room // 2), 0, ())
        for _ in range(rng.randint(1, 25))
    ]
    aborts = {rng.randint(0, 100): [rng.randrange(len(jobs))] for _ in range(rng.randint(0, 3))}
    return limits, Load(jobs, aborts), [rng.randint(-1, 5) for _ in jobs]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), slots=st.integers(1, 3))
def test_never_more_adapters_than_slots_and_everyone_ends(
    name: str, mode: str, seed: int, slots: int
) -> None:
    """Under every policy, resident requests need at most `max_loras` adapters, and every request has its end."""
    limits, load, needs = random_case(seed, mode, slots)
    driver = Adapted(limits, make_policy(name), load, needs, seed).run()
    assert set(driver.outcome) == set(range(len(load.jobs)))
    assert driver.scheduler.pool.free == limits.blocks
    assert not driver.scheduler.requests


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_without_adapters_decisions_are_the_same(name: str, mode: str, seed: int) -> None:
    """A limit that no request touches, and adapters that no limit concerns, change no command."""
    limits, load, needs = random_case(seed, mode, 0)
    plain = Driver(limits, make_policy(name), load, seed).run().commands
    limited, _, _ = random_case(seed, mode, 1)
    none = [-1] * len(needs)
    assert Adapted(limited, make_policy(name), load, none, seed).run().commands == plain
    assert Adapted(limits, make_policy(name), load, needs, seed).run().commands == plain


def started(s: Scheduler, now: int = 0) -> list[int]:
    """Plan, and return who starts."""
    return [c.request for command in s.plan(now) if isinstance(command, Step) for c in command.chunks]


@pytest.mark.parametrize("mode", MODES)
def test_a_request_without_a_slot_is_passed_over_and_keeps_its_place(mode: str) -> None:
    """With one slot, those of the running adapter and those without any start past one of another adapter.

    When the slot comes free, the oldest waiting one has it.
    """
    limits = Limits(blocks=100, max_loras=1, prefill=mode)  # type: ignore[arg-type]
    s = Scheduler(limits, make_policy("fcfs"))
    for id, adapter in enumerate((7, 8, 7, -1, 9, 8)):
        s.handle(0, Arrived(id, 8, 4, adapter=adapter))
    assert started(s) == [0, 2, 3]
    assert [r.id for r in s.waiting] == [1, 4, 5]
    s.handle(1, StepDone(0, 1, (0, 2)))
    assert started(s, 1) == [1, 5]
    assert [r.id for r in s.waiting] == [4]


def test_the_order_of_those_passed_over_stays() -> None:
    """Passing over again and again does not reverse or mix the queue."""
    s = Scheduler(Limits(blocks=1000, max_loras=1, max_num_batched_tokens=64), make_policy("fcfs"))
    for id in range(20):
        s.handle(0, Arrived(id, 8, 8, adapter=id % 4))
    seen = []
    for step in range(6):
        s.plan(step)
        seen.append([r.id for r in s.waiting])
        s.handle(step, StepDone(step, 1))
    assert all(order == sorted(order) for order in seen)
    assert all(set(after) <= set(before) for before, after in pairwise(seen))


def test_an_adapter_comes_with_its_request() -> None:
    """The event's last field says which, none by default; a limit below 0 is an error."""
    assert Arrived(0, 1, 1) == Arrived(0, 1, 1, 0, (), None, -1)
    s = Scheduler(Limits(blocks=10), make_policy("fcfs"))
    s.handle(0, Arrived(3, 4, 2, adapter=5))
    step = s.plan(0)[0]
    assert isinstance(step, Step)
    assert step.chunks == (Chunk(3, 0, 4, True),)
    assert s.requests[3].adapter == 5
    with pytest.raises(ValueError, match="max_loras is -1"):
        Limits(blocks=1, max_loras=-1)
