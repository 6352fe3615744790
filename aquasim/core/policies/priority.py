"""Static priorities, as vLLM V1's `--scheduling-policy priority`."""

from typing import TYPE_CHECKING

from aquasim.core.policies.base import Policy
from aquasim.core.queues import Queue, Ranked
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler


class Priority(Policy):
    """Smaller priority first, ties by arrival; the greatest running one is preempted and recomputed.

    A waiting request never preempts a running one by itself: only a shortage of blocks does (as in vLLM).
    """

    in_order = True

    def queue(self) -> Queue:
        """Order by priority, then arrival."""
        return Ranked(lambda request: request.priority)

    def victim(self, s: "Scheduler") -> Request:
        """Return the running request of greatest priority value, the latest of them."""
        return max(s.running.values(), key=lambda r: (r.priority, r.arrival, r.id))
