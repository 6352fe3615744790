"""From samples to what an estimator fits: coordinates, times, and the least time the hardware allows."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aquasim.calibrate.samples import Samples

Floats = NDArray[np.float64]

TILE = 64  # query rows of an attention kernel's tile: shorter chunks cost as much
LOGIT_BYTES = 10  # per logit sampled: read in 2 bytes, written and read again in 4
LEAST_PRODUCT = 256  # outputs and inputs of the smallest product an LLM on a GPU has
MOST_TOKENS = 16384

_HELD_OUT = 0.1
_MULTIPLIER = 2654435761  # Knuth's: spreads consecutive row numbers over 32 bits


@dataclass(frozen=True, slots=True)
class Points:
    """Times `seconds` (shape: rows) at the coordinates `x` (rows x axes), from the files `source`.

    `floor` is the least time the hardware's peaks allow; rows below it (operands still in cache) are left out
    by `above_floor`. `read` counts the rows that lie in the fitted range.
    """

    source: str
    x: Floats
    seconds: Floats
    floor: Floats
    read: int

    def above_floor(self) -> "Points":
        """Return the rows that are no faster than the hardware's peaks."""
        return self.take(self.seconds >= self.floor)

    def split(self) -> tuple["Points", "Points"]:
        """Return nine tenths of the rows to fit and one tenth to judge; the same rows each time."""
        held = self.held_out()
        return self.take(~held), self.take(held)

    def held_out(self) -> NDArray[np.bool_]:
        """Return which rows are kept to judge a fit by."""
        hashed = np.arange(len(self.x), dtype=np.uint64) * np.uint64(_MULTIPLIER) % np.uint64(2**32)
        return np.asarray(hashed < _HELD_OUT * 2**32)

    def take(self, rows: NDArray[np.bool_]) -> "Points":
        """Return the rows that a mask picks."""
        return Points(self.source, self.x[rows], self.seconds[rows], self.floor[rows], self.read)


def _points(samples: Samples, axes: list[Floats], floor: Floats) -> Points:
    return Points(samples.source, np.stack(axes, axis=1), samples.seconds, floor, len(samples))


def product_floor(m: Floats, n: Floats, k: Floats, flops: float, hbm: float) -> Floats:
    """Return the least seconds of an m x k by k x n product in 16 bits at peaks of flops/s and bytes/s."""
    moved: Floats = 2 * (m * n + n * k + m * k) / hbm
    return np.maximum(moved, 2 * m * n * k / flops)


def gemm_points(samples: Samples, flops: float, hbm: float) -> Points:
    """Return products; axes: tokens (to 16384), outputs and inputs (both from 256)."""
    wide = (samples["outputs"] >= LEAST_PRODUCT) & (samples["inputs"] >= LEAST_PRODUCT)
    samples = samples.take(wide & (samples["tokens"] <= MOST_TOKENS))
    m, n, k = (samples[axis] for axis in ("tokens", "outputs", "inputs"))
    return _points(samples, [m, n, k], product_floor(m, n, k, flops, hbm))


def decode_points(samples: Samples, head_dim: int, hbm: float, cache: float = 0.0) -> Points:
    """Return decode attention; axes: query heads per KV head, KV heads, sequences, tokens of each.

    `cache` is the bytes of the GPU's last cache, where a kernel was timed on the same KV again and again: in an
    engine other layers' come in between, so that it is read from HBM (`_from_memory`).
    """
    samples = samples.take(samples["head_dim"] == head_dim)
    heads, batch, length = samples["kv_heads"], samples["batch"], samples["length"]
    moved = 4 * head_dim * heads * batch * length
    points = _points(samples, [samples["heads"] / heads, heads, batch, length], moved / hbm)
    return replace(points, seconds=_from_memory(points, moved, cache)) if cache else points


def _from_memory(points: Points, moved: Floats, cache: float) -> Floats:
    """Return times as if nothing had been in cache: the shortest context's time, and bytes at the rate of HBM.

    The rate is the best decile of what reads 4 caches or more; up to 1.5 caches may have been cached.
    """
    seconds = points.seconds
    far = moved > 4 * cache
    if not far.any():
        return seconds
    rate = np.quantile(moved[far] / seconds[far], 0.9)
    _, shape = np.unique(points.x[:, :3], axis=0, return_inverse=True)
    start = np.full(shape.max() + 1, np.inf)
    np.minimum.at(start, shape, seconds)
    cold = np.maximum(seconds, start[shape] + moved / rate)
    return np.where(moved < 1.5 * cache, cold, seconds)


def prefill_points(samples: Samples, head_dim: int, flops: float, tile: int = TILE) -> Points:
    """Return prefill attention; axes: query heads per KV head, query rows, tokens a query sees on average.

    Rows are heads x sequences x new tokens, the latter no less than a kernel's tile. One-token prompts are
    left out: the kernel for decoding serves them.
    """
    samples = samples.take((samples["head_dim"] == head_dim) & (samples["new"] > 1))
    heads, new = samples["heads"], samples["new"]
    rows, reach = heads * samples["batch"], samples["cached"] + new / 2
    axes = [heads / samples["kv_heads"], rows * np.maximum(new, tile), reach]
    return _points(samples, axes, 4 * head_dim * rows * new * reach / flops)


def all_reduce_points(samples: Samples, gpus: int, own_limit: int) -> Points:
    """Return all-reduce over `gpus` GPUs; axis: bytes. The faster of an engine's own kernel and NCCL by size.

    The engine's own kernel counts under a CUDA graph, and up to `own_limit` bytes.
    """
    kernel, size = samples.labels["kernel"].astype(str), samples["bytes"]
    own = (kernel == "vllm_graph") & (size <= own_limit)
    other = ~np.char.startswith(kernel, "vllm")
    samples = samples.take((samples["gpus"] == gpus) & (size >= 256) & (own | other))
    sizes, place = np.unique(samples["bytes"], return_inverse=True)
    best = np.full(len(sizes), np.inf)
    np.minimum.at(best, place, samples.seconds)
    return Points(samples.source, sizes[:, None], best, np.zeros(len(best)), len(best))
