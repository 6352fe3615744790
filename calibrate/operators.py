"""Estimators of operator times: each fits published samples and fills a block of a hardware profile."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aquasim.calibrate.samples import Samples
from aquasim.calibrate.surface import Surface

Floats = NDArray[np.float64]
Block = dict[str, Any]

TILE = 64  # query rows of an attention kernel's tile: shorter chunks cost as much
_OCTAVES = tuple(2.0**i for i in range(18))

_GEMM_TOKENS = (
    1, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384,
)  # fmt: skip
_GEMM_INPUTS = (256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
_GROUPS = (1, 2, 4, 8, 32)
_KV_HEADS = (1, 2, 8, 96)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)
_LENGTHS = (1.0, *_OCTAVES[6:])
_ROWS = tuple(2.0**i for i in range(6, 26))
_REACHES = _OCTAVES[2:]
_BYTES = tuple(4.0**i for i in range(4, 15))


class OperatorTime:
    """Base of the estimators: a `Surface` under a name, with its axes and residuals."""

    axes: tuple[str, ...] = ()

    def __init__(self, surface: Surface) -> None:
        self.surface = surface

    def fit(self, samples: Samples) -> Self:
        """Fit nine tenths of `samples`; sets `residual_`, relative errors on the rest, and what was used."""
        used = samples.above_floor()
        train, held = used.split()
        self._fit(train)
        error = np.abs(np.maximum(self.predict(held.x), held.floor) / held.seconds - 1)
        self.source_ = samples.source
        self.residual_ = {
            "rows_fitted": len(train.x),
            "rows_held_out": len(held.x),
            "rows_below_roofline": samples.read - len(used.x),
            "median": float(np.round(np.quantile(error, 0.5), 4)),
            "p90": float(np.round(np.quantile(error, 0.9), 4)),
        }
        return self

    def predict(self, x: Floats) -> Floats:
        """Return seconds at the points `x` (rows x axes)."""
        return self.surface.predict(x)

    def block(self) -> Block:
        """Return what goes into the profile: knots, thousandths of log2(ns), source and residuals."""
        table = np.round(self.surface.table_ * 1000).astype(int)
        return {
            "axes": list(self.axes),
            "knots": [[int(knot) for knot in axis] for axis in self.surface.knots],
            "milli_log2_ns": table.ravel().tolist(),
            "residual": self.residual_,
            "source": self.source_,
        }

    def _fit(self, train: Samples) -> None:
        self.surface.fit(train.x, train.seconds)


class GemmTime(OperatorTime):
    """Time of an (m x k) by (k x n) product. Knots along n are the sizes measured: tiles make steps there."""

    axes = ("tokens", "outputs", "inputs")

    def __init__(self, samples: Samples, smooth: float) -> None:
        tokens, outputs = (np.unique(samples.x[:, i]) for i in (0, 1))
        measured = tuple(float(m) for m in _GEMM_TOKENS if tokens[0] <= m <= tokens[-1])
        super().__init__(Surface((measured, tuple(outputs), _GEMM_INPUTS), smooth=smooth, rising=(0, 1, 2)))


class DecodeAttentionTime(OperatorTime):
    """Time of one layer's attention when each sequence adds one token; rises with batch and with length."""

    axes = ("heads_per_kv_head", "kv_heads", "batch", "length")

    def __init__(self) -> None:
        super().__init__(Surface((_GROUPS, _KV_HEADS, _BATCHES, _LENGTHS), smooth=0.01, rising=(2, 3)))


class PrefillAttentionTime(OperatorTime):
    """Time of one layer's attention over new tokens, by query rows and the tokens a query sees on average.

    The samples have no cached tokens, so a reach beyond half the rows is not in them. There `decode`, a
    sequence of one new token (one tile of rows per head), stands in.
    """

    axes = ("heads_per_kv_head", "rows", "reach")

    def __init__(self, decode: Samples) -> None:
        self.decode = decode
        super().__init__(Surface((_GROUPS, _ROWS, _REACHES), smooth=0.1, rising=(1, 2)))

    def _fit(self, train: Samples) -> None:
        group, heads, batch, length = self.decode.x.T
        rows = group * heads * TILE
        far = (batch == 1) & (length > rows / 2)
        anchors = np.stack([group, rows, length], axis=1)[far]
        seconds = np.concatenate([train.seconds, self.decode.seconds[far]])
        self.surface.fit(np.concatenate([train.x, anchors]), seconds)
        self.peak_share_ = float(np.round(np.quantile(train.floor / train.seconds, 0.99), 4))

    def block(self) -> Block:
        """Return the block, with the share of peak flops that bounds reaches longer than the samples'."""
        return {**super().block(), "peak_share": self.peak_share_}


class AllReduceTime(OperatorTime):
    """Time of an all-reduce by bytes."""

    axes = ("bytes",)

    def __init__(self) -> None:
        super().__init__(Surface((_BYTES,), smooth=0.01, rising=(0,)))


class LinkTime:
    """Time of one copy of s bytes: t0 + s / B."""

    def fit(self, sizes: Floats, seconds: Floats) -> Self:
        """Fit by least squares of relative errors; sets `start_` (s), `rate_` (bytes/s) and `residual_`."""
        design = np.stack([1 / seconds, sizes / seconds], axis=1)
        (start, slowness), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
        self.start_, self.rate_ = float(start), float(1 / slowness)
        error = np.abs(self.predict(sizes) / seconds - 1)
        self.residual_ = {
            "rows_fitted": len(sizes),
            "median": float(np.round(np.quantile(error, 0.5), 4)),
            "p90": float(np.round(np.quantile(error, 0.9), 4)),
        }
        return self

    def predict(self, sizes: Floats) -> Floats:
        """Return seconds per copy of each size (bytes)."""
        return self.start_ + sizes / self.rate_
