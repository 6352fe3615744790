"""Iterations with lanes: some requests live in host memory and decode on its cores, beside the GPU (NEO).

A request is wholly on the GPU (`running`) or wholly on the host (`paged`, oldest first; its copy is all there is).
Sub-batch 0 has all prefills, all decodes of the GPU and a few of the host; sub-batch 1 only decodes of the host.
While the GPU is at the products of one, the host is at the attention of the other. NEO, section 3.2, appendix A.

Guards (`LaneRules.guarded`), each against a standstill of the released scheduler:
- big: with nobody on the GPU, a request may return up to all of its blocks, not only `swap_in` of them;
- alone: with nothing for the GPU to do, the host's requests decode all the same;
- first: a prompt bound for the GPU is not held back by a full host;
- full: when the host has no block left and nothing else can go on, its newest request starts over.
Two more are against losses. Prompts that go to a host which does not keep up come back over PCIe, one by one; and
where it hardly decodes, it gains nothing that is worth the part of HBM which `swap_in` leaves free:
- slow: no prompt goes there while over `PILE` times as many are there as decode, or none decodes and this iteration
  would not hide one like it either; unless its return costs next to nothing (`CHEAP`);
- idle: while fewer than `FEW` decode there in the mean of the last iterations, requests return to all of HBM.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aquasim.core.chunked import Chunks, repeats
from aquasim.core.events import Lanes
from aquasim.core.limits import Limits
from aquasim.core.policies.base import FOREVER, LaneRules, Policy
from aquasim.core.predictor import Curve, Predictor, Surface
from aquasim.core.request import Request, State

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

HOST = "host"
"""The tier whose cores compute."""
PILE = 4
"""Requests that a host may have for each that decodes there, and beside them."""
CHEAP = 0.05
"""Of the time of a prompt by itself."""
FADE = 1 - 1 / 64
"""How the most, and the mean, that lately decoded there in one iteration is forgotten, per iteration."""
FEW = 0.5
"""One every other iteration."""


_NOTHING = Predictor(
    1, Curve([1], [0.0]), Curve([1], [0.0]), Curve([1], [0.0]), Surface([1], [Curve([1], [0.0])]), 0.0
)


class Side:
    """A sub-batch as it is put together, and what its parts take per layer (ns)."""

    __slots__ = (
        "attention",
        "host",
        "host_ns",
        "linear",
        "prefills",
        "sequences",
        "tables",
        "tokens",
        "width",
    )

    def __init__(self, tables: Predictor) -> None:
        self.tables = tables
        self.width = 0
        """Tokens that go through the products."""
        self.sequences = 0
        self.linear = 0.0
        self.attention = 0.0
        """On the GPU."""
        self.prefills: list[Request] = []
        self.host: list[Request] = []
        self.tokens = 0
        """KV tokens of `host`."""
        self.host_ns = 0.0

    @property
    def gpu(self) -> float:
        """Time of the GPU."""
        return self.linear + self.attention

    def widen(self, tokens: int) -> None:
        """Put so many tokens more (or fewer) through the products."""
        self.width += tokens
        self.linear = self.tables.linear.at(self.width)

    def prefill(self, request: Request) -> None:
        """Add a prompt."""
        self.prefills.append(request)
        self.sequences += 1
        self.attention += self.tables.prefill.at(request.total)
        self.widen(request.total)

    def chunk(self, request: Request, count: int) -> None:
        """Add a part of a prompt; only its last one makes a token."""
        end = request.computed + count
        self.sequences += end == request.total
        self.attention += self.tables.prefill.at(end) - self.tables.prefill.at(request.computed)
        self.widen(count)

    def drop(self) -> None:
        """Take the last prompt out."""
        request = self.prefills.pop()
        self.sequences -= 1
        self.attention -= self.tables.prefill.at(request.total)
        self.widen(-request.total)

    def decode(self, count: int, tokens: int) -> None:
        """Add decodes on the GPU."""
        self.sequences += count
        self.attention += self.tables.gpu_decode.at(tokens)
        self.widen(count)

    def push(self, request: Request) -> None:
        """Add a decode on the host."""
        self.host.append(request)
        self._change(1, request.total)

    def pop(self) -> None:
        """Take the last decode on the host out."""
        self._change(-1, -self.host.pop().total)

    def _change(self, count: int, tokens: int) -> None:
        self.sequences += count
        self.tokens += tokens
        self.host_ns = self.tables.host_decode.at(len(self.host), self.tokens)
        self.widen(count)


def check(limits: Limits, policy: Policy) -> None:
    """Raise ValueError where an engine of these sizes cannot have iterations with lanes."""
    rules, size = policy.lanes, limits.block_size
    if rules is None:
        return
    if limits.prefix_caching or limits.max_loras:
        raise ValueError("iterations with lanes know neither prefix caching nor adapters")
    if rules.beside and limits.prefill != "chunked":
        raise ValueError("lanes beside time slices need chunked prefill")
    if not rules.beside and limits.max_num_batched_tokens < limits.max_model_len:
        raise ValueError(
            f"iterations with lanes have whole prompts: max_num_batched_tokens {limits.max_num_batched_tokens}"
            f" must be at least max_model_len {limits.max_model_len}"
        )
    blocks = dict(limits.tiers).get(HOST, 0)
    if rules.host and not rules.beside and blocks * size < limits.max_model_len:
        raise ValueError(
            f"the host's KV cache of {blocks} blocks of {size} tokens holds no request of max_model_len"
            f" {limits.max_model_len}; give it more memory or lower max_model_len"
        )


def build(s: "Scheduler") -> tuple[Chunks, bool, int]:
    """Decide one iteration and leave the host's part in `s.lanes`.

    Returns:
        Prompts as (request, tokens), whether the GPU decodes, and how often the step may repeat.
    """
    rules = s.policy.lanes
    assert rules is not None
    if s.parked:
        s.unpark()
    out = _swap_out(s)
    if not out and rules.gpu and s.paged:
        _swap_in(s, rules)
        s.unpark()
    sides, staged = _decide(s, rules, out)
    chunks = _commit(s, sides, staged)
    hosted = sum([len(side.host) for side in sides])
    s.hosted = max(FADE * s.hosted, float(hosted))
    s.hosting += (1 - FADE) * (hosted - s.hosting)
    busy = s.batch.count > 0
    if rules.guarded and not (chunks or busy or s.lanes) and s.paged:
        _start_over(s)
    alone = busy and not (chunks or s.paged or s.waiting or s.lanes)
    return chunks, busy, repeats(s) if alone else 1


# --- requests change places ------------------------------------------------------------------------------------


def _swap_out(s: "Scheduler") -> bool:
    """Move the newest decoders to the host while growth or the budget asks for it; they are its first to return."""
    most = min(s.limits.max_num_seqs, s.limits.max_num_batched_tokens)
    out: list[Request] = []
    while s.running and (s.batch.count > most or len(s.batch.growing()) > s.pool.free):
        victim = next(reversed(s.running.values()))
        s.preempt(victim)
        out.append(victim)
    first = {r.id: r for r in reversed(out) if r.state is State.PAGED}
    if first:
        s.paged = first | s.paged
    return bool(out)


def _swap_in(s: "Scheduler", rules: LaneRules) -> None:
    """Bring the host's oldest requests to the GPU, up to the first that does not fit."""
    most = min(s.limits.max_num_seqs, s.limits.max_num_batched_tokens)
    capacity = s.pool.capacity
    room = round(rules.swap_in * capacity) if rules.host else capacity
    held = _held(s)
    idle = s.hosting < FEW
    for request in list(s.paged.values()):
        need = s.blocks_for(request.total)
        limit = capacity if rules.guarded and (idle or not s.running) else room
        if held + need > limit or len(s.running) >= most:
            return
        s.bring_back(request)
        held += need


