"""One serving engine in simulated time: carries out the scheduler's commands and reports back."""

from collections.abc import Callable
from heapq import heappop, heappush
from math import sqrt
from typing import Protocol

from aquasim.core import (
    Aborted,
    Arrived,
    Chunk,
    Event,
    Lanes,
    Reject,
    Released,
    Scheduler,
    Step,
    StepDone,
    TierResized,
    Transfer,
    TransferDone,
)
from aquasim.core.policies.base import Policy
from aquasim.core.replay import Record
from aquasim.hardware.steps import Times
from aquasim.hardware.throttle import Heat
from aquasim.records.tables import Outcome, RunTables
from aquasim.sim.clock import Call, Clock

NEVER = 1 << 62
_new = tuple.__new__  # builds a named tuple without the Python-level call of its constructor


class LaneTime(Protocol):
    """How long steps with lanes take (`aquasim.hardware.lanes.LaneCost`)."""

    def timed(
        self, chunks: list[tuple[int, int]], batch: int, context: int, lanes: Lanes
    ) -> tuple[int, float]:
        """Return the time of one iteration whose lanes are these, and how much of it is bound by compute; ns."""
        ...


class Carrier(Protocol):
    """Moves the bytes of transfers (`aquasim.sim.carrier`)."""

    def carry(self, transfer: Transfer, done: Callable[[], None]) -> None:
        """Start a transfer; call `done` at the time its last byte is in place."""
        ...

    def contended(self) -> bool:
        """Say whether transfers take HBM bandwidth from this engine now."""
        ...

    def stretch(self, nanoseconds: int, batch: int, context: int, tokens: int) -> int:
        """Return an iteration's time, given what transfers take of the HBM bandwidth now."""
        ...

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever that share changes."""
        ...


class Loader(Protocol):
    """Brings adapters to the GPU (`aquasim.sim.adapters`)."""

    def submitted(self, id: int, adapter: int) -> None:
        """A request came that needs an adapter (-1: none)."""
        ...

    def load(self, step: Step, then: Callable[[], None]) -> bool:
        """Say whether all adapters that a step needs are there; if not, fetch them and call `then`."""
        ...

    def extra_ns(self, step: Step) -> int:
        """Return what adapters add to each iteration of a step."""
        ...

    def gone(self, id: int) -> None:
        """A request has left."""
        ...


class Live:
    """What only the executor knows of a request: how long its output will be, and when things happened."""

    __slots__ = (
        "admitted",
        "arrival",
        "cached",
        "finish",
        "first_token",
        "hosted",
        "joined",
        "output",
        "prompt",
        "todo",
    )

    def __init__(self, arrival: int, prompt: int, output: int) -> None:
        self.arrival = arrival
        self.prompt = prompt
        self.output = output
        self.todo = output
        """Tokens still to generate; while decoding, see `finish`."""
        self.finish = -1
        """Decode iteration (counted from the start of the run) that generates its last token; -1: not decoding."""
        self.joined = 0
        self.hosted = -2
        """The last step in which it decoded on the host, while that run of steps goes on; else -2."""
        self.admitted = -1
        self.first_token = -1
        self.cached = 0


def iterations(elapsed: int, a: int, b: int) -> int:
    """Return the fewest iterations (at least 1) that last `elapsed` ns or longer, iteration j lasting a + b*j."""
    if b == 0:
        return max(1, -(-elapsed // a))
    half = 2 * a - b
    n = max(1, int((sqrt(half * half + 8 * b * elapsed) - half) / (2 * b)))
    while n * a + b * (n * (n - 1) // 2) < elapsed:
        n += 1
    while n > 1 and (n - 1) * a + b * ((n - 1) * (n - 2) // 2) >= elapsed:
        n -= 1
    return n


class Engine:
    """Executes one scheduler's commands. Owned by one simulation; not shared between threads.

    A step's end is one event, however many iterations it stands for. Whatever lands while it runs ends it at
    the end of the iteration under way.
    """

    def __init__(
        self,
        env: Clock,
        scheduler: Scheduler,
        cost: Times,
        tables: RunTables,
        carrier: Carrier | None = None,
        on_gone: Callable[[int], None] | None = None,
        record_events: bool = False,
        ahead: bool = False,
        heat: Heat | None = None,
        idle_ns: int = 0,
        spared: float = 0.0,
        loader: Loader | None = None,
        padded: bool = False,
        lane_time: LaneTime | None = None,
    ) -> None:
        self.env = env
        self.scheduler = scheduler
        self.live: dict[int, Live] = {}
        self.log: list[Record] | None = [] if record_events else None
        self._cost = cost
        self._tables = tables
        self._carrier = carrier
        self._loader = loader
        self._lane_time = lane_time
        self._loading = False
        """The step under way waits for its adapters."""
        self._on_gone = on_gone
        self._tick = 0
        self._ends: list[tuple[int, int]] = []
        self._step: Step | None = None
        self._done: Call | None = None
        self._start = self._a = self._b = self._n = 0
        self._end = -1
        self._wake_time = 0
        self._asked = False
        self._late = False
        """Something landed while the step waited for its transfers: it lasts one iteration."""
        self.next_arrival = NEVER
        """When the next request is sure to arrive: a step need not be planned beyond the iteration under way then."""
        self._wakes = type(scheduler.policy).wake_at is not Policy.wake_at
        self._wake: Call | None = None
        self._blocked: list[Transfer] = []
        self._moving: set[int] = set()
        self._aborts: list[int] = []
        self._ahead = ahead
        self._heat = heat
        self._idle_ns = idle_ns
        self._spared = spared
        """Tokens of context that decodes need not wait for, per holder of a shared block beyond its first."""
        self._padded = padded
        """Decodes attend together, each to as many tokens as the longest of them."""
        self._cold = False
        """The engine was idle when the step was decided."""
        self._held: list[tuple[int, Arrived]] = []
        """Arrivals during the step under way, where the next one is already decided (`ahead`)."""
        self._pauses = 0
        self._paused: list[Callable[[], None]] = []
        """Whom to tell that no step is out."""
        self.on_released: Callable[[str, int], None] | None = None
        """Called when a tier that was to shrink (or "hbm") is down to so many blocks."""
        if carrier is not None:
            carrier.watch(self._disturb)

    # --- from outside ----------------------------------------------------------------------------------------

    def submit(
        self,
        id: int,
        prompt: int,
        output: int,
        priority: int,
        prefix: tuple[int, ...],
        delay_ns: int = 0,
        adapter: int = -1,
    ) -> None:
        """A request arrives now, sent `delay_ns` ago. Output beyond `max_model_len` is cut, as servers do."""
        longest = self.scheduler.limits.max_model_len - prompt
        tokens = output if output < longest else max(1, longest)
        now = self.env.ns
        self.live[id] = Live(now - delay_ns, prompt, tokens)
        hint = output if self.scheduler.policy.oracle else None
        arrived = Arrived(id, prompt, tokens, priority, prefix, hint, adapter)
        if self._loader is not None:
            self._loader.submitted(id, adapter)
        if self._ahead and self._step is not None:
            self._held.append((now, arrived))
            if self._done is None:
                self._late = True
            else:
                self._cut_short()
        else:
            self._tell(arrived)

    def abort(self, id: int) -> None:
        """The client of a request gave up now."""
        held = [entry for entry in self._held if entry[1].request != id]
        if len(held) < len(self._held):
            self._held = held
            self._gone(id, Outcome.ABORTED)
        elif id in self.live:
            self._tell(Aborted(id))
            if self._step is None:
                self._gone(id, Outcome.ABORTED)
            else:
                self._aborts.append(id)

    def resize_tier(self, tier: str, blocks: int) -> None:
        """A lease came, grew or is called back."""
        self._tell(TierResized(tier, blocks))

    def pause(self, then: Callable[[], None]) -> None:
        """Call `then` at the end of the iteration under way, at once if there is none; start no step before `resume`.

        Pauses nest: as many calls of `resume` end them.
        """
        self._pauses += 1
        if self._step is None:
            then()
            return
        self._paused.append(then)
        self._disturb()

    def resume(self) -> None:
        """End a pause."""
        assert self._pauses > 0, "not paused"
        self._pauses -= 1
        self._ask()

    @property
    def queued(self) -> int:
        """Requests that came and have not started."""
        return len(self.scheduler.waiting) + len(self.scheduler.newcomers) + len(self._held)

    def _tell(self, event: Event) -> None:
        now = self.env.ns
        if self.log is not None:
            self.log.append((now, event))
        self.scheduler.handle(now, event)
        self._disturb()

    def _disturb(self) -> None:
        """Something landed: end the running step at its iteration's end, or have a decision taken."""
        if self._step is not None and self._done is None:
            self._late = True
        if self._done is not None:
            self._cut_short()
            if not self.scheduler.restless:
                return
        self._ask()

    # --- decisions -------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self.env.last(self._decide)

    def _decide(self, _: object = None) -> None:
        """Have the scheduler decide, once everything of this instant is in."""
        self._asked = False
        if self._pauses and self._step is None:
            return
        now, before = self.env.ns, self._step
        if self._held and self._step is None:
            self._release_held(now)
        if self.log is not None:
            self.log.append((now, None))
        for command in self.scheduler.plan(now):
            if isinstance(command, Step):
                self._take(command)
            elif isinstance(command, Transfer):
                self._blocked.append(command)
                self._moving.add(command.transfer)
                self._start_transfers()
            elif (
                isinstance(command, Reject) and command.request in self.live
            ):  # else its client gave up first
                self._gone(command.request, Outcome.REJECTED, command.reason)
            elif isinstance(command, Released) and self.on_released is not None:
                self.on_released(command.tier, command.blocks)
        if self._held and (self._step is None or self._step is not before):
            self._release_held()
        wake = self.scheduler.wake_at() if self._wakes or self.scheduler.again else None
        if wake is not None and (self._wake is None or self._wake_time != wake):
            self._wake_time = wake
            self._wake = self.env.at(max(wake, now), self._woken)

    def _release_held(self, since: int = 0) -> None:
        """Tell the scheduler of the arrivals held back, or of those since `since` only.

        Those of this very instant take part in its decision, whichever of arrival and step's end came first;
        the others are told once the step decided without them has started.
        """
        held, self._held = self._held, []
        for when, arrived in held:
            if when >= since:
                self._tell(arrived)
            else:
                self._held.append((when, arrived))

    def _woken(self, event: Call) -> None:
        if event is self._wake:
            self._wake = None
            self._disturb()

    # --- steps -----------------------------------------------------------------------------------------------

    def _take(self, step: Step) -> None:
        """Bring the batch up to date and start the step, or hold it until its transfers have landed."""
        self._step = step
        self._late = False
        self._cold = self._end < self.env.ns
        number, _, _, _, joined, left, _, after, preempted, _ = step
        if left or joined or preempted:
            self._change_batch(number, left, joined, preempted)
        if not after or self._moving.isdisjoint(after):
            self._ready(step)

    def _change_batch(
        self, number: int, left: tuple[int, ...], joined: tuple[int, ...], preempted: tuple[int, ...]
    ) -> None:
        """Keep account of who decodes, from which step and to which iteration."""
        live, tick = self.live, self._tick
        for id in left:
            request = live.get(id)
            if request is not None and request.finish >= 0:
                request.todo = request.finish - tick
                request.finish = -1
                self._tables.span(id, request.joined, number - 1)
        for id in joined:
            request = live[id]
            if request.hosted >= 0:
                self._end_span(id, request)
            request.finish = finish = tick + request.todo
            request.joined = number
            heappush(self._ends, (finish, id))
        for id in preempted:
            self._tables.preempted(self.env.ns, id)

    def _ready(self, step: Step) -> None:
        """Begin a step whose transfers have landed, as soon as its adapters are there."""
        if self._loader is None or self._loader.load(step, self._loaded):
            self._begin(step)
        else:
            self._loading = True

    def _loaded(self) -> None:
        self._loading = False
        assert self._step is not None
        self._begin(self._step)

    def _begin(self, step: Step) -> None:
        """Start an iteration, or the run of iterations until something is bound to happen."""
        env = self.env
        self._start = now = env.ns
        _, batch, context, n, _, _, chunks, _, _, host = step
        if self._spared and batch:
            context = max(batch, context - int(self.scheduler.pool.extra * self._spared))
        if self._padded and batch:
            context = batch * self._longest()
        if host is not None:
            assert self._lane_time is not None, "a step with lanes, but nobody knows how long it takes"
            sizes = [(tokens, start) for _, start, tokens, _ in chunks]
            a, compute = self._lane_time.timed(sizes, batch, context, host)
            if sizes and self._heat is not None:
                a = self._heat.stretch(now, a, compute)
            if sizes and self._cold:
                a += self._idle_ns
            b, n = 0, 1
        elif chunks:
            sizes = [(tokens, start) for _, start, tokens, _ in chunks]
            if self._heat is None:
                a = self._cost.step(sizes, batch, context)
            else:
                a, compute = self._cost.timed(sizes, batch, context)
                a = self._heat.stretch(now, a, compute)
            if self._cold:
                a += self._idle_ns
            b, n = 0, 1
        else:
            a, b, limit = self._cost.decode(batch, context)
            if self._late:
                n = 1
            to_end = self._next_end() - self._tick
            if to_end < n:
                n = to_end
            if limit < n:
                n = limit
        if self._loader is not None:
            a += self._loader.extra_ns(step)
        if self._carrier is not None and self._carrier.contended():
            tokens = batch + sum([chunk.tokens for chunk in chunks])
            a, b, n = self._carrier.stretch(a, batch, context, tokens), 0, 1
        end = now + n * a + b * (n * (n - 1) // 2)
        if n > 1 and self.next_arrival < end:
            n = iterations(self.next_arrival - now, a, b)
            end = now + n * a + b * (n * (n - 1) // 2)
        self._a, self._b, self._n, self._end = a, b, n, end
        self._done = env.at(end, self._finish)

    def _longest(self) -> int:
        """Return the tokens that the longest decoding request attends to, its newest one included."""
        tick, longest = self._tick, 0
        for request in self.live.values():
            if request.finish >= 0:
                length = request.prompt + request.output - (request.finish - tick)
                if length > longest:
                    longest = length
        return longest

    def _next_end(self) -> int:
        """Return the iteration count at which the next decoder ends."""
        ends, live = self._ends, self.live
        while True:
            finish, id = ends[0]
            request = live.get(id)
            if request is not None and request.finish == finish:
                return finish
            heappop(ends)

    def _cut_short(self) -> None:
        """Let the running step end with the iteration under way."""
        a, b, n = self._a, self._b, self._n
        now = self.env.ns
        if now > self._end - a - b * (n - 1):  # the last one is under way
            return
        self._n = n = iterations(now - self._start, a, b)
        self._end = self._start + n * a + b * (n * (n - 1) // 2)
        self._done = self.env.at(self._end, self._finish)

    def _finish(self, event: Call) -> None:
        """The step is over: count tokens, tell the scheduler, have it decide."""
        if event is not self._done:
            return
        self._done = None
        env, live, tables = self.env, self.live, self._tables
        now, step, n = env.ns, self._step, self._n
        assert step is not None
        self._step = None
        number, batch, _, _, _, _, chunks, _, _, host = step  # unpacked: attributes of named tuples are slow
        finished = self._count_chunks(number, chunks, now) if chunks else []
        if batch:
            self._tick = tick = self._tick + n
            ends = self._ends
            while ends and ends[0][0] <= tick:
                finish, id = heappop(ends)
                request = live.get(id)
                if request is not None and request.finish == finish:
                    request.finish = -1
                    tables.span(id, request.joined, number)
                    finished.append(id)
        if host is not None:
            finished += self._count_hosted(number, host)
        scheduler = self.scheduler
        tables.step(step, self._start, self._a, self._b, n, scheduler)
        done = _new(StepDone, (number, n, tuple(finished)))
        if self.log is not None:
            self.log.append((now, done))
        scheduler.handle(now, done)
        for id in finished:
            self._gone(id, Outcome.FINISHED)
        if self._aborts:
            self._end_aborted(number)
        if self._pauses:
            self._stand_still()
        elif not self._asked:
            if env.quiet():
                self._decide()
            else:
                self._ask()

    def _stand_still(self) -> None:
        paused, self._paused = self._paused, []
        for then in paused:
            then()

    def _count_chunks(self, number: int, chunks: tuple[Chunk, ...], now: int) -> list[int]:
        """Record the chunks, count the tokens that the last ones made, and return whom that finished."""
        finished = []
        for chunk in chunks:
            self._tables.chunk(number, chunk)
            id, start, _, last = chunk
            request = self.live.get(id)
            if request is None:
                continue
            if request.admitted < 0:
                request.admitted = self._start
                request.cached = start
            if last:
                request.todo -= 1
                if request.first_token < 0:
                    request.first_token = now
                if request.todo == 0:
                    finished.append(id)
        return finished

    def _count_hosted(self, number: int, lanes: Lanes) -> list[int]:
        """Count the tokens that the host made, and return whom they finished."""
        finished = []
        for id in lanes.first + lanes.second:
            request = self.live.get(id)
            if request is None:
                continue
            if request.hosted != number - 1:
                self._end_span(id, request)
                request.joined = number
            request.hosted = number
            request.todo -= 1
            if request.todo == 0:
                self._end_span(id, request)
                finished.append(id)
        return finished

    def _end_span(self, id: int, request: Live) -> None:
        """Close the run of steps in which a request decoded on the host."""
        if request.hosted >= 0:
            self._tables.span(id, request.joined, request.hosted, 1)
            request.hosted = -2

    def _end_aborted(self, number: int) -> None:
        """Account for the requests that were aborted while the step ran: the iteration under way was theirs too."""
        for id in self._aborts:
            request = self.live.get(id)
            if request is None:
                continue
            if request.finish >= 0:
                request.todo = request.finish - self._tick
                self._tables.span(id, request.joined, number)
            self._gone(id, Outcome.ABORTED)
        self._aborts = []

    def _gone(self, id: int, outcome: Outcome, reason: str = "") -> None:
        request = self.live.pop(id)
        if request.hosted >= 0:
            self._end_span(id, request)
        self._tables.request(id, request, self.env.ns, outcome, reason)
        if self._loader is not None:
            self._loader.gone(id)
        if self._on_gone is not None:
            self._on_gone(id)

    # --- transfers -------------------------------------------------------------------------------------------

    def _start_transfers(self) -> None:
        """Start every transfer whose predecessors have landed."""
        ready = [t for t in self._blocked if self._moving.isdisjoint(t.after)]
        self._blocked = [t for t in self._blocked if not self._moving.isdisjoint(t.after)]
        assert self._carrier is not None or not ready, "a transfer, but nothing to carry it"
        for transfer in ready:
            self._launch(transfer)

    def _launch(self, transfer: Transfer) -> None:
        assert self._carrier is not None
        start = self.env.ns

        def landed() -> None:
            self._moving.discard(transfer.transfer)
            self._tables.transfer(transfer, start, self.env.ns)
            self._start_transfers()
            late = self._late or self.scheduler.pager.overlap
            self._tell(TransferDone(transfer.transfer))
            self._late = late
            step = None if self._loading else self._step
            if step is not None and self._done is None and self._moving.isdisjoint(step.after):
                self._ready(step)

        self._carrier.carry(transfer, landed)
