"""Models by name and from Hugging Face's config.json."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aquasim.models import load_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
OPT = {
    "model_type": "opt",
    "hidden_size": 7168,
    "ffn_dim": 28672,
    "num_attention_heads": 56,
    "num_hidden_layers": 48,
    "vocab_size": 50272,
    "word_embed_proj_dim": 7168,
    "max_position_embeddings": 2048,
    "torch_dtype": "float16",
}


def write(folder: Path, **keys: Any) -> Path:
    """Write config.json with these keys; None leaves a key out."""
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in keys.items() if value is not None}))
    return path


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "LLAMA-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"])
def test_names_in_any_case_and_hub_ids(name: str) -> None:
    """A model has one shape under all its names."""
    assert load_model(name) is load_model("llama-3.1-8b")


def test_unknown_name_lists_the_nearest() -> None:
    """An unknown name is answered with near ones in one line."""
    with pytest.raises(ValueError, match=r"^unknown model 'llama-3-8b'; nearest: Llama-3.1-8B") as caught:
        load_model("llama-3-8b")
    assert "\n" not in str(caught.value)


def test_name_like_none_lists_all() -> None:
    """A name like no other is answered with all known ones."""
    with pytest.raises(ValueError, match=r"known: Llama-2-7B, .*OPT-30B"):
        load_model("zzzzzz")


@pytest.mark.parametrize("as_folder", [True, False])
def test_llama_config_equals_the_catalogue(tmp_path: Path, as_folder: bool) -> None:
    """A published config gives the shape known by name, from the file and from its folder."""
    path = write(tmp_path, **LLAMA, _name_or_path="Llama-3.1-8B")
    assert load_model(tmp_path if as_folder else path) == load_model("llama-3.1-8b")


def test_opt_config_equals_the_catalogue(tmp_path: Path) -> None:
    """OPT's own keys are understood."""
    assert load_model(write(tmp_path, **OPT, _name_or_path="OPT-30B")) == load_model("opt-30b")


def test_mixtral_config_equals_the_catalogue(tmp_path: Path) -> None:
    """Experts are read."""
    keys = LLAMA | {"model_type": "mixtral", "vocab_size": 32000, "max_position_embeddings": 32768}
    keys |= {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
    assert load_model(write(tmp_path, **keys, _name_or_path="Mixtral-8x7B")) == load_model("mixtral-8x7b")


def test_qwen3_config_equals_the_catalogue(tmp_path: Path) -> None:
    """Qwen3 states its head dimension and a sliding window that it does not use."""
    keys = {
        "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 17408, "num_attention_heads": 40,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "vocab_size": 151936, "head_dim": 128,
        "max_position_embeddings": 40960, "sliding_window": 4096, "use_sliding_window": False,
        "dtype": "bfloat16", "_name_or_path": "Qwen3-14B",
    }  # fmt: skip
    assert load_model(write(tmp_path, **keys)) == load_model("qwen3-14b")


def test_absent_keys_mean_what_the_family_means(tmp_path: Path) -> None:
    """No KV heads: as many as heads; null head_dim: hidden / heads; no dtype: 16 bits; folder as name."""
    model = load_model(
        write(tmp_path, **LLAMA | {"num_key_value_heads": None, "torch_dtype": None}, head_dim=None)
    )
    assert (model.kv_heads, model.head_dim, model.dtype_bytes, model.name) == (32, 128, 2, tmp_path.name)


def test_mistral_without_kv_heads_is_grouped(tmp_path: Path) -> None:
    """Mistral's default is 8 KV heads, and its sliding window counts."""
    keys = LLAMA | {"model_type": "mistral", "num_key_value_heads": None, "sliding_window": 4096}
    model = load_model(write(tmp_path, **keys))
    assert (model.kv_heads, model.sliding_window) == (8, 4096)


def test_qwen2_has_biases_on_its_projections(tmp_path: Path) -> None:
    """Qwen2.5-7B has its published parameter count."""
    keys = {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        "max_position_embeddings": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    assert load_model(write(tmp_path, **keys)).parameters == 7_615_616_512


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden_size": None}, "key hidden_size is missing"),
        ({"hidden_size": "big"}, "key hidden_size must be a positive integer, is 'big'"),
        ({"num_hidden_layers": 0}, "key num_hidden_layers must be a positive integer, is 0"),
        ({"model_type": "mamba"}, "key model_type is 'mamba', not one of llama, "),
        ({"torch_dtype": "int3"}, "key torch_dtype is 'int3', not one of float16, "),
        ({"tie_word_embeddings": 1}, "key tie_word_embeddings must be true or false, is 1"),
        (
            {"num_attention_heads": 24},
            "key head_dim is missing and hidden_size 4096 / 24 heads is no integer",
        ),
        ({"num_key_value_heads": 5, "_name_or_path": "x"}, "model x: heads 32 is no multiple of kv_heads 5"),
    ],
)
def test_bad_config_names_file_and_key(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    """An error is one line that opens with the file and names the key."""
    path = write(tmp_path, **LLAMA | change)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {text}")) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    """A file that is absent, not JSON, or no object is refused by name."""
    with pytest.raises(ValueError, match=r"absent\.json: cannot be read"):
        load_model(tmp_path / "absent.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object"):
        load_model(tmp_path)
