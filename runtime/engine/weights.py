"""Weights of one rank: projections fused as they are multiplied, cut by heads and columns."""

from dataclasses import dataclass
from pathlib import Path

import torch

from aquasim.runtime.engine.config import LlamaConfig, Shard
from aquasim.runtime.engine.sources import GgufSource, RandomSource, SafetensorsSource, Source


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer's tensors on one rank; matrices are `[outputs, inputs]`."""

    attention_norm: torch.Tensor
    """`[hidden]`"""
    qkv: torch.Tensor
    """`[(heads + 2 * kv_heads) * head_dim, hidden]`: queries, keys, values, each head by head."""
    qkv_bias: torch.Tensor | None
    query_norm: torch.Tensor | None
    """`[head_dim]`"""
    key_norm: torch.Tensor | None
    output: torch.Tensor
    """`[hidden, heads * head_dim]`"""
    mlp_norm: torch.Tensor
    """`[hidden]`"""
    gate_up: torch.Tensor
    """`[2 * intermediate, hidden]`"""
    down: torch.Tensor
    """`[hidden, intermediate]`"""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All tensors of rank `rank` of `world`.

    The vocabulary is cut into equal parts where it divides by `world`, and whole on each rank where it does not.
    """

    embedding: torch.Tensor
    """`[vocabulary of this rank, hidden]`"""
    layers: tuple[Layer, ...]
    norm: torch.Tensor
    """`[hidden]`"""
    head: torch.Tensor
    """`[vocabulary of this rank, hidden]`; the embedding itself where they are tied."""
    rope_factors: torch.Tensor | None
    """`[head_dim / 2]`: what rotary frequencies are divided by beyond the config's scaling (GGUF)."""
    rank: int = 0
    world: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """What matrices are stored and multiplied as."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.embedding.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, tied ones once."""
        held = [self.embedding, self.norm, *([] if self.head is self.embedding else [self.head])]
        for layer in self.layers:
            held += [tensor for name in Layer.__slots__ if (tensor := getattr(layer, name)) is not None]
        return sum(tensor.nbytes for tensor in held)


def random_weights(
    config: LlamaConfig, seed: int = 0, *, dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu", rank: int = 0, world: int = 1,
) -> Weights:  # fmt: skip
    """Make weights by seed; ranks of one seed hold parts of the same model."""
    source = RandomSource(config, seed, device)
    return build(config, source, dtype=dtype, device=device, rank=rank, world=world)


def load_weights(
    path: str | Path, config: LlamaConfig, *, dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu", rank: int = 0, world: int = 1,
) -> Weights:  # fmt: skip
    """Load a GGUF file, a safetensors file, or a folder of safetensors with or without an index.

    Tensors are read, cut and converted one at a time. Raises a ValueError of one line that names file and tensor.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    source: Source = GgufSource(path, config) if path.suffix == ".gguf" else SafetensorsSource(path)
    return build(config, source, dtype=dtype, device=device, rank=rank, world=world)


def build(
    config: LlamaConfig, source: Source, *, dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu", rank: int = 0, world: int = 1,
) -> Weights:  # fmt: skip
    """Cut what rank `rank` of `world` holds out of the tensors of `source`."""
    maker = _Maker(config, source, dtype, torch.device(device), rank, world)
    embedding = maker.vocabulary("model.embed_tokens.weight")
    return Weights(
        embedding=embedding,
        layers=tuple(maker.layer(f"model.layers.{number}.") for number in range(config.layers)),
        norm=maker.norm("model.norm.weight", config.hidden),
        head=embedding if config.tied_embeddings else maker.vocabulary("lm_head.weight"),
        rope_factors=source.rope_factors(),
        rank=rank,
        world=world,
    )


class _Maker:
    """Asks for tensors by name and cuts out one rank's part."""

    def __init__(
        self, config: LlamaConfig, source: Source, dtype: torch.dtype, device: torch.device, rank: int,
        world: int,
    ) -> None:  # fmt: skip
        self.config, self.source, self.dtype, self.device = config, source, dtype, device
        self.shard: Shard = config.shard(rank, world)
        self.rank, self.world = rank, world

    def layer(self, prefix: str) -> Layer:
        config = self.config
        heads = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
        gate_up = [self._split(f"{prefix}mlp.{n}_proj.weight", config.intermediate) for n in ("gate", "up")]
        attention = f"{prefix}self_attn."
        return Layer(
            attention_norm=self.norm(f"{prefix}input_layernorm.weight", config.hidden),
            qkv=self._join([self._heads(f"{attention}{n}_proj.weight", n, c) for n, c in heads.items()]),
            qkv_bias=self._join([self._heads(f"{attention}{n}_proj.bias", n, c) for n, c in heads.items()])
            if config.qkv_bias
            else None,
            query_norm=self.norm(f"{attention}q_norm.weight", config.head_dim) if config.qk_norm else None,
            key_norm=self.norm(f"{attention}k_norm.weight", config.head_dim) if config.qk_norm else None,
            output=self._inputs(f"{attention}o_proj.weight", config.heads * config.head_dim),
            mlp_norm=self.norm(f"{prefix}post_attention_layernorm.weight", config.hidden),
            gate_up=self._join(gate_up),
            down=self._inputs(f"{prefix}mlp.down_proj.weight", config.intermediate),
        )

    def norm(self, name: str, size: int) -> torch.Tensor:
        return self._join([self.source.get(name, (size,))])

    def vocabulary(self, name: str) -> torch.Tensor:
        whole = self.source.get(name, (self.config.vocab, self.config.hidden))
        return self._join([whole if self.config.vocab % self.world else self._part(whole, 0)])

    def _heads(self, name: str, kind: str, heads: int) -> torch.Tensor:
        dim = self.config.head_dim
        shape = (heads * dim, self.config.hidden) if name.endswith("weight") else (heads * dim,)
        whole = self.source.get(name, shape)
        if kind == "q":
            return self._part(whole, 0)
        return whole.narrow(0, self.shard.first_kv_head * dim, self.shard.kv_heads * dim)

    def _split(self, name: str, outputs: int) -> torch.Tensor:
        return self._part(self.source.get(name, (outputs, self.config.hidden)), 0)

    def _inputs(self, name: str, inputs: int) -> torch.Tensor:
        return self._join([self._part(self.source.get(name, (self.config.hidden, inputs)), 1)])

    def _part(self, whole: torch.Tensor, dim: int) -> torch.Tensor:
        size = whole.shape[dim] // self.world
        return whole.narrow(dim, self.rank * size, size)

    def _join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Copy parts into one new tensor, so that no whole one is kept alive."""
        return torch.cat([part.to(self.device, self.dtype) for part in parts]).contiguous()
