"""Runs whose truth is known: of a toy scheduler that does anything allowed, and of the real engine."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from aquasim.core import Limits, Scheduler, Step, Transfer, make_policy
from aquasim.records.run import Run
from aquasim.records.tables import Outcome, RunTables, Timed
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine

Made = Callable[..., "Truth"]
"""From a seed or a policy, and options, to a run."""
MS = 1_000_000


@dataclass
class Truth:
    """A run, and what its tables must be read as."""

    run: Run = field(init=False)
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When each request's tokens came."""
    recomputed: int = 0

    def gaps(self) -> list[int]:
        """Every inter-token gap, one by one."""
        return [b - a for times in self.tokens.values() for a, b in pairwise(times)]


@dataclass
class _ToyRequest:
    id: int
    prompt: int
    output: int
    arrival: int
    cached: int
    computed: int = 0
    furthest: int = 0
    admitted: int = -1
    joined: int = -1
    """First step of the span under way."""
    tokens: list[int] = field(default_factory=list)
    todo: int = 0
    first_token: int = -1

    @property
    def total(self) -> int:
        return self.prompt + len(self.tokens)

    @property
    def ready(self) -> bool:
        """Whether it can decode: all but its newest token are computed."""
        return bool(self.tokens) and self.computed == self.total - 1


