"""Means over seeds and how sure they are."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over n values and its interval; None where one value, or none, allows no interval."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


@lru_cache(maxsize=1024)
def factor(n: int, confidence: float) -> float:
    """Return Student's t over sqrt(n): half the width of a mean's interval in standard deviations of n values."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return float(stdtrit(n - 1, (1 + confidence) / 2)) / float(np.sqrt(n))


def interval(values: Any, confidence: float = 0.95) -> Interval:
    """Return the mean of some values with Student's t interval (two-sided); NaN is left out."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    n = len(known)
    if not n:
        return Interval(0, None, None, None)
    mean = float(known.mean())
    if n == 1:
        return Interval(1, mean, None, None)
    half = factor(n, confidence) * float(known.std(ddof=1))
    return Interval(n, mean, mean - half, mean + half)


def share_at_least(passed: int, n: int, confidence: float = 0.95) -> float:
    """Return the share of all runs that pass, at least, if `passed` of n did (Clopper and Pearson, one-sided)."""
    if not passed:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(passed, n - passed + 1, 1 - confidence))
