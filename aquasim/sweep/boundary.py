"""Where something stops, or starts, to hold: a coarse grid first, then bisection between two neighbours.

The grid is there to see what bisection alone would miss: values that hold beyond others that do not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Meets = Callable[[Sequence[float]], Sequence[bool]]
"""Says of values, asked for together, whether it holds."""


@dataclass(frozen=True)
class Scale:
    """How finely values are told apart: `precision` is a share of the value, or (linear) a difference."""

    geometric: bool = True
    integer: bool = False
    precision: float = 0.02

    def between(self, low: float, high: float) -> float | None:
        """Return the middle of two values; None if they are near enough."""
        near = (
            high <= low * (1 + self.precision) if self.geometric and low > 0 else high - low <= self.precision
        )
        middle = math.sqrt(low * high) if self.geometric and low > 0 else (low + high) / 2
        if self.integer:
            middle, near = float(round(middle)), near and high - low < 2
            near = near or middle in (low, high)
            if near and high - low >= 2:
                return low + 1.0
            return None if near else middle
        return None if near else middle

    def spread(self, low: float, high: float, count: int) -> list[float]:
        """Return `count` values from low to high, both included, evenly spread; whole ones once each."""
        shares = [index / (count - 1) for index in range(count)]
        if self.geometric and low > 0:
            values = [low * (high / low) ** share for share in shares]
        else:
            values = [low + (high - low) * share for share in shares]
        values[-1] = high
        return sorted({float(round(value)) for value in values}) if self.integer else values


@dataclass(frozen=True)
class Boundary:
    """The last value that meets (`value`; None: none does) and the next tried one that does not (`beyond`).

    `tried` has every value with whether it met.
    """

    value: float | None
    beyond: float | None
    tried: dict[float, bool]
    side: Literal["highest", "lowest"]

    @property
    def strays(self) -> list[float]:
        """Tried values on the wrong side: met beyond the boundary, or missed before it. Empty if monotone."""
        found = []
        for value, met in sorted(self.tried.items()):
            if self.value is None:
                inside = False
            else:
                inside = value <= self.value if self.side == "highest" else value >= self.value
            if met != inside:
                found.append(value)
        return found


def highest(meets: Meets, values: Sequence[float], scale: Scale) -> Boundary:
    """Find the highest value up to which every tried one meets, starting from a grid of values."""
    return _find(meets, values, scale, "highest")


def lowest(meets: Meets, values: Sequence[float], scale: Scale) -> Boundary:
    """Find the lowest value that meets, starting from a grid of values."""
    return _find(meets, values, scale, "lowest")


def _find(
    meets: Meets, values: Sequence[float], scale: Scale, side: Literal["highest", "lowest"]
) -> Boundary:
    tried = dict(zip(values, meets(values), strict=True))
    while True:
        ordered = sorted(tried)
        turn = next((i for i, v in enumerate(ordered) if tried[v] == (side == "lowest")), len(ordered))
        low = ordered[turn - 1] if turn else None
        high = ordered[turn] if turn < len(ordered) else None
        if low is None or high is None:
            break
        middle = scale.between(low, high)
        if middle is None:
            break
        tried[middle] = next(iter(meets([middle])))
    return Boundary(low, high, tried, side) if side == "highest" else Boundary(high, low, tried, side)