def _held(s: "Scheduler") -> int:
    """Blocks of HBM that decoders hold once this iteration's growth is given."""
    return s.pool.held + len(s.batch.growing())


def _start_over(s: "Scheduler") -> None:
    """Have the host's newest request give up its memory."""
    request = next(reversed(s.paged.values()))
    s.preempted.append(request.id)
    s.pager.drop_copy(request)
    s.forget(request)


# --- the plan of an iteration ------------------------------------------------------------------------------------


def _decide(s: "Scheduler", rules: LaneRules, out: bool) -> tuple[list[Side], int]:
    """Choose between two lanes and the GPU alone.

    Returns:
        Sub-batches, the first with all prompts, and how many of these are bound for the host.
    """
    gpu, host, slots = _candidates(s, rules, out)
    tables = s.policy.predictor
    if not rules.host:
        return [_gpu_only(gpu)], 0
    assert tables is not None, "this policy needs a predictor"
    pair, alone = [Side(tables), Side(tables)], Side(tables)
    for side in (pair[0], alone):
        for request in [*gpu, *host]:
            side.prefill(request)
        if s.batch.count:
            side.decode(s.batch.count, s.batch.context + s.batch.count)
    if not rules.gpu:
        _share(s, pair, slots, len(host))
        return pair, len(host)
    if rules.guarded and s.hosted < 1 and host and not (_is_cheap(s, host[0]) or _hides(pair, host[0])):
        for _ in host:
            pair[0].drop()
            alone.drop()
        host = []
    if not alone.sequences:
        if rules.guarded:
            _share(s, [pair[1]], slots, 0)
        return pair, 0
    return _choose(s, rules, pair, alone, slots, len(host))


