"""Build the hardware profiles that ship with the package from published samples.

    python -m aquasim.calibrate.published --data DIR --out aquasim/hardware/profiles

The samples themselves stay where they are; a profile holds fitted figures, where each came from and how far
off it is on samples held out. The same samples give the same bytes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from aquasim.calibrate import facts
from aquasim.calibrate.fit import fit_blocks
from aquasim.calibrate.importers import read_paths
from aquasim.calibrate.links import link_blocks
from aquasim.calibrate.points import TILE
from aquasim.calibrate.rates import rate_profiles
from aquasim.calibrate.samples import by_operator
from aquasim.hardware.profile import SCHEMA

Block = dict[str, Any]


def build_profile(name: str, data: Path) -> Block:
    """Fit every block of the profile `name` to the samples under `data`; ready for json.dumps.

    Raises ValueError, naming folder and pattern, where a table is missing or is there twice.
    """
    gpu = facts.GPUS[name]
    parts, _ = read_paths(_found(data / pattern) for pattern in gpu.files)
    peaks = gpu.peak_flops, gpu.peak_hbm
    fitted = fit_blocks(
        by_operator(parts), *peaks, gemm_smooth=gpu.gemm_smooth, tile=TILE, cache=gpu.l2_bytes
    )
    if name in facts.BESIDE:
        fitted["prefill_attention"]["beside"] = facts.BESIDE[name]
    return {
        "schema": SCHEMA,
        "name": name,
        "title": gpu.title,
        "kernels": gpu.kernels,
        **fact_blocks(gpu),
        "elementwise": facts.ELEMENTWISE,
        "throttle": facts.throttle(name),
        "links": link_blocks(name, data),
        **fitted,
    }


def fact_blocks(gpu: facts.Gpu) -> dict[str, Block]:
    """Return the blocks that are known of a GPU without measuring it: memory, peaks, HBM rates."""
    return {
        "memory": {"bytes": gpu.memory_bytes, "source": gpu.memory_source},
        "peak": {"flops": gpu.peak_flops, "hbm_bytes_per_s": gpu.peak_hbm, "source": gpu.peak_source},
        "hbm": {"read_bytes_per_s": gpu.hbm_read, "copy_bytes_per_s": gpu.hbm_copy, "source": gpu.hbm_source},
    }


def _found(path: Path) -> Path:
    """Return a folder as it is, and for a file's pattern the only file that matches."""
    return path if path.is_dir() else one_file(path.parent, path.name)


def one_file(folder: Path, pattern: str) -> Path:
    """Return the only file in `folder` that matches; ValueError if there is none or more than one."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder}: expected one file {pattern}, found {len(found)}")
    return found[0]


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
    for name, block in rate_profiles(options.data).items():
        (options.out / f"{name}.json").write_text(profile_text(block), encoding="utf-8")
    for name in facts.GPUS:
        block = build_profile(name, options.data)
        (options.out / f"{name}.json").write_text(profile_text(block), encoding="utf-8")
        for operator, residual in residuals(block).items():
            print(f"{name:10} {operator:34} median {residual['median']:6.1%}  p90 {residual['p90']:6.1%}")


def residuals(block: Block, path: str = "") -> dict[str, Block]:
    """Return the residuals anywhere in a profile, by the dotted name of their block."""
    found = {path: block["residual"]} if "residual" in block else {}
    for key, value in block.items():
        if isinstance(value, dict):
            found |= residuals(value, f"{path}.{key}" if path else key)
    return {key: value for key, value in found.items() if value}


if __name__ == "__main__":
    main()
