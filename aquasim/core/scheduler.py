"""The state machine: events in, commands out. Mechanism only; what differs between policies is in `policies/`."""

from collections.abc import Callable
from typing import Any

from aquasim.core import beside, chunked, hosts, lanes, prompts, slices
from aquasim.core.batch import DecodeBatch
from aquasim.core.blocks import BlockPool, PrefixPool
from aquasim.core.events import (
    Aborted,
    Arrived,
    Chunk,
    Command,
    Event,
    Lanes,
    Reject,
    Released,
    Step,
    StepDone,
    TierResized,
    TransferDone,
)
from aquasim.core.limits import Limits
from aquasim.core.pager import Pager
from aquasim.core.policies.base import Policy
from aquasim.core.request import Request, State

HBM = "hbm"
"""The name of the KV cache's own memory where tiers are resized."""
_new = tuple.__new__  # builds a named tuple without the Python-level call of its constructor


class Scheduler:
    """Decides for one engine which requests run, which wait and which are paged, one step at a time.

    `handle` records facts, `plan` decides once everything of an instant is in. At most one step is out at a
    time; while it is, `plan` returns transfers only.
    """

    def __init__(self, limits: Limits, policy: Policy) -> None:
        if policy.overlap and not policy.sliced and limits.prefill == "prompt-only":
            raise ValueError(
                "prompt-only iterations without slices await their transfers: overlap is not for them"
            )
        lanes.check(limits, policy)
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
        rules = policy.lanes
        whole = limits.prefill == "prompt-only" and rules is None
        self.watermark = limits.blocks // 100 if whole else 0
        self.growth_reserve = int(whole and not policy.sliced)
        self.slice_left = max(0, policy.slice_length - 1)
        self.refill = False
        """Memory came free within a slice."""
        self.quota: int | None = None
        """How many waiting requests a ranked decision chose; None: no bound."""
        self.reserved = 0
        """Free blocks promised to the growth of the step that is out."""
        self.preempted: list[int] = []
        self.again = False
        """The last decision moved requests and scheduled nothing: ask once more."""
        self.lanes: Lanes | None = None
        """The host's part in the step that is being decided, then in the one that is out."""
        self.hosted = 0.0
        """The most that lately decoded on the host in one iteration."""
        self.hosting = 0.0
        """The mean of these."""
        self._plain = not policy.sliced and not whole
        self.tiered = bool(tiers)
        """Whether there is anywhere to page to."""
        self.step: Step | None = None
        self._chunks: list[tuple[Request, int]] = []
        self._steps = 0
        self._extra: list[Command] = []
        self._aborts: list[int] = []
        self.newcomers: list[Request] = []
        """Arrived since the last step was planned; they queue when the next one is."""
        self._build = chunked.build
        if rules is not None:
            self._build = beside.build if rules.beside else lanes.build
        elif whole:
            self._build = prompts.build
        self._whole = policy.sliced or whole or rules is not None
        self._caching = limits.prefix_caching
        self._hbm: int | None = None
        """The size HBM's pool is to have, while it has not been reported."""

    # --- facts ---------------------------------------------------------------------------------------------

    def handle(self, now: int, event: Event) -> None:
        """Record one event at time `now` (ns, never decreasing)."""
        self.now = now
        _HANDLERS[type(event)](self, event)

    def _arrived(self, event: Arrived) -> None:
        id, prompt, max_tokens, priority, prefix, output, adapter = event
        assert id not in self.requests, f"request {id} arrived twice"
        reason = self._refusal(prompt, max_tokens)
        if reason:
            self._extra.append(Reject(id, reason))
            return
        request = Request(id, self.now, prompt, max_tokens, priority, prefix, output, adapter)
        self.requests[id] = request
        self.newcomers.append(request)

    def _refusal(self, prompt: int, max_tokens: int) -> str:
        longest = self.limits.max_model_len
        if prompt < 1 or max_tokens < 1:
            return f"a request needs at least 1 prompt and 1 output token, not {prompt} and {max_tokens}"
        if prompt + 1 > longest:
            return f"prompt of {prompt} tokens does not fit max_model_len {longest}"
        return ""

    def _step_done(self, event: StepDone) -> None:
        step = self.step
        assert step is not None, "no step is out"
        number, iterations, finished = event
        expected, decoders, _, repeat, _, _, _, _, _, host = (
            step  # unpacked: attributes of named tuples are slow
        )
        assert number == expected, (event, step)
        assert iterations <= repeat, (event, step)
        self.step = None
        if decoders:
            batch = self.batch
            if iterations > 1:
                batch.grow(self.pool, iterations - 1)
            batch.tick += iterations
            batch.context += decoders * iterations
            if self.policy.sliced:
                self._pass_time(iterations)
        if host is not None:
            hosts.advance(self, host)
        if self._chunks:
            self._chunks_done(finished)
        for id in finished:
            self.retire(self.requests[id])
        if self._aborts:
            aborts, self._aborts = self._aborts, []
            for id in aborts:
                self._aborted(Aborted(id))

    def _pass_time(self, iterations: int) -> None:
        left = self.slice_left - iterations
        if left < 0:
            length = self.policy.slice_length or 1
            left = left % length
            slices.sort_running(self)  # the ends of slices that passed while nobody competed
        self.slice_left = left

    def _chunks_done(self, finished: tuple[int, ...]) -> None:
        staged = self.lanes.staged if self.lanes is not None else ()
        for request, count in self._chunks:
            request.computed += count
            if request.computed == request.total:
                request.total += 1
                request.prefilled = True
                del self.prefilling[request.id]
                if request.id in staged:
                    hosts.settle(self, request)
                elif request.id not in finished:
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
        if state is State.RUNNING:
            del self.running[id]
            if not request.prefilled:
                self.prefilling.pop(id, None)
            if self.parked and request in self.parked:
                self.parked.remove(request)
        elif state is State.WAITING:
            queue = self.newcomers if request in self.newcomers else self.waiting
            queue.remove(request)
        else:
            self.paged.pop(id, None)
            if request in self.inbound:
                self.inbound.remove(request)
        self.refill = True
        self.pager.release(request)

    def _aborted(self, event: Aborted) -> None:
        request = self.requests.get(event.request)
        if request is not None and self.step is not None and hosts.in_step(self, request):
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
        if event.tier == HBM:  # at the next decision: a step that is out has been promised its growth
            self._hbm = event.blocks
            return
        self.pager.resize(event.tier, event.blocks)
        self.tiered = True

    def _resize_hbm(self, blocks: int) -> list[Command]:
        """Bring HBM's pool to size; while more is held, nobody is admitted and growth preempts."""
        if self.pool.capacity != blocks:
            self.pool.resize(blocks)
        if self.pool.debt:
            return []
        self._hbm = None
        return [Released(HBM, blocks)]

    # --- decisions -----------------------------------------------------------------------------------------

    def plan(self, now: int) -> list[Command]:
        """Decide what is to be done now. Call once per instant, after every event of that instant."""
        self.now = now
        if self.step is not None:
            return self._plan_transfers() if self.restless else []
        commands: list[Command] = []
        if self._extra:
            self._flush(commands)
        if self._hbm is not None:
            commands += self._resize_hbm(self._hbm)
        if self.tiered:
            self._evacuate(commands)
        if self.newcomers:
            self._queue_newcomers()
        elif self._plain and not (
            self.prefilling or self.waiting or self.parked or self.paged or self.preempted
        ):
            calm = self._plan_calm()
            if calm is not None:
                return commands + calm if commands else calm
        self.reserved, before, queued = 0, len(self.preempted), len(self.waiting)
        chunks, decode, repeat = self._build(self)
        if self.tiered:
            commands += self.pager.commands()
        if self._extra:
            self._flush(commands)
        if decode or chunks or self.lanes is not None:
            self.step = step = self._make_step(chunks, decode, repeat)
            commands.append(step)
        # Somebody lost its place, or was sent back to the queue, after prompts had been looked at: look once more.
        self.again = self.step is None and (len(self.preempted) > before or len(self.waiting) > queued)
        return commands

    def _plan_calm(self) -> list[Command] | None:
        """Decide where nobody waits or prefills and nothing is paged: the batch goes on, if its growth fits."""
        batch, pool = self.batch, self.pool
        self.lanes = None
        count = batch.count
        growing = batch.growing()
        if not 0 < count <= self.limits.max_num_batched_tokens or len(growing) > pool.free:
            return None
        if growing:
            batch.grow_now(pool)
        joined: tuple[int, ...] = ()
        left: tuple[int, ...] = ()
        if batch.joined:
            joined = tuple(batch.joined)
            batch.joined.clear()
        if batch.left:
            left, batch.left = tuple(batch.left), []
        number = self._steps
        self._steps = number + 1
        repeat = batch.room(pool.free, self.limits.max_repeat)
        self.step = step = _new(Step, (number, count, batch.context, repeat, joined, left, (), (), (), None))
        return [step]

    def _make_step(self, chunks: list[tuple[Request, int]], decode: bool, repeat: int) -> Step:
        """Put a decision in one step, as a difference to the one before."""
        batch = self.batch
        joined: tuple[int, ...] = ()
        left: tuple[int, ...] = ()
        preempted: tuple[int, ...] = ()
        listed: tuple[Chunk, ...] = ()
        after: tuple[int, ...] = ()
        if batch.joined:
            joined = tuple(batch.joined)
            batch.joined.clear()
        if batch.left:
            left, batch.left = tuple(batch.left), []
        if self.preempted:
            preempted, self.preempted = tuple(self.preempted), []
        if chunks:
            listed = tuple([_new(Chunk, (r.id, r.computed, n, r.computed + n == r.total)) for r, n in chunks])
        if self.tiered:
            after = self.pager.pending()
            self.reserved = self.pool.free
            if after:  # what landing frees may let somebody return: decide anew an iteration later
                repeat = 1
        self._chunks = chunks
        number = self._steps
        self._steps = number + 1
        count, context = (batch.count, batch.context) if decode else (0, 0)
        return _new(
            Step, (number, count, context, repeat, joined, left, listed, after, preempted, self.lanes)
        )

    def _plan_transfers(self) -> list[Command]:
        """While a step is out: rejections, migrations, and page-ins into blocks that came free since."""
        commands: list[Command] = []
        self._flush(commands)
        if self.tiered and self.lanes is None:  # what a lane reads stays where it is
            self._evacuate(commands)
        if self.inbound:
            slices.bring(self)
            commands += self.pager.commands()
        return commands

    def _flush(self, commands: list[Command]) -> None:
        commands += self._extra
        self._extra = []

    def _queue_newcomers(self) -> None:
        """Let the arrived queue, ranked by the state at this iteration boundary."""
        for request in self.newcomers:
            self.policy.admit(request, self)
            self.waiting.push(request)
        self.newcomers = []

    @property
    def restless(self) -> bool:
        """Whether `plan` may have something to say while a step is out."""
        return bool(self._extra or self.inbound or self.tiered)

    def wake_at(self) -> int | None:
        """When `plan` wants to be asked although nothing happens (ns), or None.

        At once where a decision only preempted: vLLM's next call goes on with those that stayed.
        """
        return self.now if self.again else self.policy.wake_at(self)

    def _evacuate(self, commands: list[Command]) -> None:
        migrations, lost, small = self.pager.settle(self.inbound)
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
        """Blocks in the prefix cache that hold the request's leading tokens; never all of them.

        Empty while the cache owes memory: what a victim gives up may take a found block along.
        """
        if not self._caching or self.pool.debt:
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
        if request.decoding:
            self.batch.leave(request)
        elif request in self.parked:
            self.parked.remove(request)
        if self.tiered and self.pager.cancel_in(request):
            request.cached_blocks = 0
            self.paged[request.id] = request
            return
        self.preempted.append(request.id)
        if not request.prefilled:
            self.prefilling.pop(request.id, None)
        self._trim(request)
        if self._caching:
            self._register(request)
            request.cached_blocks = 0
        if self.policy.ranked:
            request.rank = self.policy.rank(request)
        places = self.policy.places(request, self) if self.tiered else None
        if self.policy.pages and request.prefilled and self.pager.page_out(request, places):
            if request.state is State.PAGED:
                self.paged[request.id] = request
            return
        self.pool.give(request.blocks)
        request.blocks = []
        self.forget(request)

    def _trim(self, request: Request) -> None:
        """Give back blocks that hold nothing yet."""
        needed = -(-request.computed // self.limits.block_size)
        if len(request.blocks) > needed:
            self.pool.give(request.blocks[needed:])
            del request.blocks[needed:]

    def forget(self, request: Request) -> None:
        """Let a request without pages start over: among the paged if slices choose it, else at the front."""
        request.computed = 0
        request.prefilled = False
        request.rank = self.policy.rank(request)
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
        hit: list[int] = []
        if self._caching:
            hit = self.find_prefix(request)
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
            assert request.state is State.RUNNING
            assert request.id in self.running
            assert len(request.blocks) >= self.blocks_for(self.batch.tick + request.offset)
        for request in live:
            assert (request.id in self.running) == (request.state is State.RUNNING), request
            assert (request.id in self.paged) == (request.state is State.PAGED), request
        queued = [*self.waiting, *self.newcomers]
        assert sorted(r.id for r in queued) == sorted(r.id for r in live if r.state is State.WAITING)


_HANDLERS: dict[type[Any], Callable[[Scheduler, Any], None]] = {
    Arrived: Scheduler._arrived,
    StepDone: Scheduler._step_done,
    TransferDone: Scheduler._transfer_done,
    Aborted: Scheduler._aborted,
    TierResized: Scheduler._tier_resized,
}
