"""Profiles of GPUs of which only layer times are published: NEO's T4 and A10G.

    python -m aquasim.calibrate.published --data DIR --out aquasim/hardware/profiles

builds them with the others. Times are per parameter, so that they serve any dense model.
"""

import csv
from pathlib import Path
from typing import Any

from aquasim.calibrate.facts import GB, MIB
from aquasim.hardware.profile import SCHEMA
from aquasim.models import Model, load_model

Block = dict[str, Any]

NEO = "NEO's notebooks (github.com/SwiftSeal03/swiftLLM, branch eval, b8decc1), LLaMA-3-8B on A10G"
HELIX = "github.com/Thesys-lab/Helix-ASPLOS25 148b733080c0 (Apache-2.0), layer times of Llama-2-70B on T4"
ROWS = "assumption; a NEO host engine's scheduling and launches, once an iteration: about 1.5 ms (trial fit)"

# Tokens against ms of all products of one layer of LLaMA-3-8B on A10G: a staircase of tiles of 128.
A10G_LAYER_MS = {128: 1.110, 256: 2.15, 384: 3.07, 512: 4.0, 640: 4.5, 1024: 7.8, 2048: 14.67}
# Sequences against ms of embedding, last norm, output head and choice.
A10G_HEAD_MS = {64: 2.3, 128: 2.8, 256: 4.3, 320: 5.4, 480: 7.7}


def rate_profiles(data: Path) -> dict[str, Block]:
    """Return the profiles by name.

    Raises:
        OSError: the layer times are not under `data`.
    """
    return {"a10g": _a10g(), "t4": _t4(data / "helix-layer-times" / "llama2_70b" / "t4")}


def _a10g() -> Block:
    model = load_model("Llama-3.1-8B")
    rates = {
        "products": _curve(
            A10G_LAYER_MS, _layer(model), 128, f"{NEO}; beyond 1,024 tokens by its fit's slope"
        ),
        "head": _curve(A10G_HEAD_MS, _head(model), 32, NEO),
        "kv_bytes_per_s": round(4096 / 9.3e-9),
        "kv_start_s": 18e-6,
        "kv_source": f"{NEO}: 2,000 tokens 0.036 ms, 16,000 tokens 0.166 ms",
        "prefill_flops_per_s": 45e12,
        "prefill_source": "assumption: two thirds of what its products reach",
        "kernel_floor_s": 4e-6,
        "iteration_s": 1.5e-3,
        "iteration_source": ROWS,
    }
    return _profile("a10g", "NVIDIA A10G 24 GB", 23028 * MIB, (70e12, 600 * GB), 12 * GB, rates)


def _t4(folder: Path) -> Block:
    model = load_model("Llama-2-70B")
    small = {tokens: ms for tokens, ms in _read(folder / "decode_bs2time.csv").items() if tokens <= 64}
    large = {tokens: ms for tokens, ms in _read(folder / "prompt_bs2time.csv").items() if 64 < tokens <= 2000}
    rates = {
        "products": _curve(
            small | large, _layer(model), 1, f"{HELIX}; up to 64 tokens decodes, beyond prompts"
        ),
        "head": {
            "tile": 1,
            "tokens": [1, 64],
            "s_per_parameter": [2 / 240e9] * 2,
            "source": "assumption: reads weights",
        },
        "kv_bytes_per_s": round(16384 / 7.4e-8),
        "kv_start_s": 20e-6,
        "kv_source": "trial fit of NEO's T4 runs",
        "prefill_flops_per_s": 4 * 32 * 128 / 2 / 1e-9,
        "prefill_source": "trial fit of NEO's T4 runs: 1e-6 ms per token squared, LLaMA-2-7B",
        "kernel_floor_s": 4e-6,
        "iteration_s": 1.5e-3,
        "iteration_source": ROWS,
    }
    return _profile("t4", "NVIDIA T4 16 GB", 15360 * MIB, (65e12, 320 * GB), 10 * GB, rates)


def _layer(model: Model) -> int:
    return sum(gemm.per_layer * gemm.n * gemm.k for gemm in model.gemms(1))


def _head(model: Model) -> int:
    head = model.lm_head(1)
    return head.n * head.k


def _curve(points: dict[int, float], parameters: int, tile: int, source: str) -> Block:
    """Return times (ms) by tokens as seconds per parameter."""
    values = [float(f"{ms / 1e3 / parameters:.4g}") for ms in points.values()]
    return {"tile": tile, "tokens": list(points), "s_per_parameter": values, "source": source}


def _read(path: Path) -> dict[int, float]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = {int(tokens): float(ms) for tokens, ms in csv.reader(file)}
    return {tokens: ms for tokens, ms in rows.items() if tokens}


def _profile(
    name: str, title: str, memory: int, peak: tuple[float, float], link: float, rates: Block
) -> Block:
    pcie = {
        "bytes_per_s": link,
        "start_s": 3e-6,
        "peak_bytes_per_s": link,
        "source": "trial fit of NEO's runs or assumption",
    }
    return {
        "schema": SCHEMA,
        "name": name,
        "title": title,
        "kernels": {"source": "published layer times"},
        "memory": {"bytes": memory, "source": "vendor's data sheet, as nvidia-smi shows it"},
        "peak": {"flops": peak[0], "hbm_bytes_per_s": peak[1], "source": "vendor's data sheet"},
        "hbm": {
            "read_bytes_per_s": 0.85 * peak[1],
            "copy_bytes_per_s": 0.8 * peak[1],
            "source": "assumption",
        },
        "links": {
            "pcie_d2h": pcie,
            "pcie_h2d": pcie,
            "host_dram": {**pcie, "bytes_per_s": 200e9, "peak_bytes_per_s": 200e9},
        },
        "rates": rates,
    }
