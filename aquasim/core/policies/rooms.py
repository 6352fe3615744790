"""What tiers have room for, counting copies of requests that run: those can be given up for somebody who leaves."""

from typing import TYPE_CHECKING

from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler


def lacks(request: Request, tier: str) -> int:
    """Return the blocks that a resident request would have to be given in a tier."""
    return len(request.blocks) - (len(request.copy) if tier == request.copy_tier else 0)


def room(tier: str, s: "Scheduler") -> int:
    """Return a tier's blocks that are free, or hold copies of those that run."""
    copies = [len(r.copy) for r in s.running.values() if r.copy_tier == tier and r.blocks]
    return s.pager.tiers[tier].free + sum(copies)
