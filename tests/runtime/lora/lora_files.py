"""Adapters in files, as PEFT writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from aquasim.runtime.lora import Adapter


def save(folder: Path, adapter: Adapter, change: Callable[[dict[str, Any]], None], **config: Any) -> Path:
    """Write an adapter as PEFT does, after `change` to its tensors."""
    folder.mkdir()
    tensors: dict[str, Any] = {}
    for (layer, target), pair in adapter.matrices.items():
        module = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        for half, matrix in zip("AB", pair, strict=True):
            name = f"base_model.model.model.layers.{layer}.{module}.{target}.lora_{half}.weight"
            tensors[name] = matrix
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    fixed = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.rank * adapter.scale,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(fixed | config))
    return folder


def nothing(tensors: dict[str, Any]) -> None:
    """Change nothing."""
