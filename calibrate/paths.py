"""Which way of copying pages wins, by their size and number."""

from typing import Any

import numpy as np

from aquasim.calibrate.samples import Samples

_LARGE = 1 << 20  # bytes: from here on a copy's time is its bandwidth's
_WINS = 0.97  # of a batch's time: what another way must stay below to be chosen
_WAYS = ("batch", "kernel", "scatter")


def copy_thresholds(samples: Samples) -> dict[str, Any] | None:
    """Return from which size and count on which path to the device wins, as `aquasim.runtime.copy` takes them.

    Of the fastest path at each (bytes, count): from `batch_bytes` on a batch always wins, `small` is what wins
    most often below, from `small_count` descriptors on. None where paths were not measured side by side.
    """
    rows = samples.where("link", "pcie_h2d").where("method", *_WAYS)
    rows = rows.take((rows["both"] == 0) & (rows["count"] > 1) & (rows["bytes"] < _LARGE))
    if len(set(rows.labels["method"].astype(str))) < 2 or not len(rows.where("method", "batch")):
        return None
    pairs = sorted(set(zip(rows["bytes"].tolist(), rows["count"].tolist(), strict=True)))
    fastest = {pair: _fastest(rows, *pair) for pair in pairs}
    losing = [size for (size, _), path in fastest.items() if path != "batch"]
    sizes = sorted({size for size, _ in pairs})
    batch = next((size for size in sizes if size > max(losing)), _LARGE) if losing else 0
    small = [(count, path) for (_, count), path in fastest.items() if path != "batch"]
    names = [path for _, path in small] or ["batch"]
    return {
        "batch_bytes": int(batch),
        "small_count": int(min((count for count, _ in small), default=2)),
        "small": max(sorted(set(names)), key=names.count),
        "source": samples.source,
    }


def _fastest(rows: Samples, size: float, count: float) -> str:
    """Return the path of least time; a batch unless another is clearly faster."""
    here = rows.take((rows["bytes"] == size) & (rows["count"] == count))
    times = dict(zip(here.labels["method"].astype(str).tolist(), here.seconds.tolist(), strict=True))
    best = min(times, key=lambda path: times[path])
    return str(best) if times[best] < _WINS * times.get("batch", np.inf) else "batch"
