"""Ranges of scenario values, and samples from them: random, Latin hypercube, or one by one for a search."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from aquasim.scenario.schema import Positive, Table

Number = Annotated[float, Field(allow_inf_nan=False)]
LARGEST_SEED = 2**63 - 1
"""What is stored as a 64-bit integer."""
MOST_SEEDS = 1_000_000
Seed = Annotated[int, Field(strict=True, ge=0, le=LARGEST_SEED)]


def _finite(value: Any) -> Any:
    """Refuse numbers that are none, also within lists and tables."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in inner:
        _finite(each)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("input should be a finite number")
    return value


Value = Annotated[Any, AfterValidator(_finite)]
"""A value of any scenario key."""


class _Span(Table):
    """From `low` to `high`."""

    low: Any
    high: Any

    @model_validator(mode="after")
    def _ordered(self) -> "_Span":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class LinearRange(_Span):
    """Any number from `low` to `high`, all alike."""

    kind: Literal["linear"]
    low: Number
    high: Number

    def at(self, share: float) -> float:
        """Return the value at a share, 0 to 1, of the range."""
        return self.low + (self.high - self.low) * share


class LogRange(_Span):
    """Any number from `low` to `high`, every factor alike."""

    kind: Literal["log"]
    low: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    high: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def at(self, share: float) -> float:
        """Return the value at a share, 0 to 1, of the range."""
        value = math.exp(math.log(self.low) + math.log(self.high / self.low) * share)
        return min(max(value, self.low), self.high)


class IntegerRange(_Span):
    """Any whole number from `low` to `high`, both included."""

    kind: Literal["integer"]
    low: int
    high: int

    def at(self, share: float) -> int:
        """Return the value at a share, 0 to 1, of the range."""
        return min(self.low + int(share * (self.high - self.low + 1)), self.high)


class ChoiceRange(Table):
    """One of `values`."""

    kind: Literal["choice"]
    values: tuple[Value, ...] = Field(min_length=1)

    def at(self, share: float) -> Any:
        """Return the value at a share, 0 to 1, of the range."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Range = Annotated[LinearRange | LogRange | IntegerRange | ChoiceRange, Field(discriminator="kind")]


class SampleTable(Table):
    """`[sample]`: `count` points of `ranges`, drawn at random or as a Latin hypercube, the same for one `seed`."""

    kind: Literal["random", "latin"] = "latin"
    count: Positive
    seed: Seed = 0
    ranges: dict[str, Range] = Field(min_length=1)


def sample(table: SampleTable) -> list[tuple[tuple[str, Any], ...]]:
    """Draw the points: each a value per key, in the order of the ranges."""
    return [
        tuple((key, of.at(share)) for (key, of), share in zip(table.ranges.items(), row, strict=True))
        for row in unit_points(table.kind, table.count, len(table.ranges), table.seed)
    ]


def unit_points(kind: str, count: int, dimensions: int, seed: int) -> list[list[float]]:
    """Draw `count` points of the unit cube; "latin": one in each of `count` slices along every axis."""
    import numpy as np

    generator = np.random.default_rng(seed)
    if kind == "latin":
        from scipy.stats import qmc

        points = qmc.LatinHypercube(dimensions, seed=generator).random(count)
    else:
        points = generator.random((count, dimensions))
    found: list[list[float]] = points.tolist()
    return found


def ends(of: Range) -> Sequence[Any]:
    """Return values that stand for a range when its key is checked."""
    return of.values if isinstance(of, ChoiceRange) else (of.low, of.high)


def all_ends(ranges: Mapping[str, Range]) -> list[tuple[tuple[str, Any], ...]]:
    """Return single changes that stand for every range."""
    return [((key, value),) for key, of in ranges.items() for value in ends(of)]
