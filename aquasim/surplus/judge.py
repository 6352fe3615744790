"""From a sweep to one signed number: bytes a GPU can lend, or lacks."""

from collections.abc import Sequence
from typing import NamedTuple

from aquasim.surplus.sweep import Point

SATURATED = 0.95
"""Share of the best throughput from which more requests no longer pay."""


class Judgement(NamedTuple):
    """`surplus_bytes` on each GPU: what is left of `room_bytes` beside the cache at `point`; negative: lacking."""

    surplus_bytes: int
    room_bytes: int
    point: Point
    saturated: bool


def judge(points: Sequence[Point], room_bytes: int) -> Judgement:
    """Return what is over, or missing, at the least load that saturates throughput (AQUA's profiler).

    A GPU that is compute-bound saturates early and has memory to lend; one whose throughput still climbs at the
    last point is short of memory if that point does not fit. Raises ValueError for an empty sweep.
    """
    if not points:
        raise ValueError("a sweep of at least one point is needed")
    ordered = sorted(points, key=lambda point: point.kv_bytes)
    best = max(point.tokens_per_s for point in ordered)
    chosen = next(point for point in ordered if point.tokens_per_s >= SATURATED * best)
    return Judgement(room_bytes - chosen.kv_bytes, room_bytes, chosen, chosen is not ordered[-1])