def _gpu_only(prefills: list[Request]) -> Side:
    """Return a sub-batch that nobody times."""
    side = Side(_NOTHING)
    side.prefills = prefills
    return side


def _choose(
    s: "Scheduler", rules: LaneRules, pair: list[Side], alone: Side, slots: int, staged: int
) -> tuple[list[Side], int]:
    """NEO's greedy choice: whichever plan serves more requests per time of the GPU."""
    left = staged
    while left and alone.width - alone.prefills[-1].total >= rules.flat:
        alone.drop()
        left -= 1
    hide(s, pair, slots, s.paged.values(), _spare(s, pair[0], staged))
    if not pair[1].host:
        return [alone], left
    staged -= spare_prompts(pair, staged, rules.flat)
    served, time = pair[0].sequences + pair[1].sequences, pair[0].gpu + pair[1].gpu
    if served * alone.gpu > alone.sequences * time:
        return pair, staged
    return [alone], left


def _hides(pair: list[Side], request: Request) -> bool:
    """Say whether an iteration hides a decode on the host as long as a prompt."""
    pair[1].push(request)
    hidden = min(remains(pair)) >= 0
    pair[1].pop()
    return hidden


def spare_prompts(pair: list[Side], staged: int, flat: int) -> int:
    """Drop the newest prompts bound for the host that nothing needs to hide behind; return how many."""
    first, dropped = pair[0], 0
    while dropped < staged and first.width - first.prefills[-1].total >= flat:
        request = first.prefills[-1]
        first.drop()
        if min(remains(pair)) < 0:
            first.prefill(request)
            break
        dropped += 1
    return dropped


def remains(pair: list[Side]) -> tuple[float, float]:
    """Time per layer that the GPU's work leaves the host in each sub-batch; negative where it does not hide it."""
    first, second = pair
    launch = first.tables.launch_ns
    return (
        second.linear + first.attention - first.host_ns - launch,
        first.linear + second.attention - second.host_ns - launch,
    )


def _candidates(s: "Scheduler", rules: LaneRules, out: bool) -> tuple[list[Request], list[Request], int]:
    """Waiting prompts that fit, in order: first those for the GPU, and once one goes to the host all go there.

    Returns:
        Those for the GPU, those for the host, and how many sequences more the iteration may have.
    """
    gpu: list[Request] = []
    host: list[Request] = []
    slots = s.limits.max_num_seqs - s.batch.count
    tokens = s.limits.max_num_batched_tokens - s.batch.count
    if not rules.host and (out or s.paged):
        return gpu, host, min(slots, tokens)
    capacity = s.pool.capacity if rules.gpu else 0
    held = _held(s)
    room, staging = host_room(s, capacity), s.pool.capacity
    pile = PILE * max(1.0, s.hosted) if rules.guarded and rules.gpu else FOREVER
    for request in s.waiting:
        need = s.blocks_for(request.total)
        fits = held + need <= capacity and not host
        if slots < 1 or tokens < request.total:
            break
        if need > min(room, staging) and rules.host and not (rules.guarded and fits):
            break
        if fits:
            held += need
            gpu.append(request)
        elif rules.host and (len(s.paged) + len(host) < pile or _is_cheap(s, request)):
            room -= need
            staging -= need
            host.append(request)
        else:
            break
        slots -= 1
        tokens -= request.total
    return gpu, host, min(slots, tokens)


def _is_cheap(s: "Scheduler", request: Request) -> bool:
    """Say whether a prompt that goes to the host comes back in a small part of the time that it computes."""
    tables = s.policy.predictor
    assert tables is not None
    copying = tables.copies.get(HOST)
    blocks = s.blocks_for(request.total)
    return copying is not None and blocks * copying.back <= CHEAP * tables.recompute(request.total)


