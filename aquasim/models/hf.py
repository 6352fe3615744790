"""Read a Hugging Face config.json of the Llama, Mistral, Mixtral, Qwen2, Qwen3 or OPT family."""

import json
from pathlib import Path
from typing import Any

from aquasim.models.shape import Model

FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "opt")
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float": 4, "half": 2, "float8_e4m3fn": 1}
_OPT_POSITION_OFFSET = 2  # OPT's position table has two rows more than positions


class _Config:
    """The keys of one config.json, typed on reading; every error is a ValueError naming file and key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path}: expected a JSON object")
        self.data: dict[str, Any] = data

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer; a missing or null key gives `default`, if there is one."""
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise ValueError(f"{self.path}: key {key} is missing")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{self.path}: key {key} must be a positive integer, is {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean; a missing or null key gives `default`."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: key {key} must be true or false, is {value!r}")
        return value

    @property
    def family(self) -> str:
        value = self.data.get("model_type")
        if value not in FAMILIES:
            raise ValueError(f"{self.path}: key model_type is {value!r}, not one of {', '.join(FAMILIES)}")
        return str(value)

    @property
    def dtype_bytes(self) -> int:
        key = "dtype" if self.data.get("dtype") is not None else "torch_dtype"
        value = str(self.data.get(key) or "bfloat16").removeprefix("torch.")
        if value not in DTYPE_BYTES:
            raise ValueError(f"{self.path}: key {key} is {value!r}, not one of {', '.join(DTYPE_BYTES)}")
        return DTYPE_BYTES[value]

    @property
    def name(self) -> str:
        name = self.data.get("_name_or_path")
        return str(name) if name else (self.path.parent.name or self.path.stem)


def read_config(path: Path) -> Model:
    """Read a model's shape from `path`, a config.json or the folder that holds one.

    Absent keys mean what the family's own code takes them to mean: no `num_key_value_heads` is as many as
    query heads (8 for Mistral and Mixtral), no `head_dim` is hidden / heads. Raises a one-line ValueError
    naming file and key.
    """
    config = _Config(path / "config.json" if path.is_dir() else path)
    try:
        return _read_opt(config) if config.family == "opt" else _read_llama_like(config)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(config.path)) else f"{config.path}: {text}") from None


def _head_dim(config: _Config, hidden: int, heads: int) -> int:
    if config.data.get("head_dim") is None and hidden % heads:
        raise ValueError(
            f"{config.path}: key head_dim is missing and hidden_size {hidden} / {heads} heads is no integer"
        )
    return config.integer("head_dim", hidden // heads)


def _window(config: _Config, family: str) -> int:
    unused = family.startswith("qwen") and not config.flag("use_sliding_window", False)
    if unused or config.data.get("sliding_window") is None:
        return 0
    return config.integer("sliding_window")


def _read_llama_like(config: _Config) -> Model:
    family, hidden = config.family, config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    grouped = 8 if family in ("mistral", "mixtral") else heads
    moe = family == "mixtral"
    return Model(
        name=config.name,
        layers=config.integer("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", grouped),
        head_dim=_head_dim(config, hidden, heads),
        intermediate=config.integer("intermediate_size"),
        vocab=config.integer("vocab_size"),
        experts=config.integer("num_local_experts", 8) if moe else 0,
        experts_per_token=config.integer("num_experts_per_tok", 2) if moe else 0,
        tied_embeddings=config.flag("tie_word_embeddings", False),
        max_position=config.integer("max_position_embeddings", 4096),
        dtype_bytes=config.dtype_bytes,
        sliding_window=_window(config, family),
        qkv_bias=family == "qwen2" or config.flag("attention_bias", False),
        qk_norm=family == "qwen3",
    )


def _read_opt(config: _Config) -> Model:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if config.integer("word_embed_proj_dim", hidden) != hidden:
        raise ValueError(
            f"{config.path}: key word_embed_proj_dim differs from hidden_size, which is not supported"
        )
    positions = config.integer("max_position_embeddings", 2048)
    return Model(
        name=config.name,
        layers=config.integer("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(config, hidden, heads),
        intermediate=config.integer("ffn_dim"),
        vocab=config.integer("vocab_size"),
        gated_mlp=False,
        tied_embeddings=config.flag("tie_word_embeddings", True),
        max_position=positions,
        dtype_bytes=config.dtype_bytes,
        positions=positions + _OPT_POSITION_OFFSET,
        biases=config.flag("enable_bias", True),
    )
