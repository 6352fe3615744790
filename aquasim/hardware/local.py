"""This machine: what identifies it, and where the profile that was measured on it is kept.

A server called "local" stands for the machine at hand. Its profile belongs to one model, since it was measured by
running that very model in our own engine (`aquasim calibrate --scenario`).
"""

import hashlib
import json
import os
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.hardware.links import LinkKind
from aquasim.hardware.profile import Profile, load_profile
from aquasim.models import Model

LOCAL = "local"
"""`machine.server` of a scenario that runs wherever it is started."""
ENGINE = "aquasim"
"""`engine.version` of our own runtime: what it adds to the kernels was measured with them."""
VERSION = 1
"""Of a profile's block `runtime`; one of another version is measured anew."""
DEVICES = ("cuda", "cpu")
"""What computes, the preferred first."""


def machine() -> dict[str, str]:
    """Return what must be the same for a profile to hold: processor, cores, memory, torch, system."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory_gib": str(round(memory_bytes() / 2**30)),
        "torch": _version("torch"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def memory_bytes() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def text_of(block: dict[str, Any]) -> str:
    """Return a profile as it is written, with sorted keys: the same profile is the same bytes."""
    return json.dumps(block, indent=1, sort_keys=True) + "\n"


def digest(block: dict[str, Any]) -> str:
    """Return the SHA-256 of a profile's text, in hexadecimal."""
    return hashlib.sha256(text_of(block).encode()).hexdigest()


SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "qk_norm", "qkv_bias")
"""What of a model decides how long our engine takes; named alike in `Model` and in the engine's configuration."""


def shape_of(model: Model) -> dict[str, Any]:
    """Return the sizes of a model on which times depend."""
    return {name: getattr(model, name) for name in SIZES}


def cache_folder() -> Path:
    """Return the folder of local profiles, in $XDG_CACHE_HOME or ~/.cache; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "aquasim" / "local"


def cached_path(model: Model, device: str) -> Path:
    """Return where this machine's profile for a model is, or would be."""
    about = json.dumps([machine(), shape_of(model)], sort_keys=True).encode()
    return cache_folder() / f"{device}-{hashlib.sha256(about).hexdigest()[:12]}.json"


def load_cached(model: Model, device: str = "cpu") -> Profile | None:
    """Return this machine's profile for a model; None where there is none, or one of another version."""
    path = cached_path(model, device)
    if not path.is_file():
        return None
    try:
        found = load_profile(path)
    except ValueError:
        return None
    return found if found.blocks.get("runtime", {}).get("version") == VERSION else None


def unmeasured_profile() -> Profile:
    """Return a profile that knows this machine's memory and nothing of time: enough to run, not to simulate."""
    link = LinkKind("none", 1.0, 0.0, 1.0)
    links = dict.fromkeys(("host_dram", "pcie_d2h", "pcie_h2d", "nvlink"), link)
    title = f"{_processor()} (not calibrated)"
    one = 1.0
    return Profile(LOCAL, title, memory_bytes(), one, one, one, one, 0.0, 1, links, {})


def check_machine(profile: Profile) -> None:
    """Raise UserError where a profile was measured on another machine than this, or by another engine."""
    block = profile.blocks.get("runtime")
    if block is None:
        raise UserError(
            f"machine.profile: {profile.name} says nothing of our own engine on this machine;"
            " aquasim calibrate --scenario measures it"
        )
    here = machine()
    other = {key: value for key, value in block["machine"].items() if here.get(key) != value}
    if other:
        said = ", ".join(f"{key} {value} (here {here.get(key)})" for key, value in other.items())
        raise UserError(f"machine.profile: {profile.name} was measured on another machine: {said}")


def check_model(profile: Profile, model: Model) -> None:
    """Raise UserError where our engine was measured on a model of another shape."""
    measured = profile.blocks["runtime"]["model"]
    if shape_of(model) != measured["shape"]:
        raise UserError(
            f"machine.profile: {profile.name} was measured with {measured['name']}, not with {model.name}:"
            " aquasim calibrate --scenario measures another"
        )


def as_stored(model: Model, itemsize: int) -> Model:
    """Return a model as our engine keeps it, with so many bytes per weight and per element of the KV cache."""
    return replace(model, dtype_bytes=itemsize)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "CPU")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
