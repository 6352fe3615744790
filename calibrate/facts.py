"""What is not fitted: sizes, peaks and constants of each GPU, each with where it comes from.

`assumption` marks a value nobody measured for us; a calibration on the machine itself replaces it.
"""

from dataclasses import dataclass
from typing import Any

GB, MIB = 1e9, 2**20

VENDOR = "NVIDIA data sheet, as in aisimulate system.yaml"
AZURE = "Azure AI-benchmarking-guide 8fd0c6e1bd0f, ND {} results"
VLLM_BLOG = "vLLM blog 2026-01-08, figures 3 and 4 (H100 PCIe 5, cudaMemcpyAsync), read off the plots"

# Blocks of KiB against GB/s: (device to host, host to device), as read off the plots.
H100_PCIE_KIB = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
H100_PCIE_D2H = (0.9, 2.2, 4.6, 8.2, 15.4, 21.5, 29.3, 37.1, 42.5, 46.2, 48.6, 50.0, 50.7)
H100_PCIE_H2D = (1.1, 2.3, 4.3, 7.5, 14.4, 22.8, 31.7, 39.5, 44.3, 47.7, 49.7, 50.6, 51.1)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: vendor's peaks (flops/s in bf16, bytes/s), measured HBM rates, where its samples are."""

    title: str
    folder: str
    memory_bytes: int
    memory_source: str
    peak_flops: float
    peak_hbm: float
    hbm_read: float
    hbm_copy: float
    hbm_source: str
    vllm: str
    all_reduce_version: str
    gemm_smooth: float
    head_dims: tuple[int, ...] = (64, 128)


GPUS = {
    "h100": Gpu(
        title="NVIDIA H100 SXM 80 GB",
        folder="h100_sxm",
        memory_bytes=81559 * MIB,
        memory_source="nvidia-smi total of H100 80GB HBM3",
        peak_flops=989e12,
        peak_hbm=3.35e12,
        hbm_read=3.18e12,
        hbm_copy=2.90e12,
        hbm_source=AZURE.format("H100 v5") + ": Dot and Copy",
        vllm="0.25.0",
        all_reduce_version="0.24.0",
        gemm_smooth=0.1,
    ),
    "h200": Gpu(
        title="NVIDIA H200 SXM 141 GB",
        folder="h200_sxm",
        memory_bytes=143771 * MIB,
        memory_source="nvidia-smi total of H200",
        peak_flops=989e12,
        peak_hbm=4.8e12,
        hbm_read=4.48e12,
        hbm_copy=4.01e12,
        hbm_source=AZURE.format("H200 v5") + ": Dot and Copy",
        vllm="0.25.0",
        all_reduce_version="0.24.0",
        gemm_smooth=0.1,
    ),
    "a100": Gpu(
        title="NVIDIA A100 SXM4 80 GB",
        folder="a100_sxm",
        memory_bytes=81920 * MIB,
        memory_source="nvidia-smi total of A100-SXM4-80GB",
        peak_flops=312e12,
        peak_hbm=2.039e12,
        hbm_read=1.75e12,
        hbm_copy=1.61e12,
        hbm_source=AZURE.format("A100 v4") + ": Dot and Copy",
        vllm="0.14.0",
        all_reduce_version="0.14.0",
        gemm_smooth=0.02,
        head_dims=(128,),
    ),
    "l40s": Gpu(
        title="NVIDIA L40S 48 GB",
        folder="l40s",
        memory_bytes=46068 * MIB,
        memory_source="nvidia-smi total of L40S, as in aisimulate system.yaml",
        peak_flops=362.05e12,
        peak_hbm=0.864e12,
        hbm_read=0.778e12,
        hbm_copy=0.735e12,
        hbm_source="assumption: 90 % and 85 % of peak, as on the other three",
        vllm="0.24.0",
        all_reduce_version="0.22.0",
        gemm_smooth=0.1,
    ),
}

# vLLM takes its own all-reduce up to this many bytes (its default limit), NCCL above.
ALL_REDUCE_LIMIT = 8 * MIB

ELEMENTWISE: dict[str, Any] = {
    "kernel_floor_s": 2e-6,
    "source": (
        "assumption: shortest kernel inside a CUDA graph; "
        "vidur's one-token medians: add 1-2 us, norm and rope 4-5 us"
    ),
}

OVERHEAD: dict[str, Any] = {
    "decode_s": 0.0001,
    "mixed_s": 0.0007,
    "meaning": (
        "host time per iteration the GPU waits for: scheduling, input preparation, sampling, output; "
        "decode: all under one CUDA graph, mixed: chunks beside, attention launched eagerly"
    ),
    "source": (
        "assumption, for vLLM 0.23 and later with asynchronous scheduling; with it sums of kernels meet "
        "measured iterations of Qwen3-14B on one H100 (vLLM 0.23, batch 1 to 8) within 2 %"
    ),
}

PCIE_GEN4 = "assumption: 25 of 32 GB/s; start-up as fitted on H100"
PCIE_SAME = "as fitted on H100 (nvbandwidth of this node: H2D 52, D2H 52 GB/s)"
HOST_DRAM: dict[str, Any] = {
    "bytes_per_s": 300 * GB,
    "start_s": 0.0,
    "peak_bytes_per_s": 307.2 * GB,
    "source": "assumption: one socket of eight DDR5-4800 channels",
}
# Peer cudaMemcpyAsync in a loop, 64 KiB and less: 3.55 to 3.98 us (torchcomms); large copies 371 to 380 GB/s (NCCL).
NVLINK_COPY_START = 3.7e-6
NVLINK4_COPY_RATE = 376 * GB
NVLINK_COPY = (
    "H100 NVLink4 peer copies: github.com/meta-pytorch/torchcomms/pull/2195, NVIDIA/nccl/issues/1264"
)
PEAK_NVLINK = {"h100": 450 * GB, "h200": 450 * GB, "a100": 300 * GB}
PEAK_PCIE = {"h100": 64 * GB, "h200": 64 * GB, "a100": 32 * GB, "l40s": 32 * GB}
PCIE_GEN4_RATE = {"pcie_h2d": 25 * GB, "pcie_d2h": 25 * GB}
