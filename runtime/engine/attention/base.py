"""What the runner asks of attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Attend = Callable[[int, torch.Tensor], torch.Tensor]
"""(layer, queries `[rows, heads, head_dim]`) -> `[rows, heads * head_dim]`; rows of nobody give zeros or anything."""


@dataclass(frozen=True, slots=True, eq=False)
class Decodes:
    """Sequences with one query each, in rows 0 up to their number; their new keys are in the pool already."""

    tables: torch.Tensor
    """`[sequences, max_blocks]` int32: block numbers."""
    positions: torch.Tensor
    """`[sequences]` int64: position of the query; it attends to that many tokens before it and to itself."""
    longest: int
    """Most tokens that any of them attends to, known on the host; 0 while a graph is captured."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A prefill chunk: `tokens` queries in rows from `first`, behind `start` tokens of the same sequence."""

    first: int
    tokens: int
    start: int
    blocks: torch.Tensor
    """`[blocks]` int64: block numbers, those of the whole sequence so far."""


class Attention(Protocol):
    """Causal attention with grouped queries over a pool, scaled by head_dim ** -0.5."""

    capturable: bool
    """Whether decodes may be captured in a CUDA graph."""

    def prepare(self, decodes: Decodes | None, spans: Sequence[Span]) -> Attend:
        """Do once per step what all layers share, and return what each layer calls after its keys are written."""
        ...
