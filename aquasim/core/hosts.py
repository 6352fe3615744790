"""The host's part of an iteration: who decodes there, and where their KV lives (NEO, section 3.2)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aquasim.core.events import Lanes
from aquasim.core.request import Request, State
from aquasim.core.sides import Side, remains

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

HOST = "host"
"""The tier whose cores compute."""


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


# --- who decodes there ----------------------------------------------------------------------------------------


def hide(s: "Scheduler", pair: list[Side], slots: int, candidates: Iterable[Request], spare: int) -> None:
    """Give the host as many decodes as the GPU's work hides: in order, first fit, none as long as one refused.

    `spare`: the host's blocks for their growth.
    """
    cut, target = 1 << 62, 1
    for request in candidates:
        if slots < 1:
            return
        more = grows(s, request)
        if request.total >= cut or more > spare or request.copy_tier != HOST:
            continue
        side = pair[target]
        side.push(request)
        left = remains(pair)
        if left[0] < 0 or left[1] < 0:
            side.pop()
            cut = request.total
            continue
        slots -= 1
        spare -= more
        target = 1 if left[1] > left[0] else 0


def share(s: "Scheduler", sides: list[Side], slots: int, staged: int) -> None:
    """Give the host all decodes there are, each to the side with more time left."""
    spare = spare_blocks(s, sides[0], staged)
    for request in s.paged.values():
        if slots < 1:
            return
        more = grows(s, request)
        if more > spare or request.copy_tier != HOST:
            continue
        target = 0
        if len(sides) > 1:
            left = remains(sides)
            target = 1 if left[1] > left[0] else 0
        sides[target].push(request)
        slots -= 1
        spare -= more


def spare_blocks(s: "Scheduler", side: Side, staged: int) -> int:
    """Blocks of the host for growth, beside those that staged prompts will take."""
    taken = sum([s.blocks_for(request.total) for request in side.prefills[len(side.prefills) - staged :]])
    return s.pager.tiers[HOST].free - taken if HOST in s.pager.tiers else 0


def grows(s: "Scheduler", request: Request) -> int:
    """Blocks that a decode on the host adds."""
    return s.blocks_for(request.total) - len(request.copy)


# --- what is done about it ------------------------------------------------------------------------------------


def commit(s: "Scheduler", sides: list[Side], staged: tuple[int, ...]) -> None:
    """Give the growth of the host's decodes its blocks, and leave the host's part in `s.lanes`."""
    for side in sides:
        for request in side.host:
            request.copy += s.pager.tiers[HOST].take(grows(s, request))
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
