"""Build the hardware profiles that ship with the package from published samples.

    python -m aquasim.calibrate.published --data ../shared/data --out aquasim/hardware/profiles

The samples themselves stay where they are; a profile holds fitted figures, where each came from and how far
off it is on samples held out. The same samples give the same bytes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from aquasim.calibrate import facts
from aquasim.calibrate.links import link_blocks
from aquasim.calibrate.operators import (
    TILE,
    AllReduceTime,
    DecodeAttentionTime,
    GemmTime,
    PrefillAttentionTime,
)
from aquasim.calibrate.samples import all_reduce_samples, decode_samples, gemm_samples, prefill_samples
from aquasim.hardware.profile import SCHEMA

KERNELS = "PyPI aisimulate 0.13.0.dev202610270000000085 (Apache-2.0), bf16"

Block = dict[str, Any]


def build_profile(name: str, data: Path) -> Block:
    """Fit every block of the profile `name` to the samples under `data`; ready for json.dumps."""
    gpu = facts.GPUS[name]
    folder = data / "aisimulate-kernels" / gpu.folder
    gemm = gemm_samples(folder, gpu.peak_flops, gpu.peak_hbm)
    decode, prefill = _attention(folder, gpu)
    return {
        "schema": SCHEMA,
        "name": name,
        "title": gpu.title,
        "memory": {"bytes": gpu.memory_bytes, "source": gpu.memory_source},
        "peak": {"flops": gpu.peak_flops, "hbm_bytes_per_s": gpu.peak_hbm, "source": facts.VENDOR},
        "hbm": {"read_bytes_per_s": gpu.hbm_read, "copy_bytes_per_s": gpu.hbm_copy, "source": gpu.hbm_source},
        "kernels": {"source": KERNELS, "vllm": gpu.vllm},
        "gemm": GemmTime(gemm, gpu.gemm_smooth).fit(gemm).block(),
        "decode_attention": decode,
        "prefill_attention": {"tile": TILE, "by_head_dim": prefill},
        "all_reduce": {str(gpus): _all_reduce(folder, gpus, gpu.all_reduce_version) for gpus in (2, 4, 8)},
        "elementwise": facts.ELEMENTWISE,
        "overhead": facts.OVERHEAD,
        "links": link_blocks(name, data),
    }


def _attention(folder: Path, gpu: facts.Gpu) -> tuple[Block, Block]:
    """Return the decode and prefill blocks, by head dimension."""
    decode, prefill = {}, {}
    for head_dim in gpu.head_dims:
        steps = decode_samples(folder, head_dim, gpu.peak_hbm)
        chunks = prefill_samples(folder, head_dim, TILE, gpu.peak_flops)
        decode[str(head_dim)] = DecodeAttentionTime().fit(steps).block()
        prefill[str(head_dim)] = PrefillAttentionTime(steps.above_floor()).fit(chunks).block()
    return decode, prefill


def _all_reduce(folder: Path, gpus: int, version: str) -> Block:
    return AllReduceTime().fit(all_reduce_samples(folder, gpus, version, facts.ALL_REDUCE_LIMIT)).block()


def profile_text(block: Block) -> str:
    """Return the profile as JSON: sorted keys, one line per block, so that a diff shows what changed."""
    lines = (f"{json.dumps(key)}: {json.dumps(block[key], sort_keys=True)}" for key in sorted(block))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Rebuild the profiles and print how far each fit is off."""
    parser = argparse.ArgumentParser(description="Build hardware profiles from published samples.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the published samples")
    parser.add_argument("--out", type=Path, required=True, help="folder for the profiles")
    options = parser.parse_args()
    for name in facts.GPUS:
        block = build_profile(name, options.data)
        (options.out / f"{name}.json").write_text(profile_text(block), encoding="utf-8")
        for operator, residual in residuals(block).items():
            print(f"{name:5} {operator:24} median {residual['median']:6.1%}  p90 {residual['p90']:6.1%}")


def residuals(block: Block, path: str = "") -> dict[str, Block]:
    """Return the residuals anywhere in a profile, by the dotted name of their block."""
    found = {path: block["residual"]} if "residual" in block else {}
    for key, value in block.items():
        if isinstance(value, dict):
            found |= residuals(value, f"{path}.{key}" if path else key)
    return {key: value for key, value in found.items() if value}


if __name__ == "__main__":
    main()
