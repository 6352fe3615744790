"""Oracles: they know output lengths, which no server does. Bounds to compare against, not to deploy."""

from typing import TYPE_CHECKING

from aquasim.core.policies.base import Policy
from aquasim.core.queues import Queue, Ranked
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler


def _output(request: Request) -> int:
    return request.max_tokens if request.output is None else request.output


class Sjf(Policy):
    """Shortest job first: waiting requests by prompt + output, without preempting for it."""

    oracle = True
    in_order = True

    def queue(self) -> Queue:
        """Order by total length."""
        return Ranked(lambda request: request.prompt + _output(request))

    def victim(self, s: "Scheduler") -> Request:
        """Return the longest running job, the latest of them."""
        return max(s.running.values(), key=lambda r: (r.prompt + _output(r), r.arrival, r.id))


class Srpt(Policy):
    """Shortest remaining processing time: at every step the requests with the fewest tokens left that fit.

    Tokens left are prompt tokens to compute plus output tokens to generate. Displaced ones are paged.
    """

    oracle = True
    sliced = True
    ranked = True
    slope = -1
    pages = True

    def queue(self) -> Queue:
        """Order by tokens left."""
        return Ranked(self.rank)

    def rank(self, request: Request) -> int:
        """Return the tokens left."""
        prompt = 0 if request.prefilled else request.total - request.computed
        return prompt + _output(request) - request.generated

    def victim(self, s: "Scheduler") -> Request:
        """Return the running request with most tokens left."""
        decoders = [r for r in s.running.values() if r.decoding]
        return max(decoders or s.running.values(), key=lambda r: (r.rank, r.arrival, r.id))
