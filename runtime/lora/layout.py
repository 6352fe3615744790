"""How an adapter lies in memory: one row of elements, A and B of each adapted projection, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aquasim.runtime.engine import LlamaConfig

if TYPE_CHECKING:
    import torch

    from aquasim.runtime.engine.deltas import Group

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections that may be adapted, by their Hugging Face names."""
GROUPS: "dict[Group, tuple[str, ...]]" = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The model's products, and the projections that each fuses, in the order of their outputs."""


class Size(NamedTuple):
    """A projection's elements in and out."""

    inputs: int
    outputs: int


class Half(NamedTuple):
    """The B of one projection: `[outputs, rank]`, and the first of the product's outputs that it adds to."""

    first: int
    matrix: "torch.Tensor"


class Pair(NamedTuple):
    """One product's adapters: projections' A one below the other `[n * rank, inputs]`, and each one's B."""

    a: "torch.Tensor"
    bs: "tuple[Half, ...]"


@dataclass(frozen=True, slots=True)
class LoraLayout:
    """Adapters of one rank for one model and some targets; smaller ranks are filled up with zeros.

    Raises:
        ValueError: a rank below 1, a target that is none, or no target.
    """

    config: LlamaConfig
    rank: int
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise ValueError(f"targets are {', '.join(self.targets) or 'none'}; valid: {', '.join(TARGETS)}")

    def size(self, target: str) -> Size:
        """Return what a projection reads and writes."""
        c = self.config
        queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
        return {
            "q_proj": Size(c.hidden, queries), "k_proj": Size(c.hidden, keys), "v_proj": Size(c.hidden, keys),
            "o_proj": Size(queries, c.hidden), "gate_proj": Size(c.hidden, c.intermediate),
            "up_proj": Size(c.hidden, c.intermediate), "down_proj": Size(c.intermediate, c.hidden),
        }[target]  # fmt: skip

    @property
    def elements(self) -> int:
        """Elements of one adapter, up to a multiple of 128: in any slot its matrices are aligned alike."""
        sizes = [self.size(target) for target in self.targets]
        used = self.config.layers * self.rank * sum(size.inputs + size.outputs for size in sizes)
        return -(-used // 128) * 128

    @property
    def tensors(self) -> int:
        """A's and B's of one adapter."""
        return 2 * len(self.targets) * self.config.layers

    def pieces(self, row: "torch.Tensor") -> "Iterator[tuple[int, str, str, torch.Tensor]]":
        """Yield (layer, target, "A" or "B", matrix) as views of a row `[elements]`, in the order they lie there."""
        at = 0
        for layer in range(self.config.layers):
            for wanted in GROUPS.values():
                present = [target for target in wanted if target in self.targets]
                for half in ("A", "B"):
                    for target in present:
                        inputs, outputs = self.size(target)
                        shape = (self.rank, inputs) if half == "A" else (outputs, self.rank)
                        count = shape[0] * shape[1]
                        yield layer, target, half, row[at : at + count].view(shape)
                        at += count

    def pairs(self, row: "torch.Tensor") -> "list[dict[Group, Pair]]":
        """Return for each layer what its products need, as views of a row `[elements]`."""
        found = {(layer, target, half): view for layer, target, half, view in self.pieces(row)}
        return [
            {
                group: self._pair(found, layer, targets)
                for group, targets in GROUPS.items()
                if set(targets) & set(self.targets)
            }
            for layer in range(self.config.layers)
        ]

    def _pair(
        self, found: "dict[tuple[int, str, str], torch.Tensor]", layer: int, targets: tuple[str, ...]
    ) -> Pair:
        present = [target for target in targets if target in self.targets]
        first = found[layer, present[0], "A"]
        joined = first.as_strided((len(present) * self.rank, first.shape[1]), (first.shape[1], 1))
        starts, at = {}, 0
        for target in targets:
            starts[target] = at
            at += self.size(target).outputs
        bs = tuple(Half(starts[target], found[layer, target, "B"]) for target in present)
        return Pair(joined, bs)
