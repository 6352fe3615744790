"""Estimators of operator times: each fits points and fills a block of a hardware profile."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aquasim.calibrate.points import Points, product_floor
from aquasim.calibrate.surface import Surface

Floats = NDArray[np.float64]
Block = dict[str, Any]

_GEMM_TOKENS = (
    1, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384,
)  # fmt: skip
_GEMM_INPUTS = (256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
_BYTES = tuple(2.0**i for i in range(8, 29))

# Tiles are 64 or 128 tokens high: time steps up just behind such a multiple.
_TILED_TOKENS = (
    *(1, 2, 4, 8, 16, 20, 32, 36, 48, 52, 64),
    *sorted(64 * i + j for i in range(1, 32) for j in (16, 64)),
    *(3072, 4096, 8192, 16384),
)
_SMALL_WIDTHS = (
    256,
    1024,
)  # below the widths measured: outputs and inputs to which shares of the peak extend
_KERNEL_START = 2e-6
_FOLDS = 5


class OperatorTime:
    """Base of the estimators: fits a `Surface` to points and says how far off it is."""

    axes: tuple[str, ...] = ()

    def make_surface(self, points: Points) -> Surface:
        """Return the unfitted surface for `points`; the one thing a subclass must say."""
        raise NotImplementedError

    def fit(self, points: Points) -> Self:
        """Fit nine tenths of `points`; sets `residual_`, relative errors on the rest, and what was used."""
        used = points.above_floor()
        train, held = used.split()
        self._fit(self.make_surface(used), train)
        judged = held if len(held.x) else train
        self.source_ = points.source
        self.residual_: Block = {
            "rows_fitted": len(train.x),
            "rows_held_out": len(held.x),
            "rows_below_roofline": points.read - len(used.x),
            **spread(np.maximum(self.predict(judged.x), judged.floor) / judged.seconds),
        }
        return self

    def predict(self, x: Floats) -> Floats:
        """Return seconds at the coordinates `x` (rows x axes)."""
        return self.surface_.predict(x)

    def block(self) -> Block:
        """Return what goes into the profile: knots, thousandths of log2(ns), source and residuals."""
        table = np.round(self.surface_.table_ * 1000).astype(int)
        return {
            "axes": list(self.axes),
            "knots": [[int(knot) for knot in axis] for axis in self.surface_.knots],
            "milli_log2_ns": table.ravel().tolist(),
            "residual": self.residual_,
            "source": self.source_,
        }

    def _fit(self, surface: Surface, train: Points) -> None:
        self.surface_ = surface.fit(train.x, train.seconds)


def spread(ratio: Floats) -> dict[str, float]:
    """Return median and 90th percentile of how far ratios are from 1."""
    error = np.abs(ratio - 1)
    return {"median": _rounded(np.quantile(error, 0.5)), "p90": _rounded(np.quantile(error, 0.9))}


def _rounded(value: Any) -> float:
    return float(np.round(value, 4))


class GemmTime(OperatorTime):
    """Time of an (m x k) by (k x n) product. Knots along n are the sizes measured: tiles make steps there."""

    axes = ("tokens", "outputs", "inputs")

    def __init__(self, smooth: float) -> None:
        self.smooth = smooth

    def make_surface(self, points: Points) -> Surface:
        """Return the surface over the tokens and outputs measured."""
        tokens, outputs = (np.unique(points.x[:, i]) for i in (0, 1))
        measured = tuple(float(m) for m in _GEMM_TOKENS if tokens[0] <= m <= tokens[-1])
        return Surface((measured, tuple(outputs), _GEMM_INPUTS), smooth=self.smooth, rising=(0, 1, 2))


class SparseGemmTime(OperatorTime):
    """As `GemmTime`, from the products of a few models: `flops` and `hbm` are the peaks (per s).

    What is smooth is the share of the peak. Each shape measured is a knot and so keeps its own times; shapes
    between and below take the shares of those around them. `residual_` says how far off that is: relative
    errors on shapes left out of the fit, a fifth at a time.
    """

    axes = GemmTime.axes

    def __init__(self, flops: float, hbm: float) -> None:
        self.flops = flops
        self.hbm = hbm

    def make_surface(self, points: Points) -> Surface:
        """Return the surface with a knot at every width measured."""
        tokens, outputs, inputs = (np.unique(points.x[:, i]) for i in range(3))
        if len(tokens) > len(_TILED_TOKENS):
            tokens = np.unique([tokens[0], *np.intersect1d(tokens, _TILED_TOKENS), tokens[-1]])
        return self._surface(tuple(tokens), *(_widened(widths) for widths in (outputs, inputs)))

    def fit(self, points: Points) -> Self:
        """Fit as the base does; sets `shapes_`, the (outputs, inputs) measured, as well."""
        super().fit(points)
        used = points.above_floor()
        self.shapes_ = np.unique(used.x[:, 1:], axis=0)
        if len(self.shapes_) >= _FOLDS:
            self.residual_["unmeasured_shapes"] = self._leave_out(used)
        return self

    def block(self) -> Block:
        """Return the block, with the shapes measured."""
        return {**super().block(), "shapes": [[int(n), int(k)] for n, k in self.shapes_]}

    def _surface(self, *knots: tuple[float, ...]) -> Surface:
        return Surface(
            knots, smooth=1e-4, rising=(0, 1, 2), expected=self._expected, ridge=(1e-5, 1e-3, 1e-3)
        )

    def _expected(self, x: Floats) -> Floats:
        """Seconds at the peaks, rounded off where memory and arithmetic meet, and a kernel's start."""
        moved = product_floor(x[:, 0], x[:, 1], x[:, 2], np.inf, self.hbm)
        computed = product_floor(x[:, 0], x[:, 1], x[:, 2], self.flops, np.inf)
        return np.asarray((moved**4 + computed**4) ** 0.25 + _KERNEL_START)

    def _leave_out(self, points: Points) -> dict[str, float]:
        """Return relative errors on shapes that the fit has not seen, with knots as `GemmTime` has along tokens."""
        _, shape = np.unique(points.x[:, 1:], axis=0, return_inverse=True)
        tokens = np.unique(points.x[:, 0])
        coarse = np.unique([tokens[0], *np.intersect1d(tokens, _GEMM_TOKENS), tokens[-1]])
        surface = self._surface(tuple(coarse), *(_widened(np.unique(points.x[:, i])) for i in (1, 2)))
        ratios = []
        for fold in range(_FOLDS):
            left = points.take(shape % _FOLDS == fold)
            kept = points.take(shape % _FOLDS != fold)
            predicted = surface.fit(kept.x, kept.seconds).predict(left.x)
            ratios.append(np.maximum(predicted, left.floor) / left.seconds)
        return spread(np.concatenate(ratios))


def _widened(widths: Floats) -> tuple[float, ...]:
    return (*(float(width) for width in _SMALL_WIDTHS if width < widths[0]), *map(float, widths))


class AllReduceTime(OperatorTime):
    """Time of an all-reduce by bytes."""

    axes = ("bytes",)

    def make_surface(self, points: Points) -> Surface:
        """Return the curve over powers of two."""
        return Surface((_BYTES,), smooth=0.01, rising=(0,))
