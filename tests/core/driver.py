"""A fake executor: carries out commands in a random order of completions, and checks every invariant."""

import random
from dataclasses import dataclass, field

from aquasim.core import (
    Aborted,
    Arrived,
    Command,
    Event,
    Lanes,
    Limits,
    Reject,
    Scheduler,
    Step,
    StepDone,
    TierResized,
    Transfer,
    TransferDone,
)
from aquasim.core.policies.base import Policy
from aquasim.core.request import State

Job = tuple[int, int, int, int, tuple[int, ...]]
"""(time, prompt, output, priority, prefix)."""


@dataclass
class Load:
    """A random workload: a job per request, aborts and tier sizes by time."""

    jobs: list[Job]
    aborts: dict[int, list[int]] = field(default_factory=dict)
    resizes: dict[int, list[tuple[str, int]]] = field(default_factory=dict)


@dataclass
class Driver:
    """Runs a load in unit time steps; a step takes one unit an iteration, a transfer one to four."""

    limits: Limits
    policy: Policy
    load: Load
    seed: int = 0
    check: bool = True
    limit: int = 200_000

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits, self.policy)
        self.rng = random.Random(self.seed)
        self.records: list[tuple[int, Event | None]] = []
        self.commands: list[Command] = []
        self.decisions: list[list[Command]] = []
        self.generated: dict[int, int] = {}
        self.tokens: list[tuple[int, int, int]] = []  # (time, request, tokens so far)
        self.todo: dict[int, int] = {}
        self.outcome: dict[int, str] = {}
        self.decoding: dict[int, None] = {}
        self.moving: dict[int, int] = {}
        self.step: Step | None = None
        self.iterations = 0
        self.disturbed = False

    def run(self) -> "Driver":
        """Run to the end; fails if nothing moves any more."""
        pending = sorted(range(len(self.load.jobs)), key=lambda i: (self.load.jobs[i][0], i))
        now = 0
        last = max(self.load.resizes, default=0)
        while pending or self.todo or self.moving or self.step or now <= last + 1:
            assert now < self.limit, f"no progress: {self.scheduler.requests}"
            self._complete(now)
            while pending and self.load.jobs[pending[0]][0] <= now:
                self._arrive(now, pending.pop(0))
            for tier, blocks in self.load.resizes.get(now, ()):
                self._tell(now, TierResized(tier, blocks))
            for id in self.load.aborts.get(now, ()):
                if id in self.todo:
                    self._tell(now, Aborted(id))
                    del self.todo[id]
                    self.decoding.pop(id, None)
                    self.outcome[id] = "aborted"
            self._plan(now)
            now += 1
        return self

    def _tell(self, now: int, event: Event) -> None:
        self.records.append((now, event))
        self.scheduler.handle(now, event)
        self.disturbed = True

    def _arrive(self, now: int, id: int) -> None:
        _, prompt, output, priority, prefix = self.load.jobs[id]
        output = max(1, min(output, self.limits.max_model_len - prompt))
        self.todo[id] = output
        self.generated[id] = 0
        hint = output if self.policy.oracle else None
        self._tell(now, Arrived(id, prompt, output, priority, prefix, hint))

    def _complete(self, now: int) -> None:
        for number in [n for n, when in self.moving.items() if when <= now]:
            del self.moving[number]
            self._tell(now, TransferDone(number))
        step = self.step
        if step is None or any(number in self.moving for number in step.after):
            return
        self.iterations += 1
        finished = self._produce(now, step)
        if finished or self.disturbed or self.iterations == step.repeat:
            self.step = None
            self._tell(now, StepDone(step.step, self.iterations, tuple(finished)))

    def _produce(self, now: int, step: Step) -> list[int]:
        finished = []
        producers = [chunk.request for chunk in step.chunks if chunk.last]
        if step.lanes is not None:
            producers += step.lanes.first + step.lanes.second
        for id in [*producers, *(self.decoding if step.batch else ())]:
            if id not in self.todo:
                continue
            self.generated[id] += 1
            self.tokens.append((now, id, self.generated[id]))
            self.todo[id] -= 1
            if self.todo[id] == 0:
                del self.todo[id]
                self.decoding.pop(id, None)
                self.outcome[id] = "finished"
                finished.append(id)
        return finished

    def _plan(self, now: int) -> None:
        self.records.append((now, None))
        commands = self.scheduler.plan(now)
        self.commands += commands
        self.decisions.append(commands)
        moved = {
            kind: {m.request for c in commands if isinstance(c, Transfer) and c.kind == kind for m in c.moves}
            for kind in ("out", "in")
        }
        assert not moved["out"] & moved["in"], "one decision moves a request both ways"
        for command in commands:
            if isinstance(command, Transfer):
                assert all(number in self.moving or number < command.transfer for number in command.after)
                wait = max([self.moving.get(n, now) for n in command.after], default=now)
                self.moving[command.transfer] = wait + self.rng.randint(1, 4)
            elif isinstance(command, Reject) and command.request in self.todo:  # not aborted in this instant
                del self.todo[command.request]
                self.outcome[command.request] = "rejected"
            elif isinstance(command, Step):
                self._take(command)
        if self.check:
            self.scheduler.check()

    def _take(self, step: Step) -> None:
        assert self.step is None, "two steps out"
        self.step, self.iterations, self.disturbed = step, 0, False
        for id in step.left:
            self.decoding.pop(id, None)
        for id in step.joined:
            assert id in self.todo
            self.decoding[id] = None
        live = {id for id in self.decoding if id in self.scheduler.requests}
        assert set(self.decoding) == live
        if step.batch:
            assert step.batch == len(self.decoding)
        self._check_budget(step)
        for id in [*self.decoding, *(chunk.request for chunk in step.chunks)]:
            assert self.scheduler.requests[id].state is State.RUNNING, "runs without its blocks"
        if step.lanes is not None:
            self._check_lanes(step.lanes)
            flights = self.scheduler.pager.flights
            moving = {r.id for n, f in flights.items() if n not in step.after for r in f.requests}
            assert not moving & set(step.lanes.first + step.lanes.second), (
                "decodes on the host while it moves"
            )

    def _check_lanes(self, lanes: Lanes) -> None:
        """The host decodes those whose whole cache it has, each once; a staged prompt holds no HBM."""
        hosted = [self.scheduler.requests[id] for id in lanes.first + lanes.second]
        assert len(set(hosted)) == len(hosted)
        size = self.limits.block_size
        for request in hosted:
            assert (request.state, request.copy_tier, request.blocks) == (State.PAGED, "host", [])
            assert len(request.copy) == -(-request.total // size)
        totals = [sum(self.scheduler.requests[id].total for id in ids) for ids in (lanes.first, lanes.second)]
        assert totals == [lanes.first_tokens, lanes.second_tokens]
        for id in lanes.staged:
            assert not self.scheduler.requests[id].blocks

    def _check_budget(self, step: Step) -> None:
        limits = self.limits
        lanes = step.lanes or Lanes()
        hosted = len(lanes.first) + len(lanes.second)
        used = step.batch + hosted + sum(chunk.tokens for chunk in step.chunks)
        assert used > 0
        if self.policy.lanes is not None:
            assert step.batch + hosted + len(step.chunks) <= limits.max_num_seqs
        assert step.repeat >= 1
        assert len(self.scheduler.running) + self.scheduler.pager.arrivals <= limits.max_num_seqs
        if limits.prefill == "chunked" or self.policy.lanes is not None:
            assert used <= limits.max_num_batched_tokens
        else:
            assert not (step.batch and step.chunks)
        assert not step.chunks or step.repeat == 1
