"""The numbers of a Llama-family model: from a config.json, a GGUF file or a shape of `aquasim.models`."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from aquasim.models import Model
from aquasim.models.hf import read_config

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of model_type in config.json."""
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of general.architecture in a GGUF file; Mistral's is llama."""
_POSITIVE = ("vocab", "hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate", "max_positions")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretch of rotary frequencies; names as in config.json, where rope_type is llama3."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def apply(self, frequency: float) -> float:
        """Return a frequency (radians per position): slow ones by `factor` slower, fast ones as they are."""
        turns = self.original_max_positions * frequency / (2 * math.pi)
        if turns < self.low_freq_factor:
            return frequency / self.factor
        if turns > self.high_freq_factor:
            return frequency
        share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return frequency * (share + (1 - share) / self.factor)


class Shard(NamedTuple):
    """What one of several tensor-parallel ranks holds of each layer; a KV head may be on several ranks."""

    heads: int
    kv_heads: int
    intermediate: int
    first_kv_head: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Sizes of a decoder-only transformer with RMS norms, rotary positions and a gated feed-forward network.

    Raises:
        ValueError: a size is not positive, `heads` is no multiple of `kv_heads`, or `head_dim` is odd.
    """

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied_embeddings: bool = False
    max_positions: int = 4096
    qkv_bias: bool = False
    """Biases on query, key and value projections (Qwen2)."""
    qk_norm: bool = False
    """RMS norms on each head's queries and keys before rotation (Qwen3)."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads is {self.heads}; it must be a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions need an even one")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a GGUF file, a config.json, or the folder of one; ValueError in one line."""
        path = Path(path)
        return cls.from_gguf(path) if path.suffix == ".gguf" else cls.from_hf(path)

    @classmethod
    def from_model(
        cls, model: Model, *, rope_theta: float = 10000.0, rope_scaling: RopeScaling | None = None,
        norm_eps: float = 1e-5,
    ) -> Self:  # fmt: skip
        """Take the sizes of a shape. A sliding window becomes the most positions: within it attention is full.

        Raises ValueError for shapes of another build: experts, a plain feed-forward network, biases everywhere,
        learned positions.
        """
        others = {"experts": 0, "gated_mlp": True, "biases": False, "positions": 0}
        for key, valid in others.items():
            if (value := getattr(model, key)) != valid:
                raise ValueError(f"model {model.name}: {key} is {value}; this engine runs only {valid}")
        return cls(
            vocab=model.vocab, hidden=model.hidden, layers=model.layers, heads=model.heads,
            kv_heads=model.kv_heads, head_dim=model.head_dim, intermediate=model.intermediate,
            rope_theta=rope_theta, rope_scaling=rope_scaling, norm_eps=norm_eps,
            tied_embeddings=model.tied_embeddings, qkv_bias=model.qkv_bias, qk_norm=model.qk_norm,
            max_positions=min(model.max_position, model.sliding_window or model.max_position),
        )  # fmt: skip

    @classmethod
    def from_hf(cls, path: str | Path) -> Self:
        """Read a Hugging Face config.json, or the folder that holds one.

        Keys as transformers writes them, before and since version 5 (rope_parameters). Raises a ValueError of one
        line that names file, key, value and what is valid.
        """
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        model = read_config(path)
        keys = _Keys(path, json.loads(path.read_text(encoding="utf-8")))
        keys.only("model_type", FAMILIES)
        keys.only("hidden_act", ("silu",), "silu")
        keys.only("mlp_bias", (False,), False)
        if keys.data["model_type"] != "qwen2":
            keys.only("attention_bias", (False,), False)
        rope = keys.rope()
        return cls.from_model(
            model,
            rope_theta=keys.number("rope_theta", 10000.0, rope),
            rope_scaling=keys.scaling(rope),
            norm_eps=keys.number("rms_norm_eps", 1e-6),
        )

    @classmethod
    def from_gguf(cls, path: str | Path) -> Self:
        """Read the metadata of a GGUF file. Llama 3's scaling is a tensor there, which the weights bring.

        Raises a ValueError of one line that names file, key, value and what is valid.
        """
        from aquasim.runtime.engine.gguf import GgufFile

        file = GgufFile(path)
        family = file.one_of("general.architecture", ARCHITECTURES)
        file.one_of(f"{family}.rope.scaling.type", ("none",), "none")
        heads = file.integer(f"{family}.attention.head_count")
        hidden = file.integer(f"{family}.embedding_length")
        dim = file.integer(f"{family}.attention.key_length", hidden // heads)
        file.one_of(f"{family}.rope.dimension_count", (dim,), dim)
        return cls(
            vocab=file.rows("token_embd.weight"), hidden=hidden, heads=heads, head_dim=dim,
            layers=file.integer(f"{family}.block_count"),
            kv_heads=file.integer(f"{family}.attention.head_count_kv", heads),
            intermediate=file.integer(f"{family}.feed_forward_length"),
            rope_theta=file.number(f"{family}.rope.freq_base", 10000.0),
            norm_eps=file.number(f"{family}.attention.layer_norm_rms_epsilon"),
            tied_embeddings=not file.has("output.weight"),
            max_positions=file.integer(f"{family}.context_length"),
            qkv_bias=family == "qwen2", qk_norm=family == "qwen3",
        )  # fmt: skip

    def frequencies(self) -> list[float]:
        """Return the rotary frequencies, radians per position, one per pair of a head's dimensions."""
        plain = [self.rope_theta ** (-2 * pair / self.head_dim) for pair in range(self.head_dim // 2)]
        return [self.rope_scaling.apply(f) for f in plain] if self.rope_scaling else plain

    def shard(self, rank: int = 0, world: int = 1) -> Shard:
        """Return what rank `rank` of `world` holds; ValueError where the model does not divide."""
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; of {world} ranks it must be 0 to {world - 1}")
        for name in ("heads", "intermediate"):
            if getattr(self, name) % world:
                raise ValueError(f"{name} is {getattr(self, name)}; it must divide by {world} ranks")
        if self.kv_heads % world and world % self.kv_heads:
            raise ValueError(f"kv_heads is {self.kv_heads}; it must divide {world} ranks, or they it")
        heads, inner = self.heads // world, self.intermediate // world
        return Shard(heads, max(1, self.kv_heads // world), inner, rank * self.kv_heads // world)


class _Keys:
    """Keys of a config.json; every error is a ValueError of one line."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path = path
        self.data = data

    def only(self, key: str, valid: tuple[object, ...], default: object = None) -> None:
        """Refuse values other than `valid`; a missing or null key is `default`."""
        value = self.data.get(key)
        value = default if value is None else value
        if value not in valid:
            raise ValueError(f"{self.path}: key {key} is {value!r}; valid: {_listed(valid)}")

    def number(self, key: str, default: float | None = None, within: dict[str, Any] | None = None) -> float:
        """Return a positive number of `within` or of the file; a missing or null key gives `default`."""
        value = (within or {}).get(key)
        value = self.data.get(key) if value is None else value
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"{self.path}: key {key} is {value!r}; valid: a number above 0")
        return float(value)

    def rope(self) -> dict[str, Any]:
        """Return rope_parameters (transformers 5) or rope_scaling (before)."""
        for key in ("rope_parameters", "rope_scaling"):
            value = self.data.get(key)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise ValueError(f"{self.path}: key {key} is {value!r}; valid: an object, or null")
            return value
        return {}

    def scaling(self, rope: dict[str, Any]) -> RopeScaling | None:
        """Return Llama 3's scaling, None for plain frequencies; other kinds are refused."""
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise ValueError(f"{self.path}: key rope_type is {kind!r}; valid: 'default', 'llama3'")
        if kind == "default":
            return None
        return RopeScaling(
            factor=self.number("factor", None, rope),
            low_freq_factor=self.number("low_freq_factor", None, rope),
            high_freq_factor=self.number("high_freq_factor", None, rope),
            original_max_positions=int(self.number("original_max_position_embeddings", None, rope)),
        )


def _listed(valid: tuple[object, ...]) -> str:
    return ", ".join(repr(value) for value in valid)
