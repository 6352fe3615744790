"""One engine in real time: carries out a scheduler's commands on a runner and a pager, and reports back."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aquasim.core import (
    Aborted,
    Arrived,
    Command,
    Event,
    Reject,
    Released,
    Scheduler,
    Step,
    StepDone,
    TierResized,
    Transfer,
    TransferDone,
)
from aquasim.core.replay import Record
from aquasim.errors import UserError
from aquasim.records.tables import Outcome, RunTables
from aquasim.runtime.executor.sequence import OnToken, Sequence
from aquasim.runtime.pager import Landed, Pager

if TYPE_CHECKING:
    from aquasim.runtime.engine import Runner
    from aquasim.runtime.lora import LoraCache

IDLE_S = 50e-6
"""Between two looks at transfers that a step waits for."""


class Pending(Protocol):
    """A step under way."""

    def done(self) -> bool:
        """Whether its tokens are there."""

    def result(self) -> dict[int, int]:
        """Return who got which token; what the step raised is raised here."""


class Worker(Protocol):
    """Computes steps, one at a time."""

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """Begin to compute a step."""


class Finished:
    """A step that is computed."""

    def __init__(self, tokens: dict[int, int]) -> None:
        self._tokens = tokens

    def done(self) -> bool:
        """See Pending."""
        return True

    def result(self) -> dict[int, int]:
        """See Pending."""
        return self._tokens


class Inline:
    """Computes at once, in the caller's thread."""

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """See Worker."""
        return Finished(step())


