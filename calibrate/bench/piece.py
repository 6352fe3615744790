"""A piece of the calibration: the points of one operator, and how one of them is measured."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.timing import Timing
from aquasim.calibrate.samples import KINDS

Point = Mapping[str, Any]
"""Shape columns (numbers) and labels (text) of one thing to measure."""
Measure = Callable[[Point], Timing]


@dataclass(frozen=True, slots=True)
class Piece:
    """Points of one operator; `open` gives a function that measures one, while memory it needs is held.

    `provenance` says what else a reader of these samples must know.
    """

    operator: str
    points: tuple[Point, ...]
    open: Callable[[Bench], AbstractContextManager[Measure]]
    provenance: Mapping[str, str] = field(default_factory=dict)


def key_of(operator: str, point: Point) -> tuple[float | str, ...]:
    """Return what tells points of one operator apart; a kernel's name does not, nor does an absent label."""
    kind = KINDS[operator]
    labels = tuple(str(point.get(name, "")) for name in kind.labels if name != "kernel")
    named = tuple(str(point["kernel"]) for _ in (0,) if operator == "elementwise")
    return (*(float(point[name]) for name in kind.shape), *labels, *named)