def host_room(s: "Scheduler", reserve: int) -> int:
    """Blocks of the host that new prompts may have: `reserve` stays, for all that the GPU may have to give up."""
    pool = s.pager.tiers.get(HOST)
    if pool is None:
        return 0
    held = sum([len(request.copy) for request in s.paged.values() if request.copy_tier == HOST])
    kept = sum(
        [len(request.copy) for request in s.running.values() if request.blocks and request.copy_tier == HOST]
    )
    return min(pool.capacity - reserve - held, pool.free + kept - len(s.paged) // s.limits.block_size)


def hide(s: "Scheduler", pair: list[Side], slots: int, candidates: Iterable[Request], spare: int) -> None:
    """Give the host as many decodes as the GPU's work hides: in order, first fit, none as long as one refused.

    `spare`: the host's blocks for their growth.
    """
    cut, target = 1 << 62, 1
    for request in candidates:
        if slots < 1:
            return
        grows = _grows(s, request)
        if request.total >= cut or grows > spare or request.copy_tier != HOST:
            continue
        side = pair[target]
        side.push(request)
        left = remains(pair)
        if left[0] < 0 or left[1] < 0:
            side.pop()
            cut = request.total
            continue
        slots -= 1
        spare -= grows
        target = 1 if left[1] > left[0] else 0


def _share(s: "Scheduler", sides: list[Side], slots: int, staged: int) -> None:
    """Give the host all decodes there are, each to the side with more time left."""
    spare = _spare(s, sides[0], staged)
    for request in s.paged.values():
        if slots < 1:
            return
        grows = _grows(s, request)
        if grows > spare or request.copy_tier != HOST:
            continue
        target = 0
        if len(sides) > 1:
            left = remains(sides)
            target = 1 if left[1] > left[0] else 0
        sides[target].push(request)
        slots -= 1
        spare -= grows


def _spare(s: "Scheduler", side: Side, staged: int) -> int:
    """Blocks of the host for growth, beside those that staged prompts will take."""
    taken = sum([s.blocks_for(request.total) for request in side.prefills[len(side.prefills) - staged :]])
    return s.pager.tiers[HOST].free - taken if HOST in s.pager.tiers else 0


def _grows(s: "Scheduler", request: Request) -> int:
    """Blocks that a decode on the host adds."""
    return s.blocks_for(request.total) - len(request.copy)


# --- what is done about it ---------------------------------------------------------------------------------------


def _commit(s: "Scheduler", sides: list[Side], staged: int) -> Chunks:
    """Start the prompts, give growth its blocks, and note the host's part."""
    prefills = sides[0].prefills
    chunks = [(request, request.total) for request in prefills]
    split = len(prefills) - staged
    for request in prefills[:split]:
        s.start(request, [], request.total)
    for request in prefills[split:]:
        stage(s, request)
    if s.batch.count:
        s.batch.grow_now(s.pool)
    commit_host(s, sides, tuple([request.id for request in prefills[split:]]))
    return chunks


def commit_host(s: "Scheduler", sides: list[Side], staged: tuple[int, ...]) -> None:
    """Give the growth of the host's decodes its blocks, and leave the host's part in `s.lanes`."""
    for side in sides:
        for request in side.host:
            request.copy += s.pager.tiers[HOST].take(_grows(s, request))
    s.lanes = _lanes(sides, staged)


def _lanes(sides: list[Side], staged: tuple[int, ...]) -> Lanes | None:
    first = tuple([request.id for side in sides[:1] for request in side.host])
    second = tuple([request.id for side in sides[1:] for request in side.host])
    if not (first or second or staged):
        return None
    tokens = sides[0].tokens if sides else 0
    return Lanes(first, second, tokens, sum([side.tokens for side in sides[1:]]), staged)


def stage(s: "Scheduler", request: Request) -> None:
    """Start a prompt whose KV leaves for the host as it is computed: it holds no HBM but the staging layer's."""
    assert s.waiting.take() is request
    request.blocks, request.computed, request.prefilled = [], 0, False
    request.state = State.RUNNING
    s.running[request.id] = request
    s.prefilling[request.id] = request
    s.pager.settle_in(request, HOST, s.blocks_for(request.total))


def settle(s: "Scheduler", request: Request) -> None:
    """A staged prompt is computed: it is the host's newest request."""
    del s.running[request.id]
    request.state = State.PAGED
    request.copied = request.computed
    s.paged[request.id] = request


def advance(s: "Scheduler", lanes: Lanes) -> None:
    """The host's decodes have each made a token."""
    for id in lanes.first + lanes.second:
        request = s.requests[id]
        request.computed += 1
        request.total += 1
        request.copied = request.computed
        request.rank += s.policy.slope


def in_step(s: "Scheduler", request: Request) -> bool:
    """Whether the step that is out reads a request's cache."""
    if request.state is State.RUNNING:
        return True
    return s.lanes is not None and request.id in s.lanes.first + s.lanes.second
