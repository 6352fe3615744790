"""Estimators of times that are a start and a rate: copies, elementwise kernels, sampling."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from aquasim.calibrate.operators import spread

Floats = NDArray[np.float64]

CACHES = (0.0, 16e6, 24e6, 32e6, 40e6, 48e6, 64e6, 72e6, 96e6, 128e6, 160e6, 192e6)
"""Cache sizes (bytes) to try: on-chip caches of GPUs and CPUs, and none."""


class LineTime:
    """Time of n starts and s bytes: n t0 + s / B."""

    def fit(self, sizes: Floats, seconds: Floats, starts: Floats | float = 1.0) -> Self:
        """Fit by least squares of relative errors; sets `start_` (s), `rate_` (bytes/s) and `residual_`.

        `sizes` (bytes), `seconds` and `starts` have a row per timing. A start that comes out below 0 is 0.
        """
        design = np.stack([starts / seconds, sizes / seconds], axis=1)
        (start, slowness), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
        if start < 0 or slowness <= 0:
            start, slowness = 0.0, design[:, 1].sum() / (design[:, 1] ** 2).sum()
        self.start_, self.rate_ = float(start), float(1 / slowness)
        self.residual_: dict[str, Any] = {
            "rows_fitted": len(sizes),
            **spread(self.predict(sizes, starts) / seconds),
        }
        return self

    def predict(self, sizes: Floats, starts: Floats | float = 1.0) -> Floats:
        """Return seconds for each size (bytes)."""
        return np.asarray(starts * self.start_ + sizes / self.rate_)


class CachedLineTime:
    """As `LineTime`, with a faster rate for the first bytes, as many as a cache holds.

    n t0 + min(s, C) / F + max(0, s - C) / B, where C is the best of `caches`.
    """

    def __init__(self, caches: tuple[float, ...] = CACHES) -> None:
        self.caches = caches

    def fit(self, sizes: Floats, seconds: Floats, starts: Floats | float = 1.0) -> Self:
        """Fit; sets `start_` (s), `cache_` (bytes), `cached_rate_` and `rate_` (bytes/s) and `residual_`."""
        ranked = [(*self._solve(cache, sizes, seconds, starts), cache) for cache in self.caches]
        (start, fast, slow), _, cache = min(ranked, key=lambda found: found[1])
        self.start_, self.cache_ = float(start), cache
        self.rate_ = float(1 / slow)
        self.cached_rate_ = float(1 / fast) if cache else self.rate_
        ratio = self.predict(sizes, starts) / seconds
        self.residual_: dict[str, Any] = {"rows_fitted": len(sizes), **spread(ratio)}
        return self

    def predict(self, sizes: Floats, starts: Floats | float = 1.0) -> Floats:
        """Return seconds for each size (bytes)."""
        near = np.minimum(sizes, self.cache_)
        return np.asarray(starts * self.start_ + near / self.cached_rate_ + (sizes - near) / self.rate_)

    @staticmethod
    def _solve(cache: float, sizes: Floats, seconds: Floats, starts: Floats | float) -> tuple[Floats, float]:
        """Return start and seconds per byte within and beyond the cache, and the mean relative error.

        None is negative, and beyond the cache no byte is faster than within; where the samples do not tell the
        two apart they are one.
        """
        near, unit = np.minimum(sizes, cache), 1e12  # bytes/s: brings the columns to one scale
        line = LineTime().fit(sizes, seconds, starts)
        plain = np.array([line.start_, 1 / line.rate_, 1 / line.rate_])
        columns = [np.broadcast_to(starts, sizes.shape), sizes / unit, (sizes - near) / unit]
        design = np.stack(columns, axis=1) / seconds[:, None]
        (start, both, more), _ = nnls(design, np.ones(len(sizes)))
        found = np.array([start, both / unit, (both + more) / unit]) if cache and both > 0 else plain
        times = found[0] * starts + found[1] * near + found[2] * (sizes - near)
        return found, float(np.abs(times / seconds - 1).mean())


def round_to(value: float, digits: int = 4) -> float:
    """Return `value` to so many significant digits, so that a build gives the same bytes each time."""
    return float(f"{value:.{digits}g}")
