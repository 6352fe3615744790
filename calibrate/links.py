"""Start-up time and bandwidth of the links of each GPU, from published copies by size."""

from pathlib import Path
from typing import Any

import numpy as np

from aquasim.calibrate import facts
from aquasim.calibrate.importers import read_table
from aquasim.calibrate.lines import LineTime, round_to

_SENDS = {
    "h100": "apex_plus/profile/comm/H100-SXM-80GB/sendrecv.csv",
    "h200": "apex_plus/profile/comm/H200-SXM-141GB/sendrecv.csv",
    "a100": "vidur/profiling/network/a100_dgx/send_recv.csv.gz",
}

Block = dict[str, Any]


def link_blocks(gpu: str, data: Path) -> dict[str, Block]:
    """Return the links block of `gpu`'s profile; `data` holds the published samples."""
    links = {name: _pcie(gpu, name) for name in ("pcie_h2d", "pcie_d2h")}
    if gpu in facts.PEAK_NVLINK:
        links["nvlink"] = _nvlink(gpu, data)
    return {**links, "host_dram": facts.HOST_DRAM}


def _nvlink(gpu: str, data: Path) -> Block:
    """NVLink as a copy engine uses it: start-up and bandwidth of peer cudaMemcpyAsync, as reported for H100.

    NCCL's sends over the same ports are fitted beside it (`nccl`): their start-up holds a kernel launch and a
    handshake, which a page copy does not pay. The A100's bandwidth is that of its sends.
    """
    sends = _sends(data / _SENDS[gpu])
    nccl = {**_block(sends, facts.PEAK_NVLINK[gpu], _SENDS[gpu])}
    rate = facts.NVLINK4_COPY_RATE if gpu != "a100" else round_to(sends.rate_)
    source = facts.NVLINK_COPY + ("" if gpu != "a100" else f"; bandwidth of sends, {_SENDS[gpu]}")
    return {
        "bytes_per_s": rate,
        "start_s": facts.NVLINK_COPY_START,
        "peak_bytes_per_s": facts.PEAK_NVLINK[gpu],
        "source": source,
        "nccl": nccl,
    }


def _sends(path: Path) -> LineTime:
    """Fit point-to-point sends by size."""
    (sends,) = read_table(path)
    return LineTime().fit(sends["bytes"], sends.seconds)


def _pcie(gpu: str, name: str) -> Block:
    rates = facts.H100_PCIE_H2D if name == "pcie_h2d" else facts.H100_PCIE_D2H
    sizes = np.asarray(facts.H100_PCIE_KIB) * 1024.0
    fitted = LineTime().fit(sizes, sizes / (np.asarray(rates) * facts.GB))
    peak = facts.PEAK_PCIE[gpu]
    if peak > facts.PCIE_GEN4_RATE[name] * 2:
        return _block(fitted, peak, facts.PCIE_GEN5_SOURCE[gpu])
    block = {**_block(fitted, peak, facts.PCIE_GEN4), "bytes_per_s": facts.PCIE_GEN4_RATE[name]}
    del block["residual"]
    return block


def _block(link: LineTime, peak: float, source: str) -> Block:
    return {
        "bytes_per_s": round_to(link.rate_),
        "start_s": round_to(link.start_),
        "peak_bytes_per_s": peak,
        "residual": link.residual_,
        "source": source,
    }
