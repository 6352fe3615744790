"""What a policy may decide. The defaults are first come, first served."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aquasim.core.predictor import Predictor
from aquasim.core.queues import Fifo, Queue
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class LaneRules:
    """How `aquasim.core.lanes` splits an iteration between the GPU and the host's cores.

    host: requests may decode on the host. gpu: requests may decode on the GPU. guarded: with the guards against
    livelocks that `aquasim.core.lanes` names. swap_in: requests return to the GPU up to this share of its blocks.
    flat: tokens of a sub-batch below which its products take the same time. beside: iterations are those of chunked
    prefill, in time slices if the policy is sliced, and who is paged to the host decodes beside them
    (`aquasim.core.beside`).
    """

    host: bool = True
    gpu: bool = True
    guarded: bool = True
    swap_in: float = 0.95
    flat: int = 128
    beside: bool = False


class Policy:
    """Short answers to the scheduler's questions. Subclass, override what differs, add one line to `POLICIES`.

    Options are keyword arguments of the subclass's `__init__`; scenario files set them by name.
    """

    oracle = False
    """Needs the true output lengths, which no real server knows."""
    sliced = False
    """Requests take turns: decisions at the end of time slices, newcomers displace running ones."""
    ranked = False
    """Sliced, and newcomers compete by rank with everyone at every step instead of going first."""
    slope = 0
    """How a decoder's rank changes with each token it generates."""
    slice_length = 0
    """Decode iterations in a slice."""
    backfill = False
    """Fill up behind the first request that does not fit, and memory that comes free within a slice."""
    pages = False
    """Preempted requests are paged out (while a tier has room) instead of dropped."""
    keep_copies = True
    """A copy stays in its tier while its request runs, so that only new blocks move the next time."""
    overlap = False
    """Transfers run beside compute and are awaited by the requests concerned, not by the step."""
    in_order = False
    """A shortage of blocks is met request by request in running order, as vLLM does; matters where `victim` is
    not the last in that order, and slices do not care."""

    lanes: LaneRules | None = None
    """Iterations have lanes, by these rules."""
    predictor: Predictor | None = None
    """What iterations are expected to take; whoever makes a policy that needs it sets it."""

    def queue(self) -> Queue:
        """Return the empty waiting queue."""
        return Fifo()

    def admit(self, request: Request, s: "Scheduler") -> None:
        """Look at a newcomer (set its rank)."""
        request.rank = self.rank(request)

    def rank(self, request: Request) -> int:
        """Return a request's place among those that compete for memory, least first."""
        return 0

    def refresh(self, s: "Scheduler") -> None:
        """Bring ranks up to date before a ranked decision."""

    def victim(self, s: "Scheduler") -> Request:
        """Return the running request to preempt when one that runs needs a block and none is free."""
        return next(reversed(s.running.values()))

    def displaced(self, s: "Scheduler", newcomer: Request) -> Request | None:
        """Return the running request that makes room for a newcomer, or None if nobody should."""
        return None

    def places(self, request: Request, s: "Scheduler") -> Iterable[str] | None:
        """Return the tiers that a preempted request may go to, best first; None: all, in their order."""
        return None

    def admits(self, s: "Scheduler") -> bool:
        """Say whether newcomers may start now, memory aside."""
        return True

    def stages(self, newcomer: Request, s: "Scheduler") -> bool:
        """Say whether a newcomer for whom HBM has no room goes to the host rather than displace somebody."""
        return False

    def worthwhile(self, leaving: list[Request], arriving: list[Request], s: "Scheduler") -> bool:
        """Say whether the exchange that the end of a slice would bring is worth its copies."""
        return True

    def hosted(self, count: int, of: int) -> None:
        """Take note that `count` of the `of` requests on the host decode there in this iteration."""

    def horizon(self, s: "Scheduler") -> int:
        """Most decode iterations before a sliced policy wants to decide again."""
        return FOREVER

    def wake_at(self, s: "Scheduler") -> int | None:
        """When to be asked although nothing happens (ns)."""
        return None
