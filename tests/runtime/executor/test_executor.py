"""The executor on a real model: tokens never change, whatever the policy, the tier and the slice."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aquasim.core import POLICIES, Limits, Scheduler, Transfer, make_policy, replay
from aquasim.runtime.arenas import Arena, create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, random_weights
from aquasim.runtime.executor import Executor
from aquasim.runtime.pager import Pager, Window

torch = pytest.importorskip("torch")

PLAIN = sorted(name for name, policy in POLICIES.items() if policy.lanes is None)
CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=64, max_positions=256
)
SIZE = 4
WEIGHTS = random_weights(CONFIG, seed=3)
PADDED = 32


class Stage:
    """A tiny model, a cache of few blocks, a tier in shared memory, and an executor over them."""

    def __init__(
        self, policy: str, blocks: int = 12, tier: int = 200, check: str = "always", **options: object
    ) -> None:
        self.limits = Limits(
            blocks=blocks,
            block_size=SIZE,
            max_num_seqs=8,
            max_num_batched_tokens=PADDED,
            tiers=(("host", tier),) if tier else (),
            max_repeat=1,
        )
        pool = KvPool.of(CONFIG, blocks, SIZE, fill=float("nan"))
        self.runner = Runner(CONFIG, WEIGHTS, pool, padded=PADDED, max_seqs=8)
        self.copier = HostCopier()
        self.pager = Pager(self.copier, Window(pool.base, pool.block_bytes), check)  # type: ignore[arg-type]
        self.arena: Arena | None = None
        if tier:
            self.arena = create("memfd", tier * pool.block_bytes)
            slots = self.pager.tier("host")
            slots.add("arena", self.arena.ptr, tier * pool.block_bytes)
            slots.grow(tier)
        self.time = 0
        self.scheduler = Scheduler(self.limits, make_policy(policy, **options))
        self.executor = Executor(self.scheduler, self.runner, self.pager, now=self.tick, record_events=True)
        self.output: dict[int, list[int]] = {}

    def tick(self) -> int:
        """Return a virtual time that passes with each look."""
        self.time += 1000
        return self.time

    def submit(self, id: int, prompt: list[int], count: int) -> None:
        """Send a request; its tokens are kept."""
        self.output[id] = []
        self.executor.submit(
            id, prompt, count, on_token=lambda id, token, last: self.output[id].append(token)
        )

    def close(self) -> None:
        """Free what is not memory of this process."""
        self.copier.close()
        if self.arena is not None:
            self.arena.close()


def prompts(seed: int, count: int, most: int = 14) -> list[tuple[list[int], int]]:
    """Return random prompts and output lengths."""
    rng = random.Random(seed)
    return [
        ([rng.randrange(97) for _ in range(rng.randint(2, most))], rng.randint(3, 14)) for _ in range(count)
    ]


def alone(prompt: list[int], count: int) -> list[int]:
    """Return what a request generates by itself, never interrupted."""
    stage = Stage("fcfs", blocks=12, tier=0)
    stage.submit(0, prompt, count)
    stage.executor.run()
    stage.close()
    return stage.output[0]


@pytest.fixture(scope="module")
def reference() -> dict[tuple[int, int], list[list[int]]]:
    """Remember what requests generate alone, by (seed, count)."""
    return {}


def expected(reference: dict[tuple[int, int], list[list[int]]], seed: int, count: int) -> list[list[int]]:
    """Return what each request of a seed generates alone."""
    if (seed, count) not in reference:
        reference[seed, count] = [alone(*job) for job in prompts(seed, count)]
    return reference[seed, count]


@pytest.mark.parametrize("policy", PLAIN)
@pytest.mark.parametrize("tier", [200, 6, 0])
def test_tokens_never_change(
    policy: str, tier: int, reference: dict[tuple[int, int], list[list[int]]]
) -> None:
    """Every policy, with room to page, with little, and with none: each request's tokens are those it has alone.

    Arrivals come in three waves, so that newcomers displace; where slices page, bytes really moved.
    """
    stage = Stage(policy, tier=tier)
    jobs = prompts(5, 9)
    for wave in range(3):
        for id in range(3 * wave, 3 * wave + 3):
            stage.submit(id, *jobs[id])
        for _ in range(6):
            stage.executor.turn()
    stage.executor.run()
    assert [stage.output[id] for id in range(9)] == expected(reference, 5, 9)
    stage.scheduler.check()
    assert stage.scheduler.pool.free == stage.limits.blocks
    if policy in ("cfs", "aqua") and tier == 200:
        assert stage.pager.moved_bytes > 0
        assert any(isinstance(c, Transfer) and c.kind == "in" for c in commands(stage))
    assert stage.executor.repaired == 0
    stage.close()


def commands(stage: Stage) -> list[object]:
    """Return every command, by replaying the events through a fresh scheduler."""
    assert stage.executor.log is not None
    return list(replay(stage.limits, type(stage.scheduler.policy)(), stage.executor.log))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    length=st.sampled_from([1, 2, 5]),
    overlap=st.booleans(),
    blocks=st.sampled_from([8, 10, 16]),
)
def test_slices_of_any_length_serial_or_overlapped(
    seed: int, length: int, overlap: bool, blocks: int
) -> None:
    """Any slice, any cache, transfers before or beside compute: tokens as alone, all memory back."""
    stage = Stage("cfs", blocks=blocks, slice_length=length, overlap=overlap)
    jobs = prompts(seed, 5, 10)
    for id, job in enumerate(jobs):
        stage.submit(id, *job)
        stage.executor.turn()
    stage.executor.run()
    assert [stage.output[id] for id in range(5)] == [alone(*job) for job in jobs]
    assert stage.scheduler.pool.free == blocks
    assert stage.scheduler.pager.tiers["host"].held == 0
    stage.close()


@pytest.fixture
def paging() -> Iterator[Stage]:
    """Give a stage whose requests page much."""
    stage = Stage("cfs", blocks=8, slice_length=2)
    for id, job in enumerate(prompts(11, 4, 10)):
        stage.submit(id, *job)
    yield stage
    stage.close()


def spoil(stage: Stage) -> None:
    """Run to the end, and wipe what lies in the tier now and then, while nothing is on its way."""
    assert stage.arena is not None
    steps = 0
    while stage.executor.busy:
        steps += stage.executor.turn()
        if steps % 3 == 2 and not stage.pager.busy:
            stage.arena.scrub()


def test_a_flipped_byte_is_found_and_computed_again(paging: Stage) -> None:
    """Pages in the tier are spoilt: checksums tell, the cache is computed again, tokens are the same."""
    spoil(paging)
    assert paging.executor.repaired > 0
    assert [paging.output[id] for id in range(4)] == [alone(*job) for job in prompts(11, 4, 10)]


def test_a_spoilt_page_that_nobody_checks_changes_the_output() -> None:
    """Without checksums the same damage shows in tokens: paged bytes are really read."""
    stage = Stage("cfs", blocks=8, slice_length=2, check="off")
    jobs = prompts(11, 4, 10)
    for id, job in enumerate(jobs):
        stage.submit(id, *job)
    spoil(stage)
    assert [stage.output[id] for id in range(4)] != [alone(*job) for job in jobs]
    stage.close()


def test_aborted_requests_leave_and_the_others_go_on(paging: Stage) -> None:
    """An abort in the middle frees what it held; the tables say so; everybody else has the tokens it has alone."""
    for _ in range(9):
        paging.executor.turn()
    paging.executor.abort(1)
    paging.executor.run()
    jobs = prompts(11, 4, 10)
    assert [paging.output[id] for id in (0, 2, 3)] == [alone(*jobs[id]) for id in (0, 2, 3)]
    assert paging.scheduler.pool.free == 8
    assert paging.runner.batch.count == 0


def test_stop_tokens_end_a_request_early() -> None:
    """The first stop token is the last one; blocks come back."""
    (prompt, _), *_ = prompts(2, 1)
    whole = alone(prompt, 14)
    stage = Stage("fcfs", tier=0)
    stage.executor.submit(0, prompt, 14, stop=[whole[4]])
    sequence = stage.executor.sequences[0]
    stage.executor.run()
    assert sequence.generated == whole[: whole.index(whole[4]) + 1]
    assert stage.scheduler.pool.free == 12
    stage.close()
