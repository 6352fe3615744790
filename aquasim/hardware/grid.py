"""Tables of time over logarithmic axes: multilinear in log2 of coordinates and time."""

from bisect import bisect_right
from dataclasses import dataclass
from math import log2
from typing import Any


@dataclass(frozen=True, slots=True)
class Grid:
    """log2 of nanoseconds (`values`, last axis fastest) at the knots of a grid (`axes`, log2 of the knots).

    Coordinates below the first knot of an axis count as the first; beyond the last, time grows in proportion.
    """

    axes: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]

    @classmethod
    def from_block(cls, block: dict[str, Any]) -> "Grid":
        """Read a profile's block (`knots`, `milli_log2_ns`); KeyError or ValueError if malformed."""
        axes = tuple(tuple(log2(knot) for knot in axis) for axis in block["knots"])
        values = tuple(value / 1000 for value in block["milli_log2_ns"])
        size = 1
        for axis in axes:
            size *= len(axis)
        if size != len(values):
            raise ValueError(f"grid of {size} knots has {len(values)} values")
        return cls(axes, values)

    def fix(self, *coordinates: float, grow: bool = True) -> "Grid":
        """Return the grid over the remaining axes with the first ones held at `coordinates`.

        `grow` says whether time grows beyond a last knot; without it the last knot holds.
        """
        grid = self
        for coordinate in coordinates:
            grid = grid._fix_first(coordinate, grow)
        return grid

    def _fix_first(self, coordinate: float, grow: bool) -> "Grid":
        cell, share, beyond = locate(self.axes[0], log2(coordinate))
        extra = beyond if grow else 0.0
        size = len(self.values) // len(self.axes[0])
        low = self.values[cell * size : (cell + 1) * size]
        high = self.values[(cell + 1) * size : (cell + 2) * size] or low
        return Grid(self.axes[1:], tuple(a + (b - a) * share + extra for a, b in zip(low, high, strict=True)))

    def turn(self) -> "Grid":
        """Return the same grid with its first axis moved to the end."""
        first, *rest = self.axes
        size = len(self.values) // len(first)
        values = (self.values[i * size + j] for j in range(size) for i in range(len(first)))
        return Grid((*rest, first), tuple(values))

    def ns(self, coordinate: float) -> float:
        """Return nanoseconds at a coordinate of the one remaining axis."""
        axis, values = self.axes[0], self.values
        cell, share, beyond = locate(axis, log2(coordinate))
        low = values[cell]
        return float(2.0 ** (low + (values[cell + 1] - low) * share + beyond if share else low + beyond))


def locate(axis: tuple[float, ...], value: float) -> tuple[int, float, float]:
    """Return the cell of `value`, how far into it (0 to 1), and how far beyond the axis, all in log2."""
    if value <= axis[0]:
        return 0, 0.0, 0.0
    if value >= axis[-1]:
        return len(axis) - 1, 0.0, value - axis[-1]
    cell = bisect_right(axis, value) - 1
    return cell, (value - axis[cell]) / (axis[cell + 1] - axis[cell]), 0.0
