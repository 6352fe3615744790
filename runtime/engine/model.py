"""The forward pass: everything but attention, the cache's bookkeeping and the choice of tokens."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn.functional import embedding, linear, pad, rms_norm, silu

from aquasim.runtime.engine.attention import Attend
from aquasim.runtime.engine.config import LlamaConfig
from aquasim.runtime.engine.deltas import Delta, Group
from aquasim.runtime.engine.parallel import Ranks
from aquasim.runtime.engine.weights import Layer, Weights

Rows = Callable[[torch.Tensor], torch.Tensor]
Bias = torch.Tensor | None
Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of rows' positions."""


class Cache(Protocol):
    """Where keys and values go (`KvPool`)."""

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep keys and values `[tokens, kv_heads, head_dim]` of one layer at `slots` `[tokens]` (int64)."""


class Model:
    """Runs rows of tokens, each on its own but for attention, through one rank's weights.

    `padded`: every product and norm gets exactly that many rows at a time, since a product's bits may change with
    its shape; callers then bring a multiple of it.
    """

    def __init__(
        self, config: LlamaConfig, weights: Weights, pool: Cache, ranks: Ranks, positions: int, padded: int
    ) -> None:
        self.config, self.weights, self.pool, self.ranks, self.padded = config, weights, pool, ranks, padded
        shard = config.shard(ranks.rank, ranks.world)
        self.heads, self.kv_heads = shard.heads, shard.kv_heads
        self._cos, self._sin = _rotations(config, weights, positions)
        rows = weights.embedding.shape[0]
        self._first_token = ranks.rank * rows if rows < config.vocab else None

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, attend: Attend,
        delta: Delta | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Compute tokens `[rows]` at `positions` `[rows]`, write their keys and values, return `[rows, hidden]`.

        `slots` are where keys and values go; rows beyond them are nobody's and fill up a padded shape. All int64.
        `delta` is what adapters add.
        """
        hidden = self.embed(tokens)
        turn = self.turn(positions)
        mine = len(slots)
        for number in range(len(self.weights.layers)):
            queries, keys, values = self.before(number, hidden, turn, delta)
            self.pool.write(number, slots, keys[:mine], values[:mine])
            hidden = self.after(number, hidden, attend(number, queries), delta)
        return hidden

    def before(
        self, number: int, hidden: torch.Tensor, turn: Turn, delta: Delta | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute what comes before a layer's attention: queries, keys and values `[rows, heads, head_dim]`."""
        layer = self.weights.layers[number]
        normed = self._norm(hidden, layer.attention_norm)
        mixed = _plus(delta, number, "qkv", normed, self._product(normed, layer.qkv, layer.qkv_bias))
        split = mixed.view(len(mixed), self.heads + 2 * self.kv_heads, self.config.head_dim)
        turned = _rotate(self._head_norms(layer, split[:, : self.heads + self.kv_heads]), *turn)
        return turned[:, : self.heads], turned[:, self.heads :], split[:, self.heads + self.kv_heads :]

    def after(
        self, number: int, hidden: torch.Tensor, attended: torch.Tensor, delta: Delta | None = None
    ) -> torch.Tensor:
        """Compute the rest of a layer, from `attended` `[rows, heads * head_dim]`; return `[rows, hidden]`."""
        layer = self.weights.layers[number]
        product = _plus(delta, number, "output", attended, self._product(attended, layer.output))
        hidden = hidden + self.ranks.add(product)
        return hidden + self._mlp(number, layer, hidden, delta)

    def turn(self, positions: torch.Tensor) -> Turn:
        """Return by which angles rows at these positions are turned."""
        return self._cos[positions], self._sin[positions]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return `[rows, vocab]` in float32 for `[rows, hidden]`, the same on every rank."""
        normed = self._norm(hidden, self.weights.norm)
        part = self._product(normed, self.weights.head)
        return (part if self._first_token is None else self.ranks.join(part)).float()

    def fill_up(self, rows: torch.Tensor) -> torch.Tensor:
        """Append zeros up to a multiple of the padded shape; nothing to do without one."""
        missing = -len(rows) % self.padded if self.padded else 0
        return pad(rows, (0,) * (2 * rows.ndim - 1) + (missing,)) if missing else rows

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return `[rows, hidden]` for tokens `[rows]`."""
        table = self.weights.embedding
        if self._first_token is None:
            return embedding(tokens, table)
        local = tokens - self._first_token
        mine = (local >= 0) & (local < len(table))
        return self.ranks.add(embedding(local * mine, table) * mine.unsqueeze(1))

    def _head_norms(self, layer: Layer, queries_keys: torch.Tensor) -> torch.Tensor:
        if layer.query_norm is None or layer.key_norm is None:
            return queries_keys
        queries, keys = queries_keys[:, : self.heads], queries_keys[:, self.heads :]
        return torch.cat((self._norm(queries, layer.query_norm), self._norm(keys, layer.key_norm)), dim=1)

    def _mlp(self, number: int, layer: Layer, hidden: torch.Tensor, delta: Delta | None) -> torch.Tensor:
        normed = self._norm(hidden, layer.mlp_norm)
        both = _plus(delta, number, "gate_up", normed, self._product(normed, layer.gate_up))
        gate, up = both.chunk(2, dim=-1)
        inner = silu(gate) * up
        return self.ranks.add(_plus(delta, number, "down", inner, self._product(inner, layer.down)))

    def _product(self, rows: torch.Tensor, matrix: torch.Tensor, bias: Bias = None) -> torch.Tensor:
        return self._by_shape(rows, lambda part: linear(part, matrix, bias))

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        eps = self.config.norm_eps
        return self._by_shape(rows, lambda part: rms_norm(part, weight.shape, weight, eps))

    def _by_shape(self, rows: torch.Tensor, run: Rows) -> torch.Tensor:
        """Run all rows at once, or in padded shapes."""
        if not self.padded or len(rows) <= self.padded:
            return run(rows)
        return torch.cat([run(rows[at : at + self.padded]) for at in range(0, len(rows), self.padded)])

    def check_rows(self) -> None:
        """Raise RuntimeError if a row's result depends on its place among the rows of the padded shape."""
        none = torch.zeros(0, dtype=torch.int64, device=self.weights.device)
        zeros = torch.zeros(self.padded, dtype=torch.int64, device=self.weights.device)
        hidden = self.forward(zeros, zeros, none, lambda _, queries: queries.flatten(1))
        for rows in (hidden, self.logits(hidden)):
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise RuntimeError(
                    f"padded is {self.padded}: products give equal rows different bits; try another multiple of 16"
                )


def _plus(
    delta: Delta | None, layer: int, group: Group, inputs: torch.Tensor, outputs: torch.Tensor
) -> torch.Tensor:
    if delta is not None:
        delta(layer, group, inputs, outputs)
    return outputs


def _rotations(config: LlamaConfig, weights: Weights, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines, and sines with the sign of each half, `[positions, 1, head_dim]` in float32."""
    frequencies = torch.tensor(config.frequencies(), dtype=torch.float64)
    if weights.rope_factors is not None:
        frequencies /= weights.rope_factors
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    cos, sin = angles.cos(), angles.sin()
    tables = (torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))
    first, second = (table.float().unsqueeze(1).to(weights.device) for table in tables)
    return first, second


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn `[rows, heads, head_dim]` by each row's angles: dimension i together with i + head_dim / 2."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * cos, swapped, sin).to(heads.dtype)
