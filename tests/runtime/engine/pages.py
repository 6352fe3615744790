"""Pools whose sequences lie in scattered blocks, for comparing attention back ends."""

import math
from typing import Any

import torch

from aquasim.runtime.engine import KvPool
from aquasim.runtime.engine.attention import Decodes, Span


class Pages:
    """Sequences of given lengths with random keys and values in one layer of a pool that is NaN elsewhere."""

    def __init__(
        self, lengths: list[int], kv_heads: int, head_dim: int, block_size: int = 16, device: str = "cpu",
        dtype: torch.dtype = torch.float32, seed: int = 0,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        each = [-(-length // block_size) for length in lengths]
        blocks = torch.randperm(sum(each), generator=generator).tolist()
        options: dict[str, Any] = {"dtype": dtype, "device": device, "fill": math.nan}
        self.pool = KvPool(sum(each), 2, block_size, kv_heads, head_dim, **options)
        self.tables = torch.full((len(lengths), max(each)), self.pool.idle, dtype=torch.int32)
        self.caches = []
        for row, (length, count) in enumerate(zip(lengths, each, strict=True)):
            mine = torch.tensor([blocks.pop() for _ in range(count)])
            self.tables[row, :count] = mine
            positions = torch.arange(length)
            slots = self.pool.slots(mine[positions // block_size], positions).to(device)
            made = torch.randn(2, length, kv_heads, head_dim, generator=generator).to(device, dtype)
            self.pool.write(1, slots, made[0], made[1])
            self.caches.append(made)
        self.tables = self.tables.to(device)
        self.lengths = lengths
        self.generator = generator

    def decodes(self) -> Decodes:
        """Return one query per sequence, at its last token."""
        positions = torch.tensor(self.lengths, device=self.tables.device) - 1
        return Decodes(self.tables, positions, max(self.lengths))

    def span(self, row: int, first: int, tokens: int) -> Span:
        """Return the last `tokens` tokens of a sequence as a chunk in rows from `first`."""
        return Span(first, tokens, self.lengths[row] - tokens, self.tables[row].long())

    def queries(self, rows: int, heads: int) -> torch.Tensor:
        """Return random queries `[rows, heads, head_dim]`, a strided view as the fused projection gives them."""
        wide = torch.randn(rows, heads + 2, self.pool.head_dim, generator=self.generator)
        return wide.to(self.tables.device, self.pool.dtype)[:, :heads]

    def expected(self, row: int, queries: torch.Tensor) -> torch.Tensor:
        """Return attention in float64 of a sequence's last queries `[tokens, heads, head_dim]`."""
        keys, values = self.caches[row].double()
        tokens, heads, dim = queries.shape
        shared = heads // self.pool.kv_heads
        keys, values = (x.repeat_interleave(shared, dim=1).transpose(0, 1) for x in (keys, values))
        scores = queries.double().transpose(0, 1) @ keys.transpose(1, 2) * dim**-0.5
        hidden = torch.ones(tokens, keys.shape[1], dtype=torch.bool, device=keys.device)
        scores.masked_fill_(hidden.triu(keys.shape[1] - tokens + 1), -math.inf)
        mixed: torch.Tensor = scores.softmax(-1) @ values
        return mixed.transpose(0, 1).flatten(1)
