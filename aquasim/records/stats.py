"""Exact percentiles of plain samples and of weighted arithmetic progressions, and Jain's index.

One definition of a percentile everywhere: the smallest value that at least q percent of the sample do not
exceed (nearest rank). It is always a value that occurred, and it is the same for a sample and for its
weighted form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def percentiles(values: NDArray[Any], percents: Sequence[float]) -> list[float]:
    """Return the nearest-rank percentiles of a non-empty sample, in its unit."""
    ranks = [max(0, ceil(len(values) * q / 100) - 1) for q in percents]
    ordered = np.partition(values, ranks)
    return [float(ordered[rank]) for rank in ranks]


def jain(shares: Floats) -> float:
    """Jain's fairness index (sum x)^2 / (n * sum x^2): 1 if all are equal, 1/n if one has everything."""
    return float(shares.sum() ** 2 / (len(shares) * np.square(shares).sum()))


@dataclass(frozen=True, eq=False)
class Progressions:
    """Integers as arithmetic progressions: `first`, `first + growth`, ... `last`, each of weight `weight`.

    `growth` is 0 for a single value (`first == last`) and positive otherwise; values are not negative,
    weights positive. So a row of like iterations is one entry, and nothing is expanded.
    """

    first: Ints
    last: Ints
    growth: Ints
    weight: Ints

    @classmethod
    def of_runs(cls, first: Ints, growth: Ints, count: Ints, weight: Ints) -> "Progressions":
        """Progressions of `count` values each; those of no weight or no value are left out.

        Falling ones are turned round; those that do not change become one value of `count` times the weight.
        """
        kept = np.flatnonzero((count > 0) & (weight > 0))
        first, growth, count, weight = first[kept], growth[kept], count[kept], weight[kept]
        last = first + growth * (count - 1)
        flat = np.flatnonzero(first == last)
        weight[flat] *= count[flat]
        growth[flat] = 0
        if len(growth) and growth.min() < 0:
            first, last, growth = np.minimum(first, last), np.maximum(first, last), np.abs(growth)
        return cls(first, last, growth, weight)

    @classmethod
    def of_values(cls, values: Ints, weights: Ints) -> "Progressions":
        """Single values with their weights; those of no weight are left out."""
        kept = np.flatnonzero(weights > 0)
        values, weights = values[kept], weights[kept]
        return cls(values, values, np.zeros_like(values), weights)

    @classmethod
    def join(cls, parts: Sequence["Progressions"]) -> "Progressions":
        """Return all of `parts` as one."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((p.first, p.last, p.growth, p.weight) for p in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    @cached_property
    def weights(self) -> Floats:
        """Each progression's weight times its number of values: whole numbers, as sums of floats are faster."""
        rising = np.flatnonzero(self.growth)
        weights = self.weight.astype(np.float64)
        weights[rising] *= (self.last[rising] - self.first[rising]) // self.growth[rising] + 1
        return weights

    def total(self) -> int:
        """Return the sum of all weights."""
        return int(self.weights.sum())

    def mean(self) -> float:
        """Return the weighted mean of all values."""
        return float(np.dot((self.first + self.last).astype(np.float64), self.weights)) / 2 / self.total()

    def max(self) -> int:
        """Return the largest value."""
        return int(self.last.max())

    def percentiles(self, percents: Sequence[float]) -> list[int]:
        """Return the nearest-rank percentiles of the weighted values; there must be some.

        A histogram of firsts and one of lasts enclose each; only entries that reach in between are searched.
        """
        firsts = _bins(self.first)
        lasts, rising = firsts.copy(), np.flatnonzero(self.growth)
        lasts[rising] = _bins(self.last[rising])
        most = np.cumsum(np.bincount(firsts, self.weights, int(lasts.max()) + 1))
        least = np.cumsum(np.bincount(lasts, self.weights))
        found = []
        for percent in percents:
            rank = max(1, ceil(self.total() * percent / 100))
            low, high = np.searchsorted(most, rank), np.searchsorted(least, rank)
            near = np.flatnonzero((firsts <= high) & (lasts >= low))
            below = int(least[low - 1]) if low else 0
            found.append(_select(self._take(near), rank - below))
        return found

    def _take(self, kept: NDArray[Any]) -> "Progressions":
        return Progressions(self.first[kept], self.last[kept], self.growth[kept], self.weight[kept])

    def _count(self, value: int) -> int:
        """Return the weight of all values up to and including `value`."""
        started = np.flatnonzero(self.first <= value)
        first, growth = self.first[started], self.growth[started]
        values = (np.minimum(self.last[started], value) - first) // np.maximum(growth, 1) + 1
        return int(np.dot(values, self.weight[started]))


def _bins(values: Ints) -> NDArray[np.int32]:
    """Return small integers that never fall where `values` (0 or more) rise: 2,048 to an octave."""
    return values.astype(np.float32).view(np.int32) >> 12


def _select(entries: Progressions, rank: int) -> int:
    """Return the `rank`-th smallest value (from 1), by bisection that forgets entries it has passed."""
    low, high = int(entries.first.min()) - 1, entries.max()
    while high - low > 1:
        middle = (low + high) // 2
        if entries._count(middle) >= rank:
            high = middle
            entries = entries._take(entries.first <= high)
        else:
            low = middle
            passed = entries.last <= low
            rank -= int(entries.weights[passed].sum())
            entries = entries._take(~passed)
    return high
