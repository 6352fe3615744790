"""Start-up time and bandwidth of the links of each GPU, from published copies by size."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aquasim.calibrate import facts
from aquasim.calibrate.operators import LinkTime

_APEX = {
    "h100": "apex_plus/profile/comm/H100-SXM-80GB/sendrecv.csv",
    "h200": "apex_plus/profile/comm/H200-SXM-141GB/sendrecv.csv",
}
_VIDUR_A100 = "vidur/profiling/network/a100_dgx/send_recv.csv.gz"

Block = dict[str, Any]


def link_blocks(gpu: str, data: Path) -> dict[str, Block]:
    """Return the links block of `gpu`'s profile; `data` holds the published samples."""
    links = {name: _pcie(gpu, name) for name in ("pcie_h2d", "pcie_d2h")}
    if gpu in facts.PEAK_NVLINK:
        links["nvlink"] = _nvlink(gpu, data)
    return {**links, "host_dram": facts.HOST_DRAM}


def _nvlink(gpu: str, data: Path) -> Block:
    """NVLink from point-to-point sends: NCCL's, so the start-up holds a kernel launch and a handshake.

    The A100's sends were timed through another program, whose launch path alone takes 13 us: its bandwidth
    counts, the start-up is taken as on H100.
    """
    if gpu in _APEX:
        return _block(_apex_link(data / _APEX[gpu]), facts.PEAK_NVLINK[gpu], _APEX[gpu])
    frame = pd.read_csv(data / _VIDUR_A100)
    times = frame[frame.devices_per_node == 2].groupby("size")["time_stats.send_recv.median"].median()
    link = LinkTime().fit(times.index.to_numpy(float), times.to_numpy(float) * 1e-3)
    source = f"bandwidth {_VIDUR_A100}; start-up as fitted on H100"
    start = round_to(_apex_link(data / _APEX["h100"]).start_)
    return {**_block(link, facts.PEAK_NVLINK[gpu], source), "start_s": start}


def _apex_link(path: Path) -> LinkTime:
    frame = pd.read_csv(path)
    frame = frame[(frame["dtype"] == "half") & (frame["size(kb)"] > 0)]
    return LinkTime().fit(frame["size(kb)"].to_numpy(float) * 1024, frame["time(us)"].to_numpy(float) * 1e-6)


def _pcie(gpu: str, name: str) -> Block:
    rates = facts.H100_PCIE_H2D if name == "pcie_h2d" else facts.H100_PCIE_D2H
    sizes = np.asarray(facts.H100_PCIE_KIB) * 1024.0
    fitted = LinkTime().fit(sizes, sizes / (np.asarray(rates) * facts.GB))
    peak = facts.PEAK_PCIE[gpu]
    if peak > facts.PCIE_GEN4_RATE[name] * 2:
        return _block(fitted, peak, facts.VLLM_BLOG if gpu == "h100" else facts.PCIE_SAME)
    block = {**_block(fitted, peak, facts.PCIE_GEN4), "bytes_per_s": facts.PCIE_GEN4_RATE[name]}
    del block["residual"]
    return block


def _block(link: LinkTime, peak: float, source: str) -> Block:
    return {
        "bytes_per_s": round_to(link.rate_),
        "start_s": round_to(link.start_),
        "peak_bytes_per_s": peak,
        "residual": link.residual_,
        "source": source,
    }


def round_to(value: float, digits: int = 4) -> float:
    """Return `value` to so many significant digits, so that a build gives the same bytes each time."""
    return float(f"{value:.{digits}g}")
