"""A Llama as plainly as it can be said: numpy, float64, one token after another, no cache, no batch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aquasim.runtime.engine import LlamaConfig
from aquasim.runtime.engine.sources import RandomSource

Array = npt.NDArray[np.float64]
Tensors = Callable[[str], Array]

TINY = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=48, max_positions=256
)


def shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor, by its Hugging Face name."""
    c = config
    wide, narrow = c.heads * c.head_dim, c.kv_heads * c.head_dim
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab, c.hidden),
        "model.norm.weight": (c.hidden,),
    }
    if not c.tied_embeddings:
        found["lm_head.weight"] = (c.vocab, c.hidden)
    for number in range(c.layers):
        layer = f"model.layers.{number}."
        found |= {
            f"{layer}input_layernorm.weight": (c.hidden,),
            f"{layer}post_attention_layernorm.weight": (c.hidden,),
            f"{layer}self_attn.o_proj.weight": (c.hidden, wide),
            f"{layer}mlp.gate_proj.weight": (c.intermediate, c.hidden),
            f"{layer}mlp.up_proj.weight": (c.intermediate, c.hidden),
            f"{layer}mlp.down_proj.weight": (c.hidden, c.intermediate),
        }
        for name, rows in (("q", wide), ("k", narrow), ("v", narrow)):
            found[f"{layer}self_attn.{name}_proj.weight"] = (rows, c.hidden)
            if c.qkv_bias:
                found[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
            if c.qk_norm and name != "v":
                found[f"{layer}self_attn.{name}_norm.weight"] = (c.head_dim,)
    return found


def tensors(config: LlamaConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the tensors that `random_weights` of this seed is made of; norms a little uneven."""
    source = RandomSource(config, seed, "cpu")
    generator = torch.Generator().manual_seed(seed)
    made = {name: source.get(name, shape) for name, shape in shapes(config).items()}
    for name, tensor in made.items():
        if "norm" in name:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return made


def logits(config: LlamaConfig, named: dict[str, torch.Tensor], tokens: Sequence[int]) -> Array:
    """Return logits `[tokens, vocab]` of a whole sequence."""

    def get(name: str) -> Array:
        found: Array = named[name].double().numpy()
        return found

    hidden = get("model.embed_tokens.weight")[list(tokens)]
    for number in range(config.layers):
        layer = f"model.layers.{number}."
        normed = _norm(hidden, get(f"{layer}input_layernorm.weight"), config.norm_eps)
        hidden = hidden + _attention(config, get, f"{layer}self_attn.", normed)
        normed = _norm(hidden, get(f"{layer}post_attention_layernorm.weight"), config.norm_eps)
        gate, up = (normed @ get(f"{layer}mlp.{name}_proj.weight").T for name in ("gate", "up"))
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ get(f"{layer}mlp.down_proj.weight").T
    head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
    return _norm(hidden, get("model.norm.weight"), config.norm_eps) @ get(head).T


def _norm(rows: Array, weight: Array, eps: float) -> Array:
    normed: Array = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + eps) * weight
    return normed


def _attention(config: LlamaConfig, get: Tensors, prefix: str, rows: Array) -> Array:
    parts: dict[str, Any] = {}
    for name, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
        part = rows @ get(f"{prefix}{name}_proj.weight").T
        if config.qkv_bias:
            part = part + get(f"{prefix}{name}_proj.bias")
        part = part.reshape(len(rows), heads, config.head_dim)
        if config.qk_norm and name != "v":
            part = _norm(part, get(f"{prefix}{name}_norm.weight"), config.norm_eps)
        parts[name] = part if name == "v" else _rotate(config, part)
    mixed = np.zeros((len(rows), config.heads, config.head_dim))
    for head in range(config.heads):
        shared = head // (config.heads // config.kv_heads)
        scores = parts["q"][:, head] @ parts["k"][:, shared].T / np.sqrt(config.head_dim)
        scores[np.triu_indices(len(rows), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ parts["v"][:, shared]
    return mixed.reshape(len(rows), -1) @ get(f"{prefix}o_proj.weight").T


def _rotate(config: LlamaConfig, heads: Array) -> Array:
    half = config.head_dim // 2
    angles = np.arange(len(heads))[:, None, None] * np.array(config.frequencies())
    turned = (heads[..., :half] + 1j * heads[..., half:]) * np.exp(1j * angles)
    return np.concatenate((turned.real, turned.imag), -1)
