"""Adapters from files: what PEFT writes is read, everything else is one clear line."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import nothing, save
from lora_model import ADAPTERS, CONFIG, LAYOUT, RANK

from aquasim.errors import UserError
from aquasim.runtime.lora import Adapter, LoraLayout, LoraSlots, pack, random_adapter, read_adapter


def test_what_peft_saves_is_read(tmp_path: Path) -> None:
    """Tensors are the same bits and the scale is alpha / r; with use_rslora it is alpha / sqrt(r)."""
    found = read_adapter(save(tmp_path / "one", ADAPTERS[0], nothing), CONFIG)
    assert (found.name, found.rank, found.scale) == ("one", RANK, ADAPTERS[0].scale)
    assert found.matrices.keys() == ADAPTERS[0].matrices.keys()
    assert torch.equal(pack(found, LAYOUT, torch.float32), pack(ADAPTERS[0], LAYOUT, torch.float32))
    rooted = read_adapter(save(tmp_path / "two", ADAPTERS[0], nothing, use_rslora=True), CONFIG)
    assert rooted.scale == ADAPTERS[0].scale * RANK / math.sqrt(RANK)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "key peft_type is 'IA3'; valid: 'LORA'"),
        ({"bias": "all"}, "key bias is 'all'; valid: 'none'"),
        ({"use_dora": True}, "key use_dora is True; valid: False"),
        ({"modules_to_save": ["lm_head"]}, "key modules_to_save is"),
        ({"r": 0}, "key r is 0; valid: a number above 0"),
        ({"r": 2.5}, "key r is 2.5; valid: a whole number"),
        ({"lora_alpha": "8"}, "key lora_alpha is '8'; valid: a number above 0"),
        ({"r": 3}, r"lora_A.weight is \[4, 32\]; \[3, 32\] is needed"),
    ],
)
def test_configs_that_are_not_plain_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    """The line names the file, the key, its value and what is valid."""
    with pytest.raises(UserError, match=message):
        read_adapter(save(tmp_path / "x", ADAPTERS[0], nothing, **config), CONFIG)


STEM = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{STEM}.lora_B.weight"), rf"{STEM}.lora_B.weight is missing"),
        (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}), "lm_head"),
        (lambda t: t.update({f"{STEM}.lora_A.weight": torch.zeros(4, 31)}), r"is \[4, 31\]; \[4, 32\] is"),
        (lambda t: (t.clear(), t.update({"x": torch.zeros(1)})), "x is no adapter of this model's linear"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    """A missing half, a projection that is not adapted here, a wrong shape."""
    with pytest.raises(UserError, match=message):
        read_adapter(save(tmp_path / "x", ADAPTERS[0], change), CONFIG)


def test_missing_and_broken_files_are_one_line(tmp_path: Path) -> None:
    """No folder, no weights, no JSON."""
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        read_adapter(tmp_path / "none", CONFIG)
    folder = save(tmp_path / "x", ADAPTERS[0], nothing)
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: "):
        read_adapter(folder, CONFIG)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match=r"adapter_config\.json: "):
        read_adapter(folder, CONFIG)


def test_what_does_not_fit_the_slots_is_refused() -> None:
    """A rank above the slots', a target they lack, numbers that are not finite; layouts that are none."""
    with pytest.raises(UserError, match="adapter big has rank 8; the slots hold ranks up to 4"):
        pack(random_adapter(CONFIG, 8, 1, name="big"), LAYOUT, torch.float32)
    with pytest.raises(UserError, match=r"adapter a0 adapts q_proj, .*; the slots hold v_proj"):
        pack(ADAPTERS[0], LoraLayout(CONFIG, RANK, ("v_proj",)), torch.float32)
    huge = {key: (a, b * 1e38) for key, (a, b) in ADAPTERS[0].matrices.items()}
    with pytest.raises(UserError, match="holds numbers that are not finite"):
        pack(Adapter("huge", RANK, 1e9, huge), LAYOUT, torch.float32)
    with pytest.raises(ValueError, match="rank is 0; it must be at least 1"):
        LoraLayout(CONFIG, 0)
    with pytest.raises(ValueError, match="targets are lm_head; valid: q_proj"):
        LoraLayout(CONFIG, 1, ("lm_head",))
    with pytest.raises(ValueError, match="at least 1 slot"):
        LoraSlots(LAYOUT, 0)


def test_bytes_are_those_the_simulator_counts() -> None:
    """Elements and tensors of a row are those of `aquasim.hardware.lora`, up to the padding of the row's end."""
    from aquasim.hardware.lora import LoraShape
    from aquasim.models import load_model
    from aquasim.runtime.engine import LlamaConfig

    model = load_model("mistral-7b")
    layout, shape = LoraLayout(LlamaConfig.from_model(model), 32), LoraShape(model, 32)
    assert layout.elements * 2 == shape.bytes == 160 << 20
    assert layout.tensors == shape.tensors
