"""Attention anywhere: gather a request's keys and values from its pages, then torch's own attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from aquasim.runtime.engine.attention.base import Attend, Decodes, Span
from aquasim.runtime.engine.pool import KvPool


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Queries that are computed in one call: rows from `first`, `slots` `[sequences, tokens]` of what they see."""

    first: int
    last: int
    slots: torch.Tensor
    options: dict[str, Any]
    grouped: bool
    """One query per sequence: the queries of a KV head stand in for several queries of one head."""


class Sdpa:
    """Exact attention of torch. Only tokens that were written are read, so that a pool may hold anything elsewhere.

    `alone`: each request by itself, in shapes and memory of its own, so that its bits do not depend on others.
    """

    capturable = False

    def __init__(self, pool: KvPool, *, alone: bool = False) -> None:
        self.pool = pool
        self.alone = alone

    def prepare(self, decodes: Decodes | None, spans: Sequence[Span]) -> Attend:
        """See Attention."""
        parts = [self._span(span) for span in spans]
        if decodes is not None:
            parts += self._separate(decodes) if self.alone else [self._together(decodes)]

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            attended = torch.zeros_like(queries, memory_format=torch.contiguous_format)
            for part in parts:
                attended[part.first : part.last] = self._attend(layer, queries[part.first : part.last], part)
            return attended.flatten(1)

        return attend

    def _attend(self, layer: int, queries: torch.Tensor, part: _Part) -> torch.Tensor:
        keys, values = self.pool.read(layer, part.slots)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        rows, heads, dim = queries.shape
        if part.grouped:
            split = queries.reshape(rows, self.pool.kv_heads, heads // self.pool.kv_heads, dim)
            return scaled_dot_product_attention(split, keys, values, **part.options).flatten(1, 2)
        return _one(queries, keys, values, part.options)

    def _span(self, span: Span) -> _Part:
        total = span.start + span.tokens
        positions = torch.arange(total, device=span.blocks.device)
        slots = self.pool.slots(span.blocks[positions // self.pool.block_size], positions)
        options = causal_options(span.tokens, total, self.pool.device, self.pool.dtype)
        return _Part(span.first, span.first + span.tokens, slots.unsqueeze(0), options, False)

    def _separate(self, decodes: Decodes) -> list[_Part]:
        spans = (
            Span(row, 1, position, decodes.tables[row].long())
            for row, position in enumerate(decodes.positions.tolist())
        )
        return [self._span(span) for span in spans]

    def _together(self, decodes: Decodes) -> _Part:
        """Take all sequences in one call, as long as the longest; what is beyond a shorter one reads its token 0."""
        positions = torch.arange(decodes.longest, device=decodes.positions.device)
        seen = positions <= decodes.positions.unsqueeze(1)
        positions = positions * seen
        slots = self.pool.slots(decodes.tables.gather(1, positions // self.pool.block_size).long(), positions)
        options = {"attn_mask": seen[:, None, None, :]}
        return _Part(0, len(slots), slots, options, True)


def attend_whole(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attend within a whole prompt that is in no pool: all `[tokens, heads, head_dim]`, as many or fewer KV heads.

    To the bit what Sdpa gives for the same prompt in a pool.
    """
    kept, seen = (part.clone(memory_format=torch.contiguous_format).unsqueeze(0) for part in (keys, values))
    options = causal_options(len(queries), len(queries), queries.device, queries.dtype)
    return _one(queries, kept.transpose(1, 2), seen.transpose(1, 2), options)


def _one(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Attend with queries `[tokens, heads, head_dim]` of one sequence to `[1, kv_heads, tokens, head_dim]`."""
    # A copy of its own: matrix products may change bits with the alignment of what they read.
    whole = queries.transpose(0, 1).clone(memory_format=torch.contiguous_format).unsqueeze(0)
    gqa = queries.shape[1] != keys.shape[1]
    return scaled_dot_product_attention(whole, keys, values, enable_gqa=gqa, **options)[0].transpose(0, 1)


def causal_options(new: int, total: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return options of torch's attention for `new` queries that end where the `total` keys end."""
    if new == 1:
        return {}
    if new == total:
        return {"is_causal": True}
    flash = device.type == "cuda" and dtype.itemsize == 2  # it takes half precision only
    if flash:
        return {"attn_mask": causal_lower_right(new, total)}
    return {"attn_mask": torch.ones(new, total, dtype=torch.bool, device=device).tril_(total - new)}
