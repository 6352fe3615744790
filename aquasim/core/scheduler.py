"""The state machine: events in, commands out. Mechanism only; what differs between policies is in `policies/`."""

from collections.abc import Callable
from typing import Any

from aquasim.core import chunked, prompts, slices
from aquasim.core.batch import DecodeBatch
from aquasim.core.blocks import BlockPool, PrefixPool
from aquasim.core.events import (
    Aborted,
    Arrived,
    Chunk,
    Command,
    Event,
    Reject,
    Released,
    Step,
    StepDone,
    TierResized,
    Transfer,
    TransferDone,
)
from aquasim.core.limits import Limits
from aquasim.core.pager import Pager
from aquasim.core.policies.base import Policy
from aquasim.core.request import Request, State


class Scheduler:
    """Decides for one engine which requests run, which wait and which are paged, one step at a time.

    `handle` records facts, `plan` decides once everything of an instant is in. At most one step is out at a
    time; while it is, `plan` returns transfers only.
    """

    def __init__(self, limits: Limits, policy: Policy) -> None:
        self.limits = limits
        self.policy = policy
        self.now = 0
        self.pool: BlockPool = (
            PrefixPool(limits.blocks) if limits.prefix_caching else BlockPool(limits.blocks)
        )
        self.batch = DecodeBatch(limits.block_size, policy.slope)
        self.waiting = policy.queue()
        self.running: dict[int, Request] = {}
        """Resident requests in the order they are considered; the last is the first victim."""
        self.prefilling: dict[int, Request] = {}
        """Those of `running` whose known tokens are not all computed."""
        self.parked: list[Request] = []
        """Decoders in `running` that sit the next step out."""
        self.paged: dict[int, Request] = {}
        """Preempted requests that hold no HBM: in a tier, or (no tier had room) to be recomputed."""
        self.inbound: list[Request] = []
        """Chosen requests whose page-in waits for free blocks."""
        self.requests: dict[int, Request] = {}
        tiers = {name: BlockPool(blocks) for name, blocks in limits.tiers}
        self.pager = Pager(
            self.pool, limits.block_size, tiers, keep_copies=policy.keep_copies, overlap=policy.overlap
        )
        self.pager.landed = self._landed
        self.watermark = limits.blocks // 100 if limits.prefill == "prompt-only" else 0
        self.growth_reserve = int(limits.prefill == "prompt-only" and not policy.sliced)
        self.slice_left = max(0, policy.slice_length - 1)
        self.resort = False
        """The ends of slices passed while nobody competed: only the running order is to be renewed."""
        self.refill = False
        """Memory came free within a slice."""
        self.quota: int | None = None
        """How many waiting requests a ranked decision chose; None: no bound."""
        self.reserved = 0
        """Free blocks promised to the growth of the step that is out."""
        self.preempted: list[int] = []
        self.step: Step | None = None
        self._chunks: list[tuple[Request, int]] = []
        self._steps = 0
        self._extra: list[Command] = []
        self._aborts: list[int] = []
        self._newcomers: list[Request] = []
        """Arrived since the last step was planned; they queue when the next one is."""
        self._build = chunked.build if limits.prefill == "chunked" else prompts.build
        self._whole = policy.sliced or limits.prefill == "prompt-only"
        self._caching = limits.prefix_caching

    # --- facts ---------------------------------------------------------------------------------------------

    def handle(self, now: int, event: Event) -> None:
        """Record one event at time `now` (ns, never decreasing)."""
        assert now >= self.now, (now, self.now)
        self.now = now
        _HANDLERS[type(event)](self, event)

    def _arrived(self, event: Arrived) -> None:
        id, prompt, max_tokens, priority, prefix, output = event
        assert id not in self.requests, f"request {id} arrived twice"
        reason = self._refusal(prompt, max_tokens)
        if reason:
            self._extra.append(Reject(id, reason))
            return
        request = Request(id, self.now, prompt, max_tokens, priority, prefix, output)
        self.requests[id] = request
        self._newcomers.append(request)

    def _refusal(self, prompt: int, max_tokens: int) -> str:
        longest = self.limits.max_model_len
        if prompt < 1 or max_tokens < 1:
            return f"a request needs at least 1 prompt and 1 output token, not {prompt} and {max_tokens}"
        if prompt + 1 > longest:
            return f"prompt of {prompt} tokens does not fit max_model_len {longest}"
        if prompt + max_tokens > longest and self.policy.strict_length:
            return f"{prompt} prompt and {max_tokens} output tokens do not fit max_model_len {longest}"
        return ""

    def _step_done(self, event: StepDone) -> None:
        step = self.step
        assert step is not None and step.step == event.step, "no such step is out"
        assert 1 <= event.iterations <= step.repeat
        self.step = None
        batch = self.batch
        if step.batch:
            if event.iterations > 1:
                batch.grow(self.pool, 1, event.iterations - 1)
            batch.advance(event.iterations)
            if self.policy.sliced:
                self._pass_time(event.iterations)
        if self._chunks:
            self._chunks_done(event.finished)
        for id in event.finished:
            request = self.requests[id]
            self.retire(request)
        if self._aborts:
            aborts, self._aborts = self._aborts, []
            for id in aborts:
                self._aborted(Aborted(id))

    def _pass_time(self, iterations: int) -> None:
        left = self.slice_left - iterations
        if left < 0:
            length = self.policy.slice_length or 1
            left = left % length
            self.resort = True
        self.slice_left = left

    def _chunks_done(self, finished: tuple[int, ...]) -> None:
        for request, count in self._chunks:
            request.computed += count
            if request.computed == request.total:
                request.total += 1
                request.prefilled = True
                del self.prefilling[request.id]
                if request.id not in finished:
                    request.rank = self.policy.rank(request)
                    self.batch.join(request)
        self._chunks = []

    def retire(self, request: Request) -> None:
        """Take a request out for good, wherever it is, and free what it holds."""
        id = request.id
        del self.requests[id]
        if request.decoding:
            self.batch.leave(request, finished=True)
        state = request.state
        if state is State.WAITING:
            queue = self._newcomers if request in self._newcomers else self.waiting
            queue.remove(request)
        elif state is State.RUNNING:
            del self.running[id]
            self.prefilling.pop(id, None)
            if self.parked and request in self.parked:
                self.parked.remove(request)
        else:
            self.paged.pop(id, None)
            if request in self.inbound:
                self.inbound.remove(request)
        self.refill = True
        self.pager.release(request)

    def _aborted(self, event: Aborted) -> None:
        request = self.requests.get(event.request)
        if request is not None and self.step is not None and request.state is State.RUNNING:
            self._aborts.append(event.request)
        elif request is not None:
            announce = request.decoding and request.id not in self.batch.joined
            self.retire(request)
            if announce:
                self.batch.left.append(request.id)

    def _transfer_done(self, event: TransferDone) -> None:
        self.pager.done(event.transfer)

    def _landed(self, request: Request) -> None:
        """Sort a request into place when its awaited transfer landed."""
        if request.state is State.PAGED:
            self.paged[request.id] = request
        else:
            self.paged.pop(request.id, None)
            self.resume(request)

    def _tier_resized(self, event: TierResized) -> None:
        self.pager.resize(event.tier, event.blocks)

    # --- decisions -----------------------------------------------------------------------------------------

    def plan(self, now: int) -> list[Command]:
        """Decide what is to be done now. Call once per instant, after every event of that instant."""
        self.now = now
        commands: list[Command] = []
        if self._extra:
            commands, self._extra = self._extra, []
        if self.pager.tiers:
            self._evacuate(commands)
        if self.step is None:
            self.reserved = 0
            self.step = self._plan_step(commands)
            if self.step is not None:
                self.reserved = self.pool.free
                commands.append(self.step)
        elif self.inbound:
            slices.bring(self)
            commands += self.pager.commands()
        return commands

    def _plan_step(self, commands: list[Command]) -> Step | None:
        if self._newcomers:
            for request in self._newcomers:
                self.policy.admit(request, self)
                self.waiting.push(request)
            self._newcomers = []
        chunks, decode, repeat = self._build(self)
        commands += self.pager.commands() if self.pager.tiers else ()
        if self._extra:
            commands += self._extra
            self._extra = []
        batch = self.batch
        if not decode and not chunks:
            return None
        count, context = (batch.count, batch.context) if decode else (0, 0)
        joined, left = batch.drain_changes()
        number = self._steps
        self._steps += 1
        self._chunks = chunks
        listed = (
            tuple([Chunk(r.id, r.computed, count, r.computed + count == r.total) for r, count in chunks])
            if chunks
            else ()
        )
        after = self.pager.pending() if self.pager.tiers else ()
        preempted, self.preempted = tuple(self.preempted), []
        return Step(number, count, context, repeat, joined, left, listed, after, preempted)

    @property
    def restless(self) -> bool:
        """Whether `plan` may have something to say while a step is out."""
        return bool(self._extra or self.inbound or self.pager.tiers)

    @property
    def queued(self) -> int:
        """Requests that wait to start."""
        return len(self.waiting) + len(self._newcomers)

    def wake_at(self) -> int | None:
        """When `plan` wants to be asked although nothing happens (ns), or None."""
        return self.policy.wake_at(self)

    def _evacuate(self, commands: list[Command]) -> None:
        migrations, lost, small = self.pager.evacuate()
        commands += migrations
        commands += [Released(tier, blocks) for tier, blocks in small]
        for request in lost:
            self.forget(request)
        for transfer in migrations:
            for move in transfer.moves:
                self.paged.pop(move.request, None)

    # --- mechanism that policies and step builders share -----------------------------------------------------

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens`."""
        return -(-tokens // self.limits.block_size)

    def find_prefix(self, request: Request) -> list[int]:
        """Blocks in the prefix cache that hold the request's leading tokens; never all of them."""
        if not self._caching:
            return []
        full = (request.total - 1) // self.limits.block_size
        return self.pool.find(self._keys(request, full))  # type: ignore[attr-defined,no-any-return]

    def _keys(self, request: Request, count: int, start: int = 0) -> list[object]:
        """Return cache keys of full blocks: shared chain hashes first, then keys nobody else can have."""
        shared = min(count, len(request.prefix))
        keys: list[object] = list(request.prefix[start:shared])
        keys += [(request.id, index) for index in range(max(start, shared), count)]
        return keys

    def _register(self, request: Request, computed: int | None = None) -> None:
        """Tell the prefix cache what the request's full blocks hold."""
        full = (request.computed if computed is None else computed) // self.limits.block_size
        done = request.cached_blocks
        if full > done:
            register = self.pool.register  # type: ignore[attr-defined]
            for block, key in zip(request.blocks[done:full], self._keys(request, full, done), strict=True):
                register(block, key)
            request.cached_blocks = full

    def admissible(self, request: Request, hit: list[int]) -> bool:
        """Say whether all known tokens of a waiting request fit now, beside the watermark."""
        need = self.blocks_for(request.total) - len(hit)
        if hit:
            need += self.pool.idle(hit)  # type: ignore[attr-defined]
        return need + (self.watermark if self.running else 0) <= self.pool.free

    def start(self, request: Request, hit: list[int], count: int) -> None:
        """Let the head of the queue run: its first chunk computes `count` tokens after its prefix hits."""
        assert self.waiting.take() is request
        if hit:
            self.pool.touch(hit)  # type: ignore[attr-defined]
        request.blocks = hit
        request.cached_blocks = len(hit)
        request.computed = len(hit) * self.limits.block_size
        request.state = State.RUNNING
        request.prefilled = False
        self.running[request.id] = request
        self.prefilling[request.id] = request
        self.allocate(request, request.total if self._whole else request.computed + count)
        if self._caching and request.prefix:
            self._register(request, request.computed + count)

    def allocate(self, request: Request, tokens: int) -> None:
        """Give a resident request blocks for its first `tokens` tokens; the caller has checked the pool."""
        missing = self.blocks_for(tokens) - len(request.blocks)
        if missing > 0:
            request.blocks += self.pool.take(missing)

    def chunk(self, request: Request, count: int) -> None:
        """Account for a further chunk of a prefilling request: blocks, and what others may find in them."""
        self.allocate(request, request.computed + count)
        if self._caching and request.prefix:
            self._register(request, request.computed + count)

    def park(self, request: Request) -> None:
        """Let a decoder sit the next step out, resident."""
        if request.decoding:
            self.batch.leave(request)
            self.parked.append(request)

    def unpark(self) -> None:
        """Let parked decoders run again."""
        for request in self.parked:
            self.batch.join(request)
        self.parked = []

    def preempt(self, request: Request) -> None:
        """Take a running request's memory: page it out where the policy pages, else drop what it computed."""
        del self.running[request.id]
        self.preempted.append(request.id)
        if request.decoding:
            self.batch.leave(request)
        elif request in self.parked:
            self.parked.remove(request)
        self.prefilling.pop(request.id, None)
        self._trim(request)
        if self._caching:
            self._register(request)
        request.cached_blocks = 0
        request.rank = self.policy.rank(request)
        if self.policy.pages and request.prefilled and self.pager.page_out(request):
            if request.state is State.PAGED:
                self.paged[request.id] = request
            return
        self.pool.give(request.blocks)
        request.blocks = []
        self.forget(request)

    def _trim(self, request: Request) -> None:
        """Give back blocks that hold nothing yet."""
        needed = self.blocks_for(request.computed)
        if len(request.blocks) > needed:
            self.pool.give(request.blocks[needed:])
            del request.blocks[needed:]

    def forget(self, request: Request) -> None:
        """Let a request without pages start over: among the paged if slices choose it, else at the front."""
        request.computed = 0
        request.prefilled = False
        if self.policy.sliced:
            request.state = State.PAGED
            self.paged[request.id] = request
        else:
            request.state = State.WAITING
            self.paged.pop(request.id, None)
            self.waiting.push_front(request)

    def return_cost(self, request: Request) -> int:
        """Blocks of HBM that a paged request needs to run again."""
        return self.blocks_for(request.computed if request.copy_tier else request.total)

    def bring_back(self, request: Request) -> None:
        """Let a paged request return; the caller has checked that HBM has room for `return_cost`."""
        if not request.copy_tier:
            del self.paged[request.id]
            request.state = State.WAITING
            self.waiting.push_front(request)
            return
        del self.paged[request.id]
        hit = self.find_prefix(request)
        if hit:
            self.pool.touch(hit)  # type: ignore[attr-defined]
        request.cached_blocks = len(hit)
        self.pager.page_in(request, hit)
        if request.state is State.RUNNING:
            self.resume(request)

    def resume(self, request: Request) -> None:
        """Let a request whose blocks are back in HBM decode from the next step on."""
        self.running[request.id] = request
        self.parked.append(request)

    # --- invariants ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert every invariant of the state: owners, sums, batch, queues. For tests and debugging."""
        live = [r for r in self.requests.values() if r.state is not State.GONE]
        moving = [
            r for flight in self.pager.flights.values() for r in flight.requests if r.state is State.GONE
        ]
        held = [block for r in [*live, *dict.fromkeys(moving)] for block in r.blocks]
        self.pool.check(held + self.pager.held_in_flight(self.pool))
        self.pager.check()
        decoders = [r for r in live if r.decoding]
        assert self.batch.count == len(decoders)
        assert self.batch.context == sum(self.batch.tick + r.offset for r in decoders)
        for request in decoders:
            assert request.state is State.RUNNING and request.id in self.running
            assert len(request.blocks) >= self.blocks_for(self.batch.tick + request.offset)
        for request in live:
            assert (request.id in self.running) == (request.state is State.RUNNING), request
            assert (request.id in self.paged) == (request.state is State.PAGED), request
        queued = [*self.waiting, *self._newcomers]
        assert sorted(r.id for r in queued) == sorted(r.id for r in live if r.state is State.WAITING)


_HANDLERS: dict[type[Any], Callable[[Scheduler, Any], None]] = {
    Arrived: Scheduler._arrived,
    StepDone: Scheduler._step_done,
    TransferDone: Scheduler._transfer_done,
    Aborted: Scheduler._aborted,
    TierResized: Scheduler._tier_resized,
}

__all__ = ["Scheduler", "Transfer"]
