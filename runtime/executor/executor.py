"""One engine in real time: carries out a scheduler's commands on a runner and a pager, and reports back."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from aquasim.core import Command, Event, Reject, Released, Scheduler, Step, Transfer, events
from aquasim.core.replay import Record
from aquasim.records.tables import Outcome, RunTables
from aquasim.runtime.executor.adapters import Adapters
from aquasim.runtime.executor.rows import Rows
from aquasim.runtime.executor.sequence import OnToken, Sequence
from aquasim.runtime.executor.transfers import Transfers
from aquasim.runtime.executor.worker import Inline, Pending, Worker
from aquasim.runtime.pager import Landed, Pager

if TYPE_CHECKING:
    from aquasim.runtime.engine import Runner
    from aquasim.runtime.lora import LoraCache

IDLE_S = 50e-6
"""Between two looks at transfers that a step waits for."""


class Executor:
    """Drives one scheduler. `turn` does what can be done now and never waits; one thread may call it.

    Steps run on `worker`, so that transfers land and start meanwhile; without one, within `turn`. The scheduler
    plans single iterations (`Limits.max_repeat` 1). `now` is a clock in ns; a virtual one gives the
    same commands as any other executor that feeds the same events.

    Parts: `transfers` (which may start, which have landed), `rows` (steps as the runner's batch and chunks).
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: "Runner",
        pager: Pager | None = None,
        *,
        now: Callable[[], int] = time.monotonic_ns,
        worker: Worker | None = None,
        record_events: bool = False,
    ) -> None:
        assert scheduler.limits.max_repeat == 1, "a real executor runs iterations one by one"
        self.scheduler = scheduler
        self.runner = runner
        self.pager = pager
        self.now = now
        self.sequences: dict[int, Sequence] = {}
        self.tables = RunTables()
        self.adapters = Adapters()
        self.transfers = Transfers(scheduler, pager)
        self.rows = Rows(scheduler, runner, self.sequences, self.tables, self._options, pager)
        self.log: list[Record] | None = [] if record_events else None
        self.commands: list[Command] = []
        """What was decided, if events are recorded."""
        self.feed: Callable[[int], None] | None = None
        """Called with the time before each decision and at the end of a step, to submit what has arrived by then."""
        self.upkeep: Callable[[], bool] | None = None
        """Called at the beginning of each turn: what a leased tier has to do; says whether it did anything."""
        self.boundary: Callable[[], object] | None = None
        """Called between two steps, just before one begins: blocks may be moved within the pool."""
        self.on_gone: Callable[[int, Outcome], None] | None = None
        self.on_released: Callable[[str, int], None] | None = None
        self.follow: Callable[..., None] | None = None
        """Told of everything that changes the engine's state, before it does: (what, ns, ...), for other ranks."""
        self.repaired = 0
        """Pages that came back spoilt and were computed again, by request."""
        self._worker = worker or Inline()
        self._step: Step | None = None
        self._running: Pending | None = None  # the step that is out, while it is computed
        self._start = 0
        self._repairs: list[int] = []
        self._wake: int | None = None
        self._stale = False  # something happened since the last decision
        self._aborts: list[int] = []
        self._number = -1  # the last step that ran
        scheduler.pager.track = pager is not None

    # --- from outside ----------------------------------------------------------------------------------------

    def submit(
        self, id: int, prompt: Iterable[int], max_tokens: int, *, sampling: Any = None, stop: Iterable[int] = (),
        priority: int = 0, prefix: tuple[int, ...] = (), arrival: int | None = None,
        on_token: OnToken | None = None, adapter: str | None = None,
    ) -> None:  # fmt: skip
        """A request arrives now (or did at `arrival`, ns). Output beyond `max_model_len` is cut, as servers do.

        Raises UserError for an adapter that is none.
        """
        number = self.adapters.number(adapter)
        tokens, stops, now = list(prompt), frozenset(stop), self.now()
        arrival = now if arrival is None else arrival
        words = {"sampling": sampling, "stop": stops, "priority": priority, "prefix": prefix}
        self._note("submit", now, id, tokens, max_tokens, words | {"arrival": arrival})
        output = min(max_tokens, max(1, self.scheduler.limits.max_model_len - len(tokens)))
        self.sequences[id] = Sequence(
            id, tokens, len(tokens), output, arrival, sampling, stops, on_token, number
        )
        hint = max_tokens if self.scheduler.policy.oracle else None
        if number >= 0:  # keys and values are the adapter's: nobody else may find them
            prefix = tuple(hash((number, part)) for part in prefix)
        arrived = events.Arrived(id, len(tokens), output, priority, prefix, hint, number)
        if not self.adapters.hold(arrived):
            self._tell(arrived, now)  # told in the order of events

    def abort(self, id: int) -> None:
        """The client of a request gave up. If a step waits that it is part of, it leaves after that."""
        if id not in self.sequences or id in self._aborts:
            return
        now = self.now()
        self._note("abort", now, id)
        self.sequences[id].on_token = None
        if self.adapters.drop(id):
            self._gone(id, Outcome.ABORTED)
            return
        self._tell(events.Aborted(id), now)
        if self._step is None:
            self._gone(id, Outcome.ABORTED)
        else:
            self._aborts.append(id)

    def resize_tier(self, tier: str, blocks: int) -> None:
        """A tier now has so many blocks; a shrink is answered through `on_released`."""
        now = self.now()
        self._note("resize_tier", now, tier, blocks)
        self._tell(events.TierResized(tier, blocks), now)

    @property
    def loras(self) -> "LoraCache | None":
        """Brings adapters to the runner's slots; requests arrive at the scheduler once theirs is there."""
        return self.adapters.loras

    @loras.setter
    def loras(self, loras: "LoraCache | None") -> None:
        self.adapters.loras = loras

    @property
    def busy(self) -> bool:
        """Whether any request is here or any page on its way."""
        return bool(self.sequences or self.transfers.moving)

    @property
    def stepping(self) -> bool:
        """Whether a step is being computed."""
        return self._running is not None

    def turn(self) -> bool:
        """Settle what has landed and ended, decide, start transfers and a step that is ready; say whether any did."""
        moved = self._settle()
        if self.upkeep is not None:
            moved = self.upkeep() or moved
            self.transfers.start()
        moved = self._load_adapters() or moved
        now = self.now()
        if self.feed is not None:
            self.feed(now)
        if self._running is not None and self._running.done():
            self._end(self._running.result())
            moved = True
        if self._stale or (self._wake is not None and now >= self._wake):
            self.decide()
        step = self._step
        if step is not None and self._running is None and self.transfers.moving.isdisjoint(step.after):
            running, moved = self.begin(), True
            if running.done():
                self._end(running.result())
        return moved

    def run(self) -> None:
        """Turn until nothing is left."""
        while self.busy:
            if not self.turn():
                time.sleep(IDLE_S)

    # --- what happens, in the order it is told to other ranks ------------------------------------------------

    def land(self, landed: Landed) -> None:
        """A transfer is in place, at all ranks; moves in `spoilt` brought other bytes than had left."""
        now = self.now()
        self._note("land", now, landed)
        command = self.transfers.settle(landed.transfer)
        self.tables.transfer(command, landed.start_ns, landed.end_ns)
        self._repairs += [command.moves[index].request for index in landed.spoilt]
        self._tell(events.TransferDone(landed.transfer), now)

    def decide(self) -> None:
        """Have the scheduler decide, and take what it commands."""
        now = self.now()
        self._note("decide", now)
        self._stale = self.scheduler.again
        if self.log is not None:
            self.log.append((now, None))
        commands = self.scheduler.plan(now)
        if self.log is not None:
            self.commands += commands
        for command in commands:
            self._take(command)
        self._stale = self._stale or self.scheduler.again
        self._wake = self.scheduler.wake_at()
        self.transfers.start()

    def begin(self) -> Pending:
        """Bring the batch up to date and have the step computed that was decided."""
        step, now = self._step, self.now()
        assert step is not None, "no step was decided"
        self._note("begin", now)
        if self.boundary is not None:
            self.boundary()
        repairs, self._repairs = self._repairs, []
        self.repaired += sum(self.rows.repair(id) for id in repairs)
        self._start = self.now()
        self.rows.change(step, self._start)
        chunks, sides = self.rows.chunks(step, self._start), self.rows.hosting.sides(step)
        self._running = self._worker.start(lambda: self.runner.step(chunks, step.batch > 0, *sides))
        return self._running

    def end(self, tokens: dict[int, int]) -> None:
        """The step is computed: hand tokens out and report."""
        step, now = self._step, self.now()
        assert step is not None, "no step was begun"
        self._note("end", now, tokens)
        finished = tuple(id for id, token in tokens.items() if self.sequences[id].take(token, now))
        for chunk in step.chunks:
            self.tables.chunk(step.step, chunk)
        for id in finished:
            self.rows.leave(id, step.step)
        self.rows.hosting.count(step, finished)
        self.tables.step(step, self._start, now - self._start, 0, 1, self.scheduler)
        self._step, self._running, self._number = None, None, step.step
        self._tell(events.StepDone(step.step, 1, finished), now)
        for id in finished:
            self._gone(id, Outcome.FINISHED)
        aborts, self._aborts = self._aborts, []
        for id in [id for id in aborts if id in self.sequences]:
            self._gone(id, Outcome.ABORTED)

    # --- parts -----------------------------------------------------------------------------------------------

    def _note(self, what: str, now: int, *words: Any) -> None:
        if self.follow is not None:
            self.follow(what, now, *words)

    def _tell(self, event: Event, now: int) -> None:
        if self.log is not None:
            self.log.append((now, event))
        self.scheduler.handle(now, event)
        self._stale = True

    def _take(self, command: Command) -> None:
        if isinstance(command, Step):
            self._step = command
        elif isinstance(command, Transfer):
            self.transfers.take(command)
        elif isinstance(command, Reject) and command.request in self.sequences:
            self._gone(command.request, Outcome.REJECTED, command.reason)
        elif isinstance(command, Released) and self.on_released is not None:
            self.on_released(command.tier, command.blocks)

    def _load_adapters(self) -> bool:
        """Let the requests arrive whose adapters are in slots; say whether any did."""
        ready, failed = self.adapters.ready(self.tables)
        for arrived in ready:
            self._tell(arrived, self.now())
        for id, reason in failed:
            self._gone(id, Outcome.REJECTED, reason)
        return bool(ready or failed)

    def _options(self, sequence: Sequence) -> dict[str, Any]:
        """Return what of a request the runner is to know beside tokens and blocks."""
        options = {} if sequence.sampling is None else {"sampling": sequence.sampling}
        return options | self.adapters.options(sequence)

    def _settle(self) -> bool:
        landed = list(self.transfers.landed())
        for each in landed:
            self.land(each)
        if landed:
            self.transfers.start()
        return bool(landed)

    def _end(self, tokens: dict[int, int]) -> None:
        """Take what has arrived until now first: it was there when the step ended."""
        if self.feed is not None:
            self.feed(self.now())
        self.end(tokens)

    def _gone(self, id: int, outcome: Outcome, reason: str = "") -> None:
        sequence = self.sequences[id]
        self.rows.leave(id, self._step.step - 1 if self._step is not None else self._number)
        self.rows.hosting.leave(id)
        del self.sequences[id]
        self.adapters.gone(sequence)
        self.tables.request(id, sequence, self.now(), outcome, reason)
        if self.on_gone is not None:
            self.on_gone(id, outcome)