class Toy:
    """Schedules at random: chunks beside decodes or alone, joins and leaves, recompute, paging, aborts."""

    def __init__(self, seed: int, count: int = 12, aborts: bool = True) -> None:
        self.rng = rng = random.Random(seed)
        self.aborts = aborts
        self.tables = RunTables()
        self.tables.tiers += ["peer"]
        self.live: dict[int, _ToyRequest] = {}
        for id in rng.sample(range(3 * count), count):
            prompt = rng.randint(1, 9)
            cached = rng.randint(0, prompt - 1) if rng.random() < 0.3 else 0
            self.live[id] = _ToyRequest(
                id, prompt, rng.randint(1, 12), rng.randint(0, 3), cached, cached, cached
            )
        self.now, self.step = 3, 0
        self.truth = Truth()

    def play(self) -> Truth:
        """Run to the end."""
        while self.live:
            self.turn()
        self.truth.run = Run([("gpu0", self.tables)], {"blocks": 100, "block_bytes": 1024})
        return self.truth

    def turn(self) -> None:
        """Let time go on, and some decode, leave or compute chunks."""
        rng = self.rng
        self.now += rng.choice((0, 0, 0, 50))
        for request in [r for r in self.live.values() if r.joined >= 0]:
            if rng.random() < 0.1:
                self.leave(request)
        for request in self.live.values():
            if request.ready and request.joined < 0 and rng.random() < 0.6:
                request.joined = self.step
        behind = [r for r in self.live.values() if r.computed < r.total and not r.ready]
        chunks = [(r, rng.randint(1, r.total - r.computed)) for r in behind if rng.random() < 0.4]
        batch = [r for r in self.live.values() if r.joined >= 0]
        paused = bool(chunks) and rng.random() < 0.3
        if batch or chunks:
            self.run_step(chunks, [] if paused else batch)

    def leave(self, request: _ToyRequest) -> None:
        """Take a request from the batch: it waits, loses tokens or is paged."""
        self.tables.span(request.id, request.joined, self.step - 1)
        self.tables.preempted(self.now, request.id)
        request.joined = -1
        kind = self.rng.choice(("park", "recompute", "page"))
        if kind == "recompute":
            request.computed = self.rng.randint(0, request.computed)
        elif kind == "page":
            transfer = len(self.tables.rows["moves"]) // 24
            self.tables.add("moves", transfer, request.id, 2)
            self.tables.add("transfers", transfer, self.now, self.now + 20, 0, 0, 2, 1)
            self.now += 20

    def run_step(self, chunks: list[tuple[_ToyRequest, int]], batch: list[_ToyRequest]) -> None:
        """Run some iterations; requests may be aborted meanwhile."""
        rng = self.rng
        most = min([r.output - len(r.tokens) for r in batch], default=1)
        n = 1 if chunks else rng.randint(1, most)
        first, growth = rng.randint(5, 9), rng.choice((0, 0, 1, 3))
        ends = [self.now + (j + 1) * first + growth * (j * (j + 1) // 2) for j in range(n)]
        gone = [r for r in self.live.values() if self.aborts and rng.random() < 0.02]
        for request in gone:
            self.end(request, Outcome.ABORTED, rng.randint(self.now, ends[-1] - 1), self.step)
        for request, count in chunks:
            self.chunk(request, count, ends[-1], request in gone)
        sizes = len(batch), sum(r.computed for r in batch), sum(count for _, count in chunks), len(chunks)
        state = 100 - len(self.live), 0, 0
        self.tables.add("steps", self.step, self.now, first, growth, n, *sizes, *state)
        for request in batch:
            if request not in gone:
                request.tokens += ends
                request.computed += n
                request.furthest = max(request.furthest, request.computed)
        self.now = ends[-1]
        for request in [r for r in self.live.values() if len(r.tokens) == r.output]:
            self.end(request, Outcome.FINISHED, self.now, self.step)
        self.step += 1
        for request in [r for r in self.live.values() if self.aborts and rng.random() < 0.01]:
            self.end(request, Outcome.ABORTED, self.now, -1)

    def chunk(self, request: _ToyRequest, count: int, end: int, gone: bool) -> None:
        """Compute a part of a prompt."""
        self.tables.add("chunks", self.step, request.id, request.computed, count)
        if request.admitted < 0:
            request.admitted = self.now
        if gone:
            return
        again = min(request.computed + count, request.furthest) - request.computed
        self.truth.recomputed += max(0, again)
        request.computed += count
        request.furthest = max(request.furthest, request.computed)
        if request.computed == request.total:
            request.tokens.append(end)

    def end(self, request: _ToyRequest, outcome: Outcome, now: int, last: int) -> None:
        """Take a request out, whose last step was `last`."""
        if request.joined >= 0:
            self.tables.span(request.id, request.joined, last)
        request.todo = request.output - len(request.tokens)
        request.first_token = request.tokens[0] if request.tokens else -1
        del self.live[request.id]
        self.truth.tokens[request.id] = request.tokens
        self.tables.request(request.id, request, now, outcome, "")


class _Watched(RunTables):
    """Tables that note every token as the commands say, without looking at spans or at what they store."""

    def __init__(self) -> None:
        super().__init__()
        self.truth = Truth()
        self.batch: set[int] = set()

    def step(self, step: Step, start: int, a: int, b: int, iterations: int, s: Scheduler) -> None:
        super().step(step, start, a, b, iterations, s)
        self.batch -= set(step.left)
        self.batch |= set(step.joined)
        ends = [start + (j + 1) * a + b * (j * (j + 1) // 2) for j in range(iterations)]
        for id in self.batch if step.batch else ():
            self.truth.tokens[id] += ends
        for chunk in step.chunks:
            if chunk.last:
                self.truth.tokens[chunk.request].append(ends[-1])

    def request(self, id: int, live: Timed, now: int, outcome: Outcome, reason: str) -> None:
        super().request(id, live, now, outcome, reason)
        self.batch.discard(id)


class _FixedCost:
    """A cost with growth, so that iterations of a step differ."""

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        return 8 * MS + batch * 2000 + context, batch, 1000

    def step(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> int:
        return 9 * MS + 10_000 * sum(new for new, _ in chunks) + batch * 2000

    def timed(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> tuple[int, float]:
        return self.step(chunks, batch, context), 0.0


class _FixedCarrier:
    """Every transfer takes 3 ms, whatever else moves."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def carry(self, transfer: Transfer, done: Callable[[], None]) -> None:
        self.clock.at(self.clock.ns + 3 * MS, lambda _: done())

    def contended(self) -> bool:
        return False

    def stretch(self, nanoseconds: int, batch: int, context: int, tokens: int) -> int:
        return nanoseconds

    def watch(self, changed: Callable[[], None]) -> None:
        pass


def simulate(
    policy: str, count: int = 60, blocks: int = 60, tiers: tuple[tuple[str, int], ...] = (),
    prefill: Literal["chunked", "prompt-only"] = "chunked", seed: int = 1, reject: bool = False, **options: Any,
) -> Truth:  # fmt: skip
    """Simulate with the real scheduler and engine."""
    rng = random.Random(seed)
    clock, tables = Clock(), _Watched()
    limits = Limits(blocks=blocks, max_num_seqs=16, max_num_batched_tokens=256, tiers=tiers, prefill=prefill)
    scheduler = Scheduler(limits, make_policy(policy, **options))
    engine = Engine(clock, scheduler, _FixedCost(), tables, _FixedCarrier(clock) if tiers else None)
    for id in range(count):
        given = id, rng.randint(5, 300), rng.randint(1, 120), 0, ()
        clock.at(rng.randint(0, 2000) * MS, lambda _, given=given: engine.submit(*given))  # type: ignore[misc]
    if reject:
        clock.at(5 * MS, lambda _: engine.submit(count, 10**6, 5, 0, ()))
    clock.play()
    assert not engine.live
    truth = tables.truth
    truth.run = Run([("gpu0", tables)], {"blocks": blocks, "block_bytes": 4096}, name=policy)
    return truth
