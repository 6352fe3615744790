"""Fit what is not a kernel: memory rates, links, launches, mappings, and which way to copy pages."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aquasim.calibrate.lines import LineTime, round_to
from aquasim.calibrate.paths import copy_thresholds
from aquasim.calibrate.samples import Samples

Block = dict[str, Any]
Parts = Mapping[str, Samples]

LINKS = ("pcie_h2d", "pcie_d2h", "nvlink")
_LEAST_COPY = 8192  # bytes: nothing of an engine is smaller than two pages of host memory


def machine_blocks(samples: Parts) -> dict[str, Block]:
    """Fit what `samples` (by operator) allow; blocks by the names they have in a profile."""
    blocks: dict[str, Block] = {}
    links = {**_links(samples.get("copy")), **_host(samples.get("host_memory"))}
    if links:
        blocks["links"] = links
    if "memory" in samples:
        blocks["hbm"] = _memory(samples["memory"])
    if "copy" in samples and (thresholds := copy_thresholds(samples["copy"])):
        blocks["copy_thresholds"] = thresholds
    if "launch" in samples:
        blocks["launch"] = _launch(samples["launch"])
    if "ipc" in samples:
        blocks["ipc"] = _ipc(samples["ipc"])
    if "overlap" in samples:
        blocks["overlap"] = _overlap(samples["overlap"])
    if "cpu_attention" in samples:
        blocks["cpu_attention"] = _cpu_attention(samples["cpu_attention"])
    return blocks


def _memory(samples: Samples) -> Block:
    """Return the best rates of reading and of copying, bytes read plus bytes written."""
    rates = {
        method: float((rows["bytes"] / rows.seconds).max())
        for method in ("read", "copy")
        if len(rows := samples.where("method", method))
    }
    return {
        "read_bytes_per_s": round_to(max(rates.values())),
        "copy_bytes_per_s": round_to(rates.get("copy", min(rates.values()))),
        "source": samples.source,
    }


def _links(samples: Samples | None) -> dict[str, Block]:
    """Return start-up and bandwidth of each link in one direction, of copies one after the other."""
    links: dict[str, Block] = {}
    for name in LINKS if samples is not None else ():
        assert samples is not None
        rows = samples.where("link", name).where("method", "loop")
        rows = rows.take((rows["bytes"] >= _LEAST_COPY) & (rows["both"] == 0))
        if len(rows) < 2:
            continue
        moved = rows["bytes"] * rows["count"]
        line = LineTime().fit(moved, rows.seconds, rows["count"])
        rate, best = round_to(line.rate_), round_to(float((moved / rows.seconds).max()))
        links[name] = {
            "bytes_per_s": rate,
            "start_s": round_to(line.start_),
            "peak_bytes_per_s": max(best, rate),
            "residual": line.residual_,
            "source": f"{rows.source}: {rows.provenance.get(f'link {name}', 'copies one after the other')}",
        }
    return links


def _host(samples: Samples | None) -> dict[str, Block]:
    """Return host memory as a link: the best rate of reading or copying, over all numbers of threads."""
    if samples is None:
        return {}
    best = round_to(float((samples["bytes"] / samples.seconds).max()))
    source = f"{samples.source}: best of all numbers of threads"
    return {"host_dram": {"bytes_per_s": best, "start_s": 0.0, "peak_bytes_per_s": best, "source": source}}


def _launch(samples: Samples) -> Block:
    """Return what starting work costs the host, and the GPU between kernels of a graph.

    An engine's own work per iteration (scheduling, preparing inputs) is not in it.
    """
    found: Block = {}
    for method in ("eager", "node", "replay", "readback"):
        rows = samples.where("method", method)
        if len(rows):
            found[f"{method}_s"] = round_to(float(np.median(rows.seconds / rows["kernels"])))
    meaning = (
        "eager: host time per kernel launched; node: GPU time of the shortest kernel in a graph; replay: a graph of "
        "one kernel, started and waited for; readback: tokens of 256 sequences to the host"
    )
    return {**found, "meaning": meaning, "source": samples.source}


def _ipc(samples: Samples) -> Block:
    """Return what opening and closing a mapping of another process's memory costs, by size."""
    found: Block = {"source": f"{samples.source}: {samples.provenance.get('ipc', 'mappings')}"}
    for method in ("open", "close"):
        rows = samples.where("method", method)
        if len(rows) > 1:
            line = LineTime().fit(rows["bytes"], rows.seconds)
            found[f"{method}_s"] = round_to(line.start_)
            found[f"{method}_s_per_gib"] = round_to(2**30 / line.rate_)
    return found


def _overlap(samples: Samples) -> Block:
    """Return how much longer a layer's decode takes beside copies in both directions."""
    alone, beside = (samples.take(samples["traffic"] == busy).seconds for busy in (0, 1))
    ratio = round_to(float(np.median(beside) / np.median(alone))) if len(alone) and len(beside) else None
    return {"slowdown_beside_copies": ratio, "source": samples.source}


def _cpu_attention(samples: Samples) -> Block:
    """Return start and rate of decode attention on the CPU by number of threads; bytes are those of KV cache."""
    by_threads = {}
    for threads in np.unique(samples["threads"]):
        rows = samples.take(samples["threads"] == threads)
        moved = 4 * rows["kv_heads"] * rows["head_dim"] * rows["batch"] * rows["length"]
        line = LineTime().fit(moved, rows.seconds)
        by_threads[str(int(threads))] = {
            "start_s": round_to(line.start_),
            "bytes_per_s": round_to(line.rate_),
            "residual": line.residual_,
            "source": samples.source,
        }
    return {"threads": by_threads, "source": samples.source}
