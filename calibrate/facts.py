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

KERNELS = "PyPI aisimulate 0.13.0.dev202610270000000085 (Apache-2.0), bf16"
LAYERS = "github.com/casys-kaist/LLMServingSim 5daddb21a545 (MIT), kernels of a layer inside vLLM, bf16"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: vendor's peaks (flops/s in bf16, bytes/s), measured HBM rates, and where its samples are.

    `device` is its name as the driver gives it, `files` the samples' folder or files under the published data.
    """

    title: str
    device: str
    files: tuple[str, ...]
    memory_bytes: int
    memory_source: str
    peak_flops: float
    peak_hbm: float
    hbm_read: float
    hbm_copy: float
    hbm_source: str
    l2_bytes: int
    kernels: dict[str, str]
    peak_source: str = VENDOR
    gemm_smooth: float = 0.1


def _kernel_files(folder: str, vllm: str, all_reduce: str) -> tuple[str, ...]:
    """Return one GPU's tables among aisimulate's: products, attention, all-reduce of vLLM and of NCCL."""
    tables = ("gemm_bf16_vllm", "context_attention_bf16_vllm", "generation_attention_bf16_vllm")
    named = (*(f"{table}{vllm}.csv.gz" for table in tables), f"vllm_custom_allreduce_{all_reduce}.csv.gz")
    return tuple(f"aisimulate-kernels/{folder}/{name}" for name in (*named, "nccl_2.2*.csv.gz"))


GPUS = {
    "h100": Gpu(
        title="NVIDIA H100 SXM 80 GB",
        device="NVIDIA H100 80GB HBM3",
        files=_kernel_files("h100_sxm", vllm="0.25.0", all_reduce="0.24.0"),
        memory_bytes=81559 * MIB,
        memory_source="nvidia-smi total of H100 80GB HBM3",
        peak_flops=989e12,
        peak_hbm=3.35e12,
        hbm_read=3.18e12,
        hbm_copy=2.90e12,
        hbm_source=AZURE.format("H100 v5") + ": Dot and Copy",
        l2_bytes=50 * MIB,
        kernels={"source": KERNELS, "vllm": "0.25.0"},
    ),
    "h200": Gpu(
        title="NVIDIA H200 SXM 141 GB",
        device="NVIDIA H200",
        files=_kernel_files("h200_sxm", vllm="0.25.0", all_reduce="0.24.0"),
        memory_bytes=143771 * MIB,
        memory_source="nvidia-smi total of H200",
        peak_flops=989e12,
        peak_hbm=4.8e12,
        hbm_read=4.48e12,
        hbm_copy=4.01e12,
        hbm_source=AZURE.format("H200 v5") + ": Dot and Copy",
        l2_bytes=50 * MIB,
        kernels={"source": KERNELS, "vllm": "0.25.0"},
    ),
    "a100": Gpu(
        title="NVIDIA A100 SXM4 80 GB",
        device="NVIDIA A100-SXM4-80GB",
        files=_kernel_files("a100_sxm", vllm="0.14.0", all_reduce="0.14.0"),
        memory_bytes=81920 * MIB,
        memory_source="nvidia-smi total of A100-SXM4-80GB",
        peak_flops=312e12,
        peak_hbm=2.039e12,
        hbm_read=1.75e12,
        hbm_copy=1.61e12,
        hbm_source=AZURE.format("A100 v4") + ": Dot and Copy",
        l2_bytes=40 * MIB,
        kernels={"source": KERNELS, "vllm": "0.14.0"},
        gemm_smooth=0.02,
    ),
    "l40s": Gpu(
        title="NVIDIA L40S 48 GB",
        device="NVIDIA L40S",
        files=_kernel_files("l40s", vllm="0.24.0", all_reduce="0.22.0"),
        memory_bytes=46068 * MIB,
        memory_source="nvidia-smi total of L40S, as in aisimulate system.yaml",
        peak_flops=362.05e12,
        peak_hbm=0.864e12,
        hbm_read=0.778e12,
        hbm_copy=0.735e12,
        hbm_source="assumption: 90 % and 85 % of peak, as on the other three",
        l2_bytes=96 * MIB,
        kernels={"source": KERNELS, "vllm": "0.24.0"},
    ),
    "rtx4090": Gpu(
        title="NVIDIA GeForce RTX 4090 24 GB",
        device="NVIDIA GeForce RTX 4090",
        files=("llmservingsim/profiler/perf/RTX4090",),
        memory_bytes=24564 * MIB,
        memory_source="nvidia-smi total of GeForce RTX 4090",
        peak_flops=165.2e12,
        peak_hbm=1.008e12,
        hbm_read=0.958e12,
        hbm_copy=0.857e12,
        hbm_source="read: best rate of the weights' products among the samples; copy: assumption, 85 % of peak",
        l2_bytes=72 * MIB,
        kernels={"source": LAYERS, "vllm": "0.19.0", "cuda": "12.8"},
        peak_source="NVIDIA Ada architecture white paper: bf16 with fp32 accumulation, dense; 384 bit at 21 Gbit/s",
    ),
    "rtxpro6000": Gpu(
        title="NVIDIA RTX PRO 6000 Blackwell 96 GB",
        device="NVIDIA RTX PRO 6000 Blackwell Server Edition",
        files=("llmservingsim/profiler/perf/RTXPRO6000",),
        memory_bytes=97887 * MIB,
        memory_source="nvidia-smi total of RTX PRO 6000 Blackwell",
        peak_flops=503.8e12,
        peak_hbm=1.792e12,
        hbm_read=1.530e12,
        hbm_copy=1.523e12,
        hbm_source="read: best rate of the weights' products among the samples; copy: assumption, 85 % of peak",
        l2_bytes=128 * MIB,
        kernels={"source": LAYERS, "vllm": "0.19.0", "cuda": "13.0"},
        peak_source=(
            "188 multiprocessors x 1024 bf16 flops x 2.617 GHz, dense (the samples reach 438 TFLOP/s); "
            "NVIDIA data sheet: 512 bit GDDR7, 1792 GB/s"
        ),
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

_THROTTLE: dict[str, Any] = {
    "gain": 0.2,
    "rest": 0.36,
    "tau_s": 0.02,
    "meaning": (
        "compute-bound time grows by gain * (heat - rest); heat goes towards 1 under load and 0 at rest, tau_s its "
        "time constant; kernels were measured at a heat of rest"
    ),
}
THROTTLE_SOURCE = (
    "iterations with a prefill of 986 tokens last 43.3 ms right after another, 42.1 ms 11 ms later, 41.1 ms 30 ms "
    "later, 40.3 ms 60 ms later, 39.7 ms after 150 ms or more (Qwen3-14B, vLLM 0.23, H100); gain and rest also meet "
    "the token times of its runs at 6 and 18 requests/s, where products take 13 % longer than alone"
)


def throttle(name: str) -> dict[str, Any]:
    """Return how the clock of a GPU falls under load: seen on H100 only."""
    source = THROTTLE_SOURCE if name == "h100" else "assumption: as on H100, like it at its power limit"
    return {**_THROTTLE, "source": source}


# FlashAttention 3 beside a chunk of more than one tile of 128 rows of queries per KV head.
BESIDE_FA3: dict[str, Any] = {
    "factor": 1.7,
    "rows": 128,
    "source": (
        "what each decode adds to iterations with a prefill of 986 tokens, 0.14 ms, against 0.09 ms as decodes cost "
        "alone (Qwen3-14B, vLLM 0.23, H100, batches of 1 to 10), and 247 of them at 18 requests/s; none is seen "
        "beside chunks of 14 tokens (six models, vLLM 2026)"
    ),
}
# FlashAttention 2 wherever there are chunks: the median over launches measured on RTX PRO 6000.
BESIDE_FA2: dict[str, Any] = {
    "factor": 1.4,
    "rows": 0,
    "source": "assumption: the median of 18,960 such launches of FlashAttention 2 on RTX PRO 6000 (LLMServingSim)",
}
BESIDE = {"h100": BESIDE_FA3, "h200": BESIDE_FA3, "a100": BESIDE_FA2, "l40s": BESIDE_FA2}

PCIE_GEN4 = "assumption: 25 of 32 GB/s; start-up as fitted on H100"
PCIE_GEN5_SOURCE = {
    "h100": VLLM_BLOG,
    "h200": "as fitted on H100 (nvbandwidth of this node: H2D 52, D2H 52 GB/s)",
    "rtxpro6000": "assumption: as fitted on H100, the same PCIe 5 x16",
}
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
PEAK_PCIE = {
    "h100": 64 * GB, "h200": 64 * GB, "a100": 32 * GB, "l40s": 32 * GB, "rtx4090": 32 * GB, "rtxpro6000": 64 * GB,
}  # fmt: skip
PCIE_GEN4_RATE = {"pcie_h2d": 25 * GB, "pcie_d2h": 25 * GB}
