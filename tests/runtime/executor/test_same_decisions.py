"""One decision maker: with a virtual clock, the executor commands what the simulator commands."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import predictor

from aquasim.core import POLICIES, Command, Lanes, Limits, Scheduler, Transfer, make_policy, replay
from aquasim.core.policies.base import Policy
from aquasim.core.predictor import Copying
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.runtime.executor import Executor
from aquasim.runtime.pager import Landed
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine

Job = tuple[int, int, int, int]
"""(arrival in ns, prompt, output, priority)."""


LANED = sorted(name for name, policy in POLICIES.items() if policy.lanes is not None)


def policy_of(name: str) -> Policy:
    """Return a policy, with tables where it has lanes."""
    made = make_policy(name)
    if made.lanes is not None:
        copies = {"peer": Copying(5.0, 5.0), "host": Copying(10.0, 10.0)}
        made.predictor = predictor(host=0.1, launch=0.0, copies=copies)
    return made


def step_ns(chunks: int, batch: int, context: int) -> int:
    """Return a step's time, by its tokens: never the same as a transfer's or an arrival's."""
    return 1000 + 7 * chunks + 13 * batch + context % 5


def transfer_ns(blocks: int) -> int:
    """Return a transfer's time."""
    return 503 + 101 * blocks


class Costs:
    """Times of steps as the simulator asks for them."""

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """One iteration at a time."""
        return step_ns(0, batch, context), 0, 1

    def step(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> int:
        """Chunks and decodes together."""
        return step_ns(sum(count for count, _ in chunks), batch, context)

    def timed(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> tuple[int, float]:
        """Not bound by compute."""
        return self.step(chunks, batch, context), 0.0


class LaneCosts:
    """Times of steps with lanes: the host's decodes count as others do."""

    def timed(
        self, chunks: Sequence[tuple[int, int]], batch: int, context: int, lanes: Lanes
    ) -> tuple[int, float]:
        """All together, and not bound by compute."""
        hosted = len(lanes.first) + len(lanes.second)
        return step_ns(sum(count for count, _ in chunks), batch + hosted, context), 0.0


class Carrier:
    """Transfers of the simulator: a constant time per block, any number at once."""

    def __init__(self, env: Clock) -> None:
        self.env = env

    def carry(self, transfer: Transfer, done: Callable[[], None]) -> None:
        """Land after the time of its blocks."""
        self.env.at(self.env.ns + transfer_ns(transfer.blocks), lambda _: done())

    def contended(self) -> bool:
        """Never."""
        return False

    def stretch(self, nanoseconds: int, batch: int, context: int, tokens: int) -> int:
        """Not at all."""
        return nanoseconds

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""


@dataclass
class Virtual:
    """The executor's clock, and a pager that keeps to it."""

    ns: int = 0
    step_end: int = -1
    tokens: dict[int, int] = field(default_factory=dict)
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)

    def now(self) -> int:
        """Return the time."""
        return self.ns

    def done(self) -> bool:
        """Whether the step's time has passed."""
        return self.ns >= self.step_end

    def result(self) -> dict[int, int]:
        """Return the step's tokens."""
        self.step_end = -1
        return self.tokens

    def compute(self, step: Callable[[], dict[int, int]]) -> "Virtual":
        """Compute at once, and be done when the step's time has passed."""
        self.tokens = step()
        return self

    def start(self, transfer: Transfer, pages: Any) -> None:
        """Begin a transfer; its pages are as many as its moves say."""
        assert [len(source) for source, _ in pages] == [move.blocks for move in transfer.moves]
        self.ends[transfer.transfer] = (self.ns, self.ns + transfer_ns(transfer.blocks))

    def written(self, tier: str, numbers: list[int]) -> None:
        """No page is weighed here."""

    def landed(self) -> list[Landed]:
        """Return what has ended by now, in order of its end."""
        done = sorted((end, n) for n, (_, end) in self.ends.items() if end <= self.ns)
        return [Landed(n, self.ends.pop(n)[0], end, 0) for end, n in done]


class Rows:
    """A decode batch that keeps no tokens."""

    block_size = 4

    def __init__(self) -> None:
        self.tables: dict[int, list[int]] = {}
        self.at: dict[int, int] = {}

    @property
    def count(self) -> int:
        """Sequences in it."""
        return len(self.at)

    @property
    def ids(self) -> list[int]:
        """Whose each row is."""
        return list(self.at)

    @property
    def positions(self) -> Any:
        """As the real one's."""
        return type("Column", (), {"host": np.array(list(self.at.values()), np.int64)})

    def join(self, id: int, token: int, position: int, blocks: list[int]) -> None:
        """Add a sequence, with the blocks it needs so far."""
        assert id not in self.at
        self.tables[id], self.at[id] = list(blocks), position

    def leave(self, id: int) -> None:
        """Take a sequence out."""
        del self.at[id], self.tables[id]

    def grow(self, id: int, block: int) -> None:
        """Append a block."""
        self.tables[id].append(block)

    def blocks(self, id: int) -> list[int]:
        """Return a sequence's blocks."""
        return self.tables[id]


class FakeRunner:
    """Says how long a step takes; each token is 0. Insists on a block for every position."""

    def __init__(self, virtual: Virtual) -> None:
        self.batch = Rows()
        self.host = "here"
        self._virtual = virtual

    def step(self, chunks: list[Any], decode: bool, sides: Any = ((), ())) -> dict[int, int]:
        """Give everybody a token, once the step's time has passed."""
        hosted = [*sides[0], *sides[1]]
        assert all(each.position < len(each.blocks) * 4 for each in hosted), "no block on the host"
        rows = dict(self.batch.at) if decode else {}
        for id, position in rows.items():
            assert position < len(self.batch.tables[id]) * 4, f"request {id} has no block for {position}"
            self.batch.at[id] += 1
        context = sum(rows.values())
        new = sum(len(chunk.tokens) for chunk in chunks)
        self._virtual.step_end = self._virtual.ns + step_ns(new, len(rows) + len(hosted), context)
        tokens = dict.fromkeys([*rows, *(each.id for each in hosted)], 0)
        return tokens | {chunk.id: 0 for chunk in chunks if chunk.samples}


Played = tuple[list[Command], list[tuple[int, ...]]]
"""Commands, and the spans that were recorded."""


def spans(tables: RunTables) -> list[tuple[int, ...]]:
    """Return (request, first step, last step, lane) in order."""
    found = Run([("one", tables)], {}).columns("spans")
    columns = (found[name].tolist() for name in ("request", "first_step", "last_step", "lane"))
    return sorted(zip(*columns, strict=True))


def simulated(limits: Limits, policy: str, jobs: list[Job]) -> Played:
    """Return what the simulator commands."""
    env = Clock()
    tables = RunTables()
    scheduler = Scheduler(limits, policy_of(policy))
    engine = Engine(env, scheduler, Costs(), tables, Carrier(env), record_events=True, lane_time=LaneCosts())
    for id, (arrival, prompt, output, priority) in enumerate(jobs):
        env.at(arrival, lambda _, a=(id, prompt, output, priority, ()): engine.submit(*a))  # type: ignore[misc]
    env.play()
    assert not engine.live
    assert engine.log is not None
    return replay(limits, policy_of(policy), engine.log), spans(tables)


def executed(limits: Limits, policy: str, jobs: list[Job]) -> Played:
    """Return what the executor commands, time passing where nothing else can."""
    virtual = Virtual()
    worker = type("Worker", (), {"start": staticmethod(virtual.compute)})()
    scheduler = Scheduler(limits, policy_of(policy))
    runner: Any = FakeRunner(virtual)
    pager: Any = virtual
    executor = Executor(scheduler, runner, pager, now=virtual.now, worker=worker, record_events=True)
    waiting = list(enumerate(jobs))

    def feed(now: int) -> None:
        while waiting and waiting[0][1][0] <= now:
            id, (arrival, prompt, output, priority) = waiting.pop(0)
            executor.submit(id, [0] * prompt, output, priority=priority, arrival=arrival)

    executor.feed = feed
    while waiting or executor.busy:
        if not executor.turn():
            times = [end for _, end in virtual.ends.values()] + [job[0] for _, job in waiting[:1]]
            times += [virtual.step_end] if virtual.step_end >= 0 else []
            assert times, "nothing can happen any more"
            virtual.ns = max(virtual.ns, min(times))
    assert executor.log is not None
    return replay(limits, policy_of(policy), executor.log), spans(executor.tables)


def workload(seed: int, laned: bool) -> tuple[Limits, list[Job]]:
    """Return a small engine and requests that do not arrive together with anything else."""
    rng = random.Random(seed)
    blocks = rng.randint(8, 30)
    tiers: list[Any] = [(), (("host", 300),), (("peer", blocks), ("host", 40))]
    limits = Limits(
        blocks=blocks,
        block_size=4,
        max_num_seqs=24 if laned else rng.choice([3, 8]),
        max_num_batched_tokens=blocks * 4 if laned else rng.choice([8, 32]),
        prefill="chunked" if laned else rng.choice(["chunked", "prompt-only"]),
        tiers=(("host", rng.choice([blocks, 300])),) if laned else rng.choice(tiers),
        max_repeat=1,
    )
    room = blocks * 4
    times = sorted(rng.sample(range(40_000), rng.randint(1, 14)))
    jobs = [(t, rng.randint(1, room // 2), rng.randint(1, room // 3), rng.randint(0, 2)) for t in times]
    return limits, jobs


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_executor_and_simulator_command_the_same(policy: str, seed: int) -> None:
    """Random engines and loads under every policy: the same commands in the same order, and the same spans."""
    limits, jobs = workload(seed, policy in LANED)
    assert executed(limits, policy, jobs) == simulated(limits, policy, jobs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_the_same_with_a_peer_and_lanes(seed: int) -> None:
    """The same under `hybrid` where memory is at a peer and on the host, and prompts come in chunks."""
    limits, jobs = workload(seed, laned=False)
    limits = replace(limits, prefill="chunked", tiers=(("peer", limits.blocks), ("host", 300)))
    assert executed(limits, "hybrid", jobs) == simulated(limits, "hybrid", jobs)


@pytest.mark.parametrize("policy", ["neo", "fastdecode", "hybrid"])
def test_the_loads_of_this_test_decode_on_the_host(policy: str) -> None:
    """Without that, lanes that agree would say little."""
    lanes = [lane for seed in range(8) for *_, lane in executed(*_laned(seed, policy))[1]]
    assert lanes.count(1) > 8


def _laned(seed: int, policy: str) -> tuple[Limits, str, list[Job]]:
    limits, jobs = workload(seed, True)
    return limits, policy, jobs
