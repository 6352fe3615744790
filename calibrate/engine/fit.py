"""Fits the time of iterations to those measured: products by tokens, and everything else linearly."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aquasim.calibrate.engine.points import Point
from aquasim.calibrate.lines import round_to
from aquasim.hardware.steps import FEATURES, EngineCost, features

Floats = npt.NDArray[np.float64]
LEAST_CHANGE = 0.05
"""Of the logarithm of the core's speed, to tell from it how iterations follow."""
BLOCK = 40
"""Timings that lie within a second or so."""
WINDOW = 11
"""Probes before and after that say how fast the core was; one alone is as noisy as what it is to correct."""


class Level(NamedTuple):
    """Timings as they were at one speed of the core: that at which the probe takes `reference` seconds.

    Where the probe takes x times as long, an iteration takes x to the `power` as long.
    """

    seconds: Floats
    reference: float
    power: float


def level(order: npt.NDArray[np.int64], seconds: Floats, probes: Floats) -> Level:
    """Take the core's changing speed out of timings.

    Args:
        order: which iteration each timing is of.
        seconds: timings in the order they were taken.
        probes: seconds of the probe before each.
    """
    padded = np.pad(probes, WINDOW // 2, mode="edge")
    near = np.median(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=1)
    reference = float(np.median(probes))
    slow = np.log(near / reference)
    usual = np.array([np.median(seconds[order == number]) for number in range(order.max() + 1)])
    power = _slope(slow, np.log(seconds / usual[order]))
    return Level(seconds * np.exp(-power * slow), reference, power)


def _slope(x: Floats, y: Floats) -> float:
    """Return the slope of y over x between the means of x's lower and upper third, from 0 to 1.5.

    Of means over `BLOCK` timings in a row: noise in single probes would flatten it. 1 where the core's speed hardly
    changed.
    """
    blocks = max(3, len(x) // BLOCK)
    means = [(part.mean(), other.mean()) for part, other in _parts(x, y, blocks)]
    levels, rises = np.array(means).T
    low, high = np.quantile(levels, [1 / 3, 2 / 3])
    if high - low < LEAST_CHANGE:
        return 1.0
    upper, lower = levels >= high, levels <= low
    rise = rises[upper].mean() - rises[lower].mean()
    return float(np.clip(rise / (levels[upper].mean() - levels[lower].mean()), 0.0, 1.5))


def _parts(x: Floats, y: Floats, count: int) -> list[tuple[Floats, Floats]]:
    return list(zip(np.array_split(x, count), np.array_split(y, count), strict=True))


def fit_steps(points: Sequence[Point], seconds: Floats) -> dict[str, Any]:
    """Return the block `step`: knots of the curve over tokens, and seconds per unit of each feature.

    Non-negative least squares of relative errors. The curve has a knot wherever a batch was measured alone, since
    small products have steps; it starts at 0, so that the constant is what every iteration costs.
    """
    from scipy.optimize import nnls

    knots = _knots(points)
    rows = np.array([[*_hats(_tokens(p), knots), *features(*p)] for p in points], dtype=np.float64)
    scaled = rows / seconds[:, None]
    scale = np.maximum(np.abs(scaled).max(axis=0), 1e-30)
    found, _ = nnls(scaled / scale, np.ones(len(points)), maxiter=100 * rows.shape[1])
    weights = found / scale
    block: dict[str, Any] = {
        "tokens": knots,
        "tokens_s": [round_to(float(w)) for w in weights[: len(knots)]],
        "features_s": {
            name: round_to(float(w)) for name, w in zip(FEATURES, weights[len(knots) :], strict=True)
        },
    }
    return {**block, "residual": residual(block, points, seconds)}


def residual(block: dict[str, Any], points: Sequence[Point], seconds: Floats) -> dict[str, Any]:
    """Return how far the fit is from what was measured."""
    cost = EngineCost(block, (0, 0))
    given = np.array([cost.step(p.chunks, p.batch, p.batch * p.length) for p in points]) * 1e-9
    off = np.abs(given / seconds - 1)
    return {
        "rows_fitted": len(points),
        "median": round(float(np.median(off)), 4),
        "p90": round(float(np.quantile(off, 0.9)), 4),
    }


def _tokens(point: Point) -> int:
    return point.batch + sum(new for new, _ in point.chunks)


def _knots(points: Sequence[Point]) -> list[int]:
    """Return token counts at which at least two iterations were measured, and the largest."""
    counts = np.bincount([_tokens(point) for point in points])
    return [0, *(int(n) for n in np.flatnonzero(counts >= 2)), *([len(counts) - 1] if counts[-1] < 2 else [])]


def _hats(tokens: int, knots: list[int]) -> list[float]:
    """Return the share of each knot in a linear interpolation at `tokens`."""
    return [float(np.interp(tokens, knots, row)) for row in np.eye(len(knots))]
