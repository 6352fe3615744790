"""Figures of runs with several tenants: each by its kind."""

from typing import TYPE_CHECKING, Any

import numpy as np

from aquasim.records.stats import percentiles

if TYPE_CHECKING:
    from aquasim.records.run import Run

NS = 1e9


def makespan(run: "Run") -> float | None:
    """Seconds from the first arrival or start of work to the last end of either, of all tenants; None without any."""
    requests, work = run.columns("requests"), run.columns("work")
    starts = np.concatenate((requests["arrival_ns"], work["start_ns"]))
    ends = np.concatenate((requests["finished_ns"], work["end_ns"]))
    return float(ends.max() - starts.min()) / NS if len(starts) else None


def summarise_tenants(run: "Run") -> dict[str, dict[str, Any]]:
    """Return each tenant's figures: seconds, bytes; serving engines as `metrics.summarise`, others their work.

    `fetched_bytes` and `fetches` count adapters by where they came from.
    """
    found = {}
    for name, meta in run.meta["tenants"].items():
        part = run.only(name)
        if meta["kind"] == "llm":
            found[name] = {"kind": "llm", **part.summary(meta.get("slo") or {}), **_fetches(part)}
            found[name].pop("links", None)
        else:
            found[name] = {"kind": meta["kind"], **work_summary(part)}
    return found


def work_summary(run: "Run") -> dict[str, Any]:
    """Items per second from the first start to the last end, times per unit (nearest rank), and bytes read for it."""
    work = run.columns("work")
    start, end, items = work["start_ns"], work["end_ns"], work["items"]
    if not len(items):
        return {"units": 0, "items": 0, "items_per_s": None}
    lasted = (end - start) / NS
    total = int(items.sum())
    p50, p99 = percentiles(lasted, [50, 99])
    return {
        "units": len(items),
        "items": total,
        "items_per_s": total / float(end.max() - start.min()) * NS,
        "unit_p50_s": p50,
        "unit_p99_s": p99,
        "peer_bytes": int(work["peer_bytes"].sum()),
        "host_bytes": int(work["host_bytes"].sum()),
    }


def _fetches(run: "Run") -> dict[str, Any]:
    fetches = run.columns("fetches")
    if not len(fetches["source"]):
        return {}
    sources = run.labels["source"]
    counts = np.bincount(fetches["source"], minlength=len(sources)).tolist()
    sizes = np.bincount(fetches["source"], fetches["bytes"], minlength=len(sources)).tolist()
    waited = float((fetches["end_ns"] - fetches["start_ns"]).sum()) / NS
    return {
        "fetches": {name: count for name, count in zip(sources, counts, strict=True) if count},
        "fetched_bytes": {name: int(size) for name, size in zip(sources, sizes, strict=True) if size},
        "fetch_s": waited,
    }
