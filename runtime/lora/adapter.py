"""Adapters: from a PEFT folder, or by seed."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aquasim.errors import UserError
from aquasim.runtime.engine import LlamaConfig
from aquasim.runtime.lora.layout import TARGETS, LoraLayout

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_MODULES = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none", None), "fan_in_fan_out": (False, None), "use_dora": (False, None),
    "modules_to_save": (None, []), "layers_to_transform": (None,), "lora_bias": (False, None),
    "rank_pattern": ({}, None), "alpha_pattern": ({}, None),
}  # fmt: skip
"""Keys of a PEFT config and the values that mean a plain adapter."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What is added to a model's projections, x -> scale * B A x: A `[rank, inputs]`, B `[outputs, rank]` of each."""

    name: str
    rank: int
    scale: float
    matrices: Mapping[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]

    @property
    def targets(self) -> tuple[str, ...]:
        """Projections that are adapted in some layer."""
        found = {target for _, target in self.matrices}
        return tuple(target for target in TARGETS if target in found)


def random_adapter(
    config: LlamaConfig, rank: int, seed: int, *, targets: tuple[str, ...] = TARGETS, scale: float = 1.0,
    name: str = "",
) -> Adapter:  # fmt: skip
    """Make an adapter by seed that changes what comes out about as much as the model itself does."""
    layout, generator = LoraLayout(config, rank, targets), torch.Generator()
    matrices = {}
    for layer in range(config.layers):
        for target in targets:
            inputs, outputs = layout.size(target)
            generator.manual_seed(zlib.crc32(f"{seed} {layer} {target}".encode()))
            a = torch.randn(rank, inputs, generator=generator).mul_(inputs**-0.5)
            b = torch.randn(outputs, rank, generator=generator).mul_(rank**-0.5)
            matrices[layer, target] = (a, b)
    return Adapter(name or f"random{seed}", rank, scale, matrices)


def read_adapter(folder: str | Path, config: LlamaConfig, name: str = "") -> Adapter:
    """Read an adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors.

    Raises UserError for a file that is missing, a kind of adapter that is not plain LoRA, and tensors that are
    not this model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    data = _read_config(folder / CONFIG_FILE)
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: {error}") from None
    rank = data["r"]
    scale = data["lora_alpha"] / (math.sqrt(rank) if data.get("use_rslora") else rank)
    matrices = _matrices(folder / WEIGHTS_FILE, tensors, config, rank)
    return Adapter(name or folder.name, rank, scale, matrices)


def pack(adapter: Adapter, layout: LoraLayout, dtype: torch.dtype) -> torch.Tensor:
    """Return an adapter as one row `[layout.elements]` on the CPU, its scale multiplied into B.

    Raises UserError for a rank above the layout's, targets that it lacks, and numbers that are not finite: those
    could reach other requests of a batch.
    """
    if adapter.rank > layout.rank:
        raise UserError(
            f"adapter {adapter.name} has rank {adapter.rank}; the slots hold ranks up to {layout.rank}"
        )
    missing = [target for target in adapter.targets if target not in layout.targets]
    if missing:
        raise UserError(
            f"adapter {adapter.name} adapts {', '.join(missing)}; the slots hold {', '.join(layout.targets)}"
        )
    row = torch.zeros(layout.elements, dtype=dtype)
    for layer, target, half, view in layout.pieces(row):
        if (layer, target) in adapter.matrices:
            a, b = adapter.matrices[layer, target]
            part = a if half == "A" else b.float() * adapter.scale
            view[: part.shape[0], : part.shape[1]] = part
    if not row.isfinite().all():
        raise UserError(f"adapter {adapter.name} holds numbers that are not finite in {dtype}")
    return row


def _read_config(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: an object is needed, not {data!r}")
    for key, valid in _PLAIN.items():
        if data.get(key, valid[-1]) not in valid:
            raise UserError(f"{path}: key {key} is {data[key]!r}; valid: {valid[0]!r}")
    for key in ("r", "lora_alpha"):
        value = data.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise UserError(f"{path}: key {key} is {value!r}; valid: a number above 0")
    if not isinstance(data["r"], int):
        raise UserError(f"{path}: key r is {data['r']!r}; valid: a whole number")
    return data


def _matrices(
    path: Path, tensors: dict[str, torch.Tensor], config: LlamaConfig, rank: int
) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """Sort tensors by layer and target; every one must be this model's."""
    layout, left, found = LoraLayout(config, rank), dict(tensors), {}
    for layer in range(config.layers):
        for target in TARGETS:
            module = f"{_MODULES.get(target, 'mlp')}.{target}"
            stem = f"base_model.model.model.layers.{layer}.{module}"
            names = [f"{stem}.lora_{half}.weight" for half in ("A", "B")]
            pair = [left.pop(name, None) for name in names]
            if pair == [None, None]:
                continue
            inputs, outputs = layout.size(target)
            for name, tensor, shape in zip(names, pair, ((rank, inputs), (outputs, rank)), strict=True):
                if tensor is None or tuple(tensor.shape) != shape:
                    held = "is missing" if tensor is None else f"is {list(tensor.shape)}"
                    raise UserError(f"{path}: tensor {name} {held}; {list(shape)} is needed")
            assert pair[0] is not None
            assert pair[1] is not None
            found[layer, target] = (pair[0], pair[1])
    if left or not found:
        raise UserError(f"{path}: {next(iter(left), 'it')} is no adapter of this model's linear layers")
    return found
