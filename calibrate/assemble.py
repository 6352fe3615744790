"""Put a hardware profile together from what was measured, what is known of the device, and a base profile."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aquasim.calibrate import facts
from aquasim.calibrate.check import layer_block
from aquasim.calibrate.fit import fit_blocks
from aquasim.calibrate.lines import round_to
from aquasim.calibrate.machine import machine_blocks
from aquasim.calibrate.published import fact_blocks
from aquasim.calibrate.samples import Samples
from aquasim.errors import UserError
from aquasim.hardware.profile import REQUIRED, SCHEMA, Profile, profile_from, profile_names

Block = dict[str, Any]
Parts = Mapping[str, Samples]

_FILLED = (*REQUIRED, "all_reduce", "throttle")


def build_profile(name: str, samples: Parts, base: Profile | None = None) -> Block:
    """Fit a profile to `samples` (by operator); ready for json.dumps.

    What is known of a device comes by the name that the samples' provenance gives it; peaks nobody states are
    the best that was measured. What then is missing is taken from `base`, and says so. Raises UserError, one
    line, naming what is missing where there is no base.
    """
    provenance = {key: value for part in samples.values() for key, value in part.provenance.items()}
    gpu = _gpu(provenance)
    blocks = {**_known(provenance, gpu), **machine_blocks(samples)}
    taken: Block | None = _taken(base.blocks["peak"], base) if base is not None else None
    peak = blocks.get("peak") or _measured_peak(samples) or taken
    blocks |= {"peak": peak} if peak else {}
    if base is None:
        _refuse_missing(samples, blocks)
    assert peak is not None  # refused otherwise
    # Our own samples were taken on operands in turn; published ones may have been in cache.
    cache = float(gpu.l2_bytes) if gpu and "aquasim" not in provenance else 0.0
    blocks |= fit_blocks(samples, peak["flops"], peak["hbm_bytes_per_s"], cache=cache)
    blocks = _filled(blocks, base) if base else blocks
    about = {key: value for key, value in provenance.items() if not key.startswith(("link ", "memory_bytes"))}
    kernels = {"source": f"samples of {', '.join(samples)}", **about}
    title = provenance.get("device", name)
    profile = {"schema": SCHEMA, "name": name, "title": title, "kernels": kernels, **blocks}
    layer = layer_block(profile_from(profile), samples["layer"]) if "layer" in samples else None
    return {**profile, **({"layer": layer} if layer else {})}


def _gpu(provenance: Mapping[str, str]) -> facts.Gpu | None:
    """Return the GPU that the samples' device is, if we know it."""
    device = provenance.get("device", "")
    known = (
        gpu for gpu in facts.GPUS.values() if device == gpu.device or device.startswith(f"{gpu.device} ")
    )
    return next(known, None)


def _known(provenance: Mapping[str, str], gpu: facts.Gpu | None) -> dict[str, Block]:
    """Return memory, peaks and memory rates as far as the device's name or the samples say."""
    known = fact_blocks(gpu) if gpu else {}
    if "memory_bytes" in provenance:
        source = f"driver's total of {provenance.get('device', 'the device')}"
        known["memory"] = {"bytes": int(provenance["memory_bytes"]), "source": source}
    return known


def _measured_peak(samples: Parts) -> Block | None:
    """Return the best rates among the samples, where products and memory were measured."""
    if "gemm" not in samples or "memory" not in samples:
        return None
    gemm, memory = samples["gemm"], samples["memory"]
    flops = 2 * gemm["tokens"] * gemm["outputs"] * gemm["inputs"] / gemm.seconds
    weights = 2 * gemm["outputs"] * gemm["inputs"] / gemm.seconds
    rates = np.concatenate([memory["bytes"] / memory.seconds, weights])
    return {
        "flops": round_to(float(flops.max())),
        "hbm_bytes_per_s": round_to(float(rates.max())),
        "source": f"best measured: {gemm.source}, {memory.source}",
    }


def _filled(blocks: dict[str, Block], base: Profile) -> dict[str, Block]:
    """Add from `base` the blocks that are missing, and the links."""
    filled = {name: _taken(base.blocks[name], base) for name in _FILLED if name in base.blocks}
    merged = {**filled, **blocks}
    merged["links"] = {**filled["links"], **blocks.get("links", {})}
    return merged


def _taken(block: Any, base: Profile) -> Any:
    """Return a block of another profile that says so wherever it names a source."""
    if not isinstance(block, dict):
        return block
    taken = {key: _taken(value, base) if key != "residual" else value for key, value in block.items()}
    if "source" in block:
        taken["source"] = f"from profile {base.name}, not measured here: {block['source']}"
    return taken


def _refuse_missing(samples: Parts, blocks: Mapping[str, Block]) -> None:
    """Raise UserError, before anything is fitted, for blocks that no sample and no fact will fill."""
    fitted = {operator for operator in samples if operator in REQUIRED}
    if not {"decode_attention", "prefill_attention"} <= fitted:  # they are fitted together
        fitted -= {"decode_attention", "prefill_attention"}
    missing = [
        name for name in REQUIRED if name not in blocks and (name not in fitted or "peak" not in blocks)
    ]
    if missing:
        raise UserError(
            f"nothing measured for {', '.join(missing)}: measure it (aquasim calibrate), add files with --from, or "
            f"take it from another profile with --base (known: {', '.join(profile_names())})"
        )
