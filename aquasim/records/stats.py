"""Exact percentiles of plain samples and of weighted arithmetic progressions, and Jain's index.

One definition of a percentile everywhere: the smallest value that at least q percent of the sample do not
exceed (nearest rank). It is always a value that occurred, and it is the same for a sample and for its
weighted form.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_SAMPLE = 1024
"""Entries looked at to guess a pivot; below four times as many, bisection alone is cheap."""


def percentiles(values: NDArray[Any], percents: Sequence[float]) -> list[float]:
    """Return the nearest-rank percentiles of a non-empty sample, in its unit."""
    ranks = [max(0, ceil(len(values) * q / 100) - 1) for q in percents]
    ordered = np.partition(values, ranks)
    return [float(ordered[rank]) for rank in ranks]


def jain(shares: Floats) -> float:
    """Jain's fairness index (sum x)^2 / (n * sum x^2): 1 if all are equal, 1/n if one has everything."""
    return float(shares.sum() ** 2 / (len(shares) * np.square(shares).sum()))


class Progressions(NamedTuple):
    """Integers as arithmetic progressions: `first`, `first + growth`, ... `last`, each counted `weight` times.

    `growth` is 0 for a single value (`first == last`) and positive otherwise; weights are positive.
    """

    first: Ints
    last: Ints
    growth: Ints
    weight: Ints

    @classmethod
    def of_runs(cls, first: Ints, growth: Ints, count: Ints, weight: Ints) -> "Progressions":
        """Progressions of `count` values each; those of no weight or no value are left out.

        Falling ones are turned round, and those that do not change become one value of `count` times the weight.
        """
        kept = (count > 0) & (weight > 0)
        if not kept.all():
            first, growth, count, weight = first[kept], growth[kept], count[kept], weight[kept]
        last = first + growth * (count - 1)
        weight = np.where(first == last, weight * count, weight)
        step = np.where(first == last, 0, np.abs(growth))
        return cls(np.minimum(first, last), np.maximum(first, last), step, weight)

    @classmethod
    def of_values(cls, values: Ints, weights: Ints) -> "Progressions":
        """Single values with their weights; those of no weight are left out."""
        kept = weights > 0
        values, weights = values[kept], weights[kept]
        return cls(values, values, np.zeros_like(values), weights)

    @classmethod
    def join(cls, parts: Sequence["Progressions"]) -> "Progressions":
        """Return all of `parts` as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def weights(self) -> Ints:
        """Return each progression's values times their weight."""
        return self.weight * ((self.last - self.first) // np.maximum(self.growth, 1) + 1)

    def total(self) -> int:
        """Return the sum of all weights."""
        return int(self.weights().sum())

    def mean(self) -> float:
        """Return the weighted mean of all values."""
        weights = self.weights()
        return float(np.dot((self.first + self.last) * 0.5, weights) / weights.sum())

    def max(self) -> int:
        """Return the largest value."""
        return int(self.last.max())

    def percentiles(self, percents: Sequence[float]) -> list[int]:
        """Return the nearest-rank percentiles of the weighted values; there must be some."""
        weights = self.weights()
        total = int(weights.sum())
        return [_select(self, weights, max(1, ceil(total * q / 100))) for q in percents]

    def take(self, kept: NDArray[np.bool_]) -> "Progressions":
        """Return the progressions where `kept`."""
        return Progressions(self.first[kept], self.last[kept], self.growth[kept], self.weight[kept])


def weighted_percentile(values: Ints, weights: Ints, percent: float) -> int:
    """Return the smallest value that at least `percent` of the total weight do not exceed."""
    return Progressions.of_values(values, weights).percentiles([percent])[0]


def _select(entries: Progressions, weights: Ints, rank: int) -> int:
    """Return the value of the `rank`-th smallest (from 1), by bisection that forgets what it has passed."""
    low, high = int(entries.first.min()) - 1, int(entries.last.max())
    below = turn = 0
    while high - low > 1:
        share = (rank - below) / max(1, int(weights.sum())) if len(weights) > 4 * _SAMPLE else -1.0
        pivot = _pivot(entries, weights, low, high, share, turn)
        turn += 1
        if below + _count(entries, weights, pivot) >= rank:
            high = pivot
            kept = entries.first <= high
        else:
            low = pivot
            kept = entries.last > low
            below += int(weights.sum() - np.dot(weights, kept))
        entries, weights = entries.take(kept), weights[kept]
    return high


def _count(entries: Progressions, weights: Ints, value: int) -> int:
    """Return the weight of all values up to and including `value`."""
    whole = entries.last <= value
    count = int(np.dot(weights, whole))
    part = np.flatnonzero((entries.first <= value) & ~whole)
    if len(part):
        values = (value - entries.first[part]) // entries.growth[part] + 1
        count += int(np.dot(values, entries.weight[part]))
    return count


def _pivot(entries: Progressions, weights: Ints, low: int, high: int, share: float, turn: int) -> int:
    """Return a value inside (low, high) to compare with next.

    Among many entries a sample says where `share` of the weight lies; a little above and a little below it
    encloses the answer. Every third turn halves the range, so the search ends whatever the sample says.
    """
    middle = (low + high) // 2
    if share < 0 or turn % 3 == 2:
        return middle
    picked = slice(None, None, len(weights) // _SAMPLE)
    centres = (entries.first[picked] + entries.last[picked]) // 2
    order = np.argsort(centres)
    risen = np.cumsum(weights[picked][order])
    wanted = (share + (0.03 if turn % 3 == 0 else -0.03)) * risen[-1]
    guess = int(centres[order][min(np.searchsorted(risen, wanted), len(order) - 1)])
    return min(max(guess, low + 1), high - 1)
