"""Adapters: at most so many different ones among the requests that run. The others wait, and are passed over."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aquasim.core.request import Request, State

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler


class Slots:
    """The adapters of some requests, of which there may be at most `most`. Adapter -1 is none and needs no slot."""

    __slots__ = ("most", "used")

    def __init__(self, most: int, requests: Iterable[Request]) -> None:
        self.most = most
        self.used: set[int] = {request.adapter for request in requests}
        self.used.discard(-1)

    def fits(self, request: Request) -> bool:
        """Say whether a request's adapter has a slot or could have one."""
        adapter = request.adapter
        return adapter < 0 or adapter in self.used or len(self.used) < self.most

    def add(self, request: Request) -> None:
        """Give a request's adapter a slot."""
        if request.adapter >= 0:
            self.used.add(request.adapter)


def resident(s: "Scheduler") -> Slots | None:
    """Return the slots that running and returning requests use; None where adapters are not limited."""
    if not s.limits.max_loras:
        return None
    return Slots(s.limits.max_loras, [*s.running.values(), *_arriving(s)])


def fixed(s: "Scheduler") -> Slots | None:
    """Return the slots of requests that stay resident whatever a decision of time slices is."""
    if not s.limits.max_loras:
        return None
    prefilling = [r for r in s.running.values() if not r.decoding]
    return Slots(s.limits.max_loras, [*prefilling, *_arriving(s)])


def _arriving(s: "Scheduler") -> list[Request]:
    """Return the requests whose page-ins are awaited."""
    if not s.pager.arrivals:
        return []
    return [r for r in s.requests.values() if r.state is State.ARRIVING]


def put_back(s: "Scheduler", passed: list[Request]) -> None:
    """Return requests that were passed over to the front of the queue, in their order."""
    for request in reversed(passed):
        s.waiting.push_front(request)
