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

from typing import TYPE_CHECKING

from aquasim.core.chunked import Chunks, repeats
from aquasim.core.hosts import HOST, commit, hide, host_room, share, spare_blocks, stage
from aquasim.core.limits import Limits
from aquasim.core.policies.base import FOREVER, LaneRules, Policy
from aquasim.core.predictor import Curve, Predictor, Surface
from aquasim.core.request import Request, State
from aquasim.core.sides import Side, hides, spare_prompts

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

PILE = 4
"""Requests that a host may have for each that decodes there, and beside them."""
CHEAP = 0.05
"""Of the time of a prompt by itself."""
FADE = 1 - 1 / 64
"""How the most, and the mean, that lately decoded there in one iteration is forgotten, per decision with lanes."""
FEW = 0.5
"""One every other iteration."""


_NOTHING = Predictor(
    1, Curve([1], [0.0]), Curve([1], [0.0]), Curve([1], [0.0]), Surface([1], [Curve([1], [0.0])]), 0.0
)


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
        share(s, pair, slots, len(host))
        return pair, len(host)
    if rules.guarded and s.hosted < 1 and host and not (_is_cheap(s, host[0]) or hides(pair, host[0])):
        for _ in host:
            pair[0].drop()
            alone.drop()
        host = []
    if not alone.sequences:
        if rules.guarded:
            share(s, [pair[1]], slots, 0)
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
    hide(s, pair, slots, s.paged.values(), spare_blocks(s, pair[0], staged))
    if not pair[1].host:
        return [alone], left
    staged -= spare_prompts(pair, staged, rules.flat)
    served, time = pair[0].sequences + pair[1].sequences, pair[0].gpu + pair[1].gpu
    if served * alone.gpu > alone.sequences * time:
        return pair, staged
    return [alone], left


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
    commit(s, sides, tuple([request.id for request in prefills[split:]]))
    return chunks