class Threaded:
    """Computes in a thread of its own; close it after use."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "compute")

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """See Worker."""
        return self._pool.submit(step)

    def close(self) -> None:
        """End the thread once its step is computed."""
        self._pool.shutdown()


class Executor:
    """Drives one scheduler. `turn` does what can be done now and never waits; one thread may call it.

    Steps run on `worker`, so that transfers land and start meanwhile; without one, within `turn`. The scheduler
    plans single iterations (`Limits.max_repeat` 1). `now` is a clock in ns; a virtual one gives the
    same commands as any other executor that feeds the same events. `compute` gives an event of the runner's stream
    (None on the CPU, where what was called is done).
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: "Runner",
        pager: Pager | None = None,
        *,
        now: Callable[[], int] = time.monotonic_ns,
        compute: Callable[[], Any] | None = None,
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
        self.log: list[Record] | None = [] if record_events else None
        self.commands: list[Command] = []
        """What was decided, if events are recorded."""
        self.feed: Callable[[int], None] | None = None
        """Called with the time before each decision and at the end of a step, to submit what has arrived by then."""
        self.upkeep: Callable[[], bool] | None = None
        """Called at the beginning of each turn: what a leased tier has to do; says whether it did anything."""
        self.may_start: Callable[[Transfer, Any], bool] | None = None
        """Asked with a transfer and its pages before it starts; one that may not is asked for again, turn by turn."""
        self.boundary: Callable[[], object] | None = None
        """Called between two steps, just before one begins: blocks may be moved within the pool."""
        self.place: Callable[[Iterable[int]], list[int]] = list
        """Where the scheduler's blocks are in the runner's pool, where numbers and places differ."""
        self.loras: LoraCache | None = None
        """Brings adapters to the runner's slots; requests arrive at the scheduler once theirs is there."""
        self.on_gone: Callable[[int, Outcome], None] | None = None
        self.on_released: Callable[[str, int], None] | None = None
        self.repaired = 0
        """Pages that came back spoilt and were computed again, by request."""
        self._compute = compute
        self._worker = worker or Inline()
        self._step: Step | None = None
        self._running: Pending | None = None
        """The step that is out, while it is computed."""
        self._start = 0
        self._repairs: list[int] = []
        self._wake: int | None = None
        self._blocked: list[tuple[Transfer, Any]] = []
        self._moving: set[int] = set()
        self._transfers: dict[int, Transfer] = {}
        self._stale = False
        """Something happened since the last decision."""
        self._aborts: list[int] = []
        self._held: dict[int, Arrived] = {}
        """Requests whose adapter is on its way."""
        self._number = -1
        """The last step that ran."""
        scheduler.pager.track = pager is not None

    # --- from outside ----------------------------------------------------------------------------------------

    def submit(
        self,
        id: int,
        prompt: Iterable[int],
        max_tokens: int,
        *,
        sampling: Any = None,
        stop: Iterable[int] = (),
        priority: int = 0,
        prefix: tuple[int, ...] = (),
        arrival: int | None = None,
        on_token: OnToken | None = None,
        adapter: str | None = None,
    ) -> None:
        """A request arrives now (or did at `arrival`, ns). Output beyond `max_model_len` is cut, as servers do.

        Raises UserError for an adapter that is none.
        """
        number = self._adapter(adapter)
        tokens = list(prompt)
        longest = self.scheduler.limits.max_model_len - len(tokens)
        output = min(max_tokens, max(1, longest))
        now = self.now()
        self.sequences[id] = Sequence(
            id,
            tokens,
            len(tokens),
            output,
            now if arrival is None else arrival,
            sampling,
            frozenset(stop),
            on_token,
            number,
        )
        hint = max_tokens if self.scheduler.policy.oracle else None
        if number >= 0:  # keys and values are the adapter's: nobody else may find them
            prefix = tuple(hash((number, part)) for part in prefix)
        arrived = Arrived(id, len(tokens), output, priority, prefix, hint, number)
        if self.loras is None or number < 0 or self.loras.submit(id, number):
            self._tell(arrived, now)  # told in the order of events
        else:
            self._held[id] = arrived

    def abort(self, id: int) -> None:
        """The client of a request gave up. If a step waits that it is part of, it leaves after that."""
        if id not in self.sequences or id in self._aborts:
            return
        self.sequences[id].on_token = None
        if self._held.pop(id, None) is None:
            self._tell(Aborted(id), self.now())
        else:
            self._gone(id, Outcome.ABORTED)
            return
        if self._step is None:
            self._gone(id, Outcome.ABORTED)
        else:
            self._aborts.append(id)

    def resize_tier(self, tier: str, blocks: int) -> None:
        """A tier now has so many blocks; a shrink is answered through `on_released`."""
        self._tell(TierResized(tier, blocks), self.now())

    @property
    def busy(self) -> bool:
        """Whether any request is here or any page on its way."""
        return bool(self.sequences or self._moving)

    @property
    def stepping(self) -> bool:
        """Whether a step is being computed."""
        return self._running is not None

    def turn(self) -> bool:
        """Settle what has landed and ended, decide, start transfers and a step that is ready; say whether any did."""
        moved = self._settle(self.pager.landed() if self.pager is not None and self._moving else ())
        if self.upkeep is not None:
            moved = self.upkeep() or moved
            self._start_transfers()
        if self.loras is not None:
            moved = self._load_adapters(self.loras) or moved
        now = self.now()
        if self.feed is not None:
            self.feed(now)
        if self._running is not None and self._running.done():
            self._end(self._running.result())
            moved = True
        if self._stale or (self._wake is not None and now >= self._wake):
            self._decide()
        step = self._step
        if step is not None and self._running is None and self._moving.isdisjoint(step.after):
            self._begin(step)
            moved = True
        return moved

    def run(self) -> None:
        """Turn until nothing is left."""
        while self.busy:
            if not self.turn():
                time.sleep(IDLE_S)

    # --- adapters --------------------------------------------------------------------------------------------

    def _adapter(self, name: str | None) -> int:
        if name is None:
            return -1
        if self.loras is None:
            raise UserError(f"adapter {name!r} is asked for, and this engine has none")
        return self.loras.number(name)

    def _load_adapters(self, loras: "LoraCache") -> bool:
        """Let the requests arrive whose adapters are in slots; say whether any did."""
        ready, failed = loras.ready()
        for id in ready:
            self._tell(self._held.pop(id), self.now())
        for id, reason in failed:
            del self._held[id]
            self._gone(id, Outcome.REJECTED, reason)
        for each in loras.loads:
            self.tables.fetch(each.start, each.end, each.number, each.source, each.nbytes)
        loras.loads.clear()
        return bool(ready or failed)

    def _row(self, sequence: Sequence) -> dict[str, Any]:
        """Return what of a request the runner is to know beside tokens and blocks."""
        options = {} if sequence.sampling is None else {"sampling": sequence.sampling}
        if self.loras is not None:
            options["adapter"] = self.loras.slot(sequence.adapter)
        return options

    # --- decisions -------------------------------------------------------------------------------------------

    def _tell(self, event: Event, now: int) -> None:
        if self.log is not None:
            self.log.append((now, event))
        self.scheduler.handle(now, event)
        self._stale = True

    def _decide(self) -> None:
        now = self.now()
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
        self._start_transfers()

    def _take(self, command: Command) -> None:
        if isinstance(command, Step):
            self._step = command
        elif isinstance(command, Transfer):
            flight = self.scheduler.pager.flights[command.transfer]
            self._blocked.append((command, flight.pages))
            self._moving.add(command.transfer)
        elif isinstance(command, Reject) and command.request in self.sequences:
            self._gone(command.request, Outcome.REJECTED, command.reason)
        elif isinstance(command, Released) and self.on_released is not None:
            self.on_released(command.tier, command.blocks)

    # --- transfers -------------------------------------------------------------------------------------------

    def _start_transfers(self) -> None:
        """Start every transfer whose predecessors have landed."""
        if not self._blocked:
            return
        assert self.pager is not None, "a transfer, but no pager to carry it"
        waiting = []
        for command, pages in self._blocked:
            ready = self._moving.isdisjoint(command.after)
            if ready and (self.may_start is None or self.may_start(command, pages)):
                self._transfers[command.transfer] = command
                self.pager.start(command, pages, self._compute() if self._compute else None)
            else:
                waiting.append((command, pages))
        self._blocked = waiting

    def _settle(self, landed: Iterable[Landed]) -> bool:
        some = False
        for each in landed:
            some = True
            command = self._transfers.pop(each.transfer)
            self._moving.discard(each.transfer)
            self.tables.transfer(command, each.start_ns, each.end_ns)
            self._repairs += [command.moves[index].request for index in each.spoilt]
            self._tell(TransferDone(each.transfer), self.now())
        if some:
            self._start_transfers()
        return some

    def _repair(self, id: int) -> None:
        """Compute a request's cache again, in chunks, where its pages came back spoilt: its tokens are all known."""
        from aquasim.runtime.engine import Prefill

        request, sequence = self.scheduler.requests.get(id), self.sequences.get(id)
        if request is None or sequence is None:
            return
        most = self.scheduler.limits.max_num_batched_tokens
        for start in range(0, request.computed, most):
            tokens = sequence.tokens[start : min(start + most, request.computed)]
            chunk = Prefill(id, tokens, start, self.place(request.blocks), False, **self._row(sequence))
            self.runner.step([chunk], False)
        sequence.repaired += request.computed
        self.repaired += 1

    # --- steps -----------------------------------------------------------------------------------------------

    def _begin(self, step: Step) -> None:
        """Bring the batch up to date and have the step computed."""
        if self.boundary is not None:
            self.boundary()
        repairs, self._repairs = self._repairs, []
        for id in repairs:
            self._repair(id)
        self._start = self.now()
        self._change_batch(step)
        chunks, decode = self._chunks(step, self._start), step.batch > 0
        self._running = self._worker.start(lambda: self.runner.step(chunks, decode))
        if self._running.done():
            self._end(self._running.result())

    def _end(self, tokens: dict[int, int]) -> None:
        """A step is computed: hand tokens out and report."""
        step, end = self._step, self.now()
        assert step is not None
        if self.feed is not None:
            self.feed(end)
        finished = tuple(id for id, token in tokens.items() if self.sequences[id].take(token, end))
        self._record(step, self._start, end, finished)
        self._step, self._running, self._number = None, None, step.step
        self._tell(StepDone(step.step, 1, finished), end)
        for id in finished:
            self._gone(id, Outcome.FINISHED)
        aborts, self._aborts = self._aborts, []
        for id in aborts:
            if id in self.sequences:
                self._gone(id, Outcome.ABORTED)

    def _change_batch(self, step: Step) -> None:
        batch, requests = self.runner.batch, self.scheduler.requests
        for id in step.left:
            self._stop_decoding(id, step.step - 1)
        for id in step.joined:
            sequence = self.sequences[id]
            sequence.joined, sequence.decoding = step.step, True
            blocks = self.place(requests[id].blocks)
            batch.join(id, sequence.tokens[-1], len(sequence.tokens) - 1, blocks, **self._row(sequence))
        for id in step.preempted:
            self.tables.preempted(self.now(), id)
        if step.batch:
            self._grow()

    def _grow(self) -> None:
        """Tell the batch of the blocks that decoders have been given since they joined."""
        batch, requests = self.runner.batch, self.scheduler.requests
        positions = batch.positions.host[: batch.count]
        for row in np.flatnonzero(positions % batch.block_size == 0):
            id, needed = batch.ids[row], int(positions[row]) // batch.block_size
            if len(batch.blocks(id)) == needed:
                batch.grow(id, *self.place([requests[id].blocks[needed]]))

    def _chunks(self, step: Step, now: int) -> list[Any]:
        from aquasim.runtime.engine import Prefill

        chunks = []
        for id, start, count, last in step.chunks:
            sequence = self.sequences[id]
            if sequence.admitted < 0:
                sequence.admitted, sequence.cached = now, start
            blocks = self.place(self.scheduler.requests[id].blocks)
            tokens = sequence.tokens[start : start + count]
            chunks.append(Prefill(id, tokens, start, blocks, last, **self._row(sequence)))
        return chunks

    def _record(self, step: Step, start: int, end: int, finished: tuple[int, ...]) -> None:
        for chunk in step.chunks:
            self.tables.chunk(step.step, chunk)
        for id in finished:
            self._stop_decoding(id, step.step)
        self.tables.step(step, start, end - start, 0, 1, self.scheduler)

    def _stop_decoding(self, id: int, last_step: int) -> None:
        sequence = self.sequences.get(id)
        if sequence is not None and sequence.decoding:
            sequence.decoding = False
            self.runner.batch.leave(id)
            self.tables.span(id, sequence.joined, last_step)

    def _gone(self, id: int, outcome: Outcome, reason: str = "") -> None:
        sequence = self.sequences[id]
        if sequence.decoding:
            self._stop_decoding(id, self._last_step())
        del self.sequences[id]
        if self.loras is not None and sequence.adapter >= 0:
            self.loras.gone(id, sequence.adapter)
        self.tables.request(id, sequence, self.now(), outcome, reason)
        if self.on_gone is not None:
            self.on_gone(id, outcome)

    def _last_step(self) -> int:
        return self._step.step - 1 if self._step is not None else self._number
