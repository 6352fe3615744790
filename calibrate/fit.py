"""Fit every block of a hardware profile that samples allow."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aquasim.calibrate import facts
from aquasim.calibrate.attention import attention_blocks
from aquasim.calibrate.lines import CachedLineTime, round_to
from aquasim.calibrate.operators import (
    AllReduceTime,
    GemmTime,
    OperatorTime,
    SparseGemmTime,
)
from aquasim.calibrate.points import LOGIT_BYTES, Points, all_reduce_points, gemm_points
from aquasim.calibrate.samples import Samples
from aquasim.models import TP_DEGREES

Block = dict[str, Any]
Parts = Mapping[str, Samples]

_DENSE = 0.5  # share of (outputs, inputs) pairs measured from which a grid counts as filled


def fit_blocks(
    samples: Parts,
    flops: float,
    hbm: float,
    *,
    gemm_smooth: float = 0.1,
    tile: int | None = None,
    cache: float = 0.0,
) -> dict[str, Block]:
    """Fit what `samples` (by operator) allow; `flops` and `hbm` are the device's peaks per second.

    `tile` is the query rows of an attention kernel's tile; left out, the one that fits best. `cache` is the bytes
    of the last cache, where decode attention was timed on KV that stayed in it (0: it was not).

    Returns:
        Blocks by the names they have in a profile; operators without samples are absent.
    """
    blocks: dict[str, Block] = {}
    if "gemm" in samples:
        blocks["gemm"] = _gemm(gemm_points(samples["gemm"], flops, hbm), flops, hbm, gemm_smooth).block()
    if "decode_attention" in samples and "prefill_attention" in samples:
        blocks |= attention_blocks(samples, flops, hbm, tile, cache)
    if "all_reduce" in samples:
        blocks["all_reduce"] = _all_reduce(samples["all_reduce"])
    if "elementwise" in samples:
        blocks["elementwise"] = _elementwise(samples["elementwise"])
    if "sampling" in samples:
        blocks["sampling"] = _sampling(samples["sampling"])
    return blocks


def _gemm(points: Points, flops: float, hbm: float, smooth: float) -> OperatorTime:
    """Fit a filled grid by itself, a few models' shapes with the help of the peaks."""
    pairs, outputs, inputs = (np.unique(points.x[:, i], axis=0) for i in ([1, 2], [1], [2]))
    if len(pairs) >= _DENSE * len(outputs) * len(inputs) and len(pairs) >= 100:
        return GemmTime(smooth).fit(points)
    return SparseGemmTime(flops, hbm).fit(points)


def _all_reduce(samples: Samples) -> Block:
    measured = {int(gpus) for gpus in samples["gpus"]}
    return {
        str(gpus): AllReduceTime().fit(all_reduce_points(samples, gpus, facts.ALL_REDUCE_LIMIT)).block()
        for gpus in TP_DEGREES
        if gpus > 1 and gpus in measured
    }


def _elementwise(samples: Samples) -> Block:
    """Fit a start per kernel and rates, on whole decoder layers' kernels where these were summed."""
    whole = samples.where("kernel", "layer")
    used = whole if len(whole) else samples
    line = CachedLineTime().fit(used["bytes"], used.seconds, used["kernels"])
    return {
        "kernel_floor_s": round_to(line.start_),
        **_rates(line),
        "meaning": "norms, rotary embedding and activation of a layer: a start per kernel, then the first "
        "cache_bytes at cached_bytes_per_s, the rest at bytes_per_s",
        "residual": line.residual_,
        "source": used.source,
    }


def _sampling(samples: Samples) -> Block:
    """Fit a start and rates of logits; `LOGIT_BYTES` per logit, as the cost model counts them."""
    line = CachedLineTime().fit(samples["sequences"] * samples["vocab"] * LOGIT_BYTES, samples.seconds)
    return {
        "start_s": round_to(line.start_),
        **_rates(line),
        "meaning": f"from logits to tokens, at {LOGIT_BYTES} bytes per logit; rates as in elementwise",
        "residual": line.residual_,
        "source": samples.source,
    }


def _rates(line: CachedLineTime) -> Block:
    return {
        "cache_bytes": line.cache_,
        "cached_bytes_per_s": round_to(line.cached_rate_),
        "bytes_per_s": round_to(line.rate_),
    }
