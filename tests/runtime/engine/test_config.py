"""Where a model's numbers come from, and what is said when they do not fit."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aquasim.models import load_model
from aquasim.runtime.engine import LlamaConfig, RopeScaling

LLAMA31 = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
}  # fmt: skip
SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)


def written(folder: Path, **changes: Any) -> Path:
    """Write Llama 3.1's config.json with changes; None takes a key out."""
    data = {key: value for key, value in (LLAMA31 | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(data))
    return folder


def test_llama_31_reads_as_its_shape_says(tmp_path: Path) -> None:
    """config.json and the catalogue give one config; the catalogue knows no rotary numbers."""
    expected = LlamaConfig.from_model(load_model("llama-3.1-8b"), rope_theta=500000.0, rope_scaling=SCALING)

    assert LlamaConfig.read(written(tmp_path)) == expected
    assert LlamaConfig.read(written(tmp_path) / "config.json") == expected


def test_rope_parameters_of_transformers_5(tmp_path: Path) -> None:
    """The newer spelling has theta inside."""
    rope = {**LLAMA31["rope_scaling"], "rope_theta": 500000.0}  # type: ignore[dict-item]
    old = LlamaConfig.read(written(tmp_path))
    new = LlamaConfig.read(written(tmp_path, rope_scaling=None, rope_theta=None, rope_parameters=rope))

    assert new == old


def test_qwen_has_biases_or_norms(tmp_path: Path) -> None:
    """Qwen2 has biases without saying so, Qwen3 norms."""
    qwen2 = LlamaConfig.read(written(tmp_path, model_type="qwen2", rope_scaling=None))
    qwen3 = LlamaConfig.read(written(tmp_path, model_type="qwen3", rope_scaling=None, head_dim=64))

    assert (qwen2.qkv_bias, qwen2.qk_norm, qwen2.rope_scaling) == (True, False, None)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, True, 64)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"hidden_act": "gelu"}, "key hidden_act is 'gelu'; valid: 'silu'"),
        ({"model_type": "mixtral"}, "key model_type is 'mixtral'; valid: 'llama', 'mistral',"),
        ({"attention_bias": True}, "key attention_bias is True; valid: False"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "key rope_type is 'yarn'; valid: 'default', 'llama3'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "key factor is None; valid: a number above 0"),
        ({"rms_norm_eps": 0}, "key rms_norm_eps is 0; valid: a number above 0"),
        ({"vocab_size": None}, "key vocab_size is missing"),
        ({"num_key_value_heads": 5}, "heads 32 is no multiple of kv_heads 5"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, change: dict[str, Any], error: str) -> None:
    """One line says file, key, value and what is valid."""
    with pytest.raises(ValueError, match=r"config\.json: .*") as caught:
        LlamaConfig.read(written(tmp_path, **change))

    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shapes_of_another_build_are_refused() -> None:
    """Experts and plain feed-forward networks do not run here; a sliding window bounds the positions."""
    with pytest.raises(ValueError, match="experts is 8; this engine runs only 0"):
        LlamaConfig.from_model(load_model("mixtral-8x7b"))
    with pytest.raises(ValueError, match="gated_mlp is False"):
        LlamaConfig.from_model(load_model("opt-30b"))
    assert LlamaConfig.from_model(load_model("mistral-7b")).max_positions == 4096


def test_llama_3_stretches_slow_frequencies_only() -> None:
    """Wavelengths under 2,048 tokens stay, over 8,192 are eight times as long, and the order is kept."""
    plain = LlamaConfig.from_model(load_model("llama-3.1-8b"), rope_theta=500000.0).frequencies()
    scaled = LlamaConfig.from_model(
        load_model("llama-3.1-8b"), rope_theta=500000.0, rope_scaling=SCALING
    ).frequencies()

    for before, after in zip(plain, scaled, strict=True):
        length = 2 * math.pi / before
        least = before if length < 2048 else before / 8
        most = before / 8 if length > 8192 else before
        assert least <= after <= most
    assert scaled == sorted(scaled, reverse=True)


def test_ranks_divide_heads() -> None:
    """KV heads are split, or shared by ranks where there are fewer."""
    config = LlamaConfig.from_model(load_model("qwen2-7b"))

    assert [config.shard(rank, 2)[:2] for rank in range(2)] == [(14, 2)] * 2
    assert [config.shard(rank, 2).first_kv_head for rank in range(2)] == [0, 2]
    with pytest.raises(ValueError, match="heads is 28; it must divide by 8 ranks"):
        config.shard(0, 8)
    wide = LlamaConfig.from_model(load_model("llama-3.1-8b"))
    assert [wide.shard(rank, 16).first_kv_head for rank in range(16)] == [rank // 2 for rank in range(16)]


def test_neither_package_nor_config_needs_torch() -> None:
    """A process that only wants sizes does not load torch."""
    code = "import sys, aquasim.runtime.engine as e; e.LlamaConfig; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
