"""Decode attention in Triton: reads pages in place, each sequence cut into a fixed number of parts."""

from collections.abc import Sequence

import torch

from aquasim.runtime.engine.attention import kernels
from aquasim.runtime.engine.attention.base import Attend, Attention, Decodes, Span
from aquasim.runtime.engine.pool import KvPool

SPLITS = 8
"""Parts of a sequence that run beside each other; fixed, so that results do not change with the batch."""
STEP = 64
"""Tokens per iteration, a power of two: 4 pages of 16."""


class PagedTriton:
    """Split-KV decode (flash decoding): partial results per part in float32, then put together.

    The queries of one KV head are one matrix, padded to 16 rows, so that tensor cores serve them together. A
    sequence's result depends on its own length only. Chunks go to `prefill`.
    """

    capturable = True

    def __init__(
        self, pool: KvPool, heads: int, max_seqs: int, prefill: Attention, *, splits: int = SPLITS
    ) -> None:
        self.pool, self.heads, self.splits = pool, heads, splits
        self._prefill = prefill
        shape = (max_seqs, heads, splits)
        self._partial = torch.empty((*shape, pool.head_dim), dtype=torch.float32, device=pool.device)
        self._stats = torch.empty((*shape, 2), dtype=torch.float32, device=pool.device)

    def prepare(self, decodes: Decodes | None, spans: Sequence[Span]) -> Attend:
        """See Attention."""
        chunks = self._prefill.prepare(None, spans) if spans else None

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            attended = chunks(layer, queries) if chunks else _zeros(queries).flatten(1)
            if decodes is not None:
                self._decode(layer, queries, decodes, attended.view(queries.shape))
            return attended

        return attend

    def _decode(self, layer: int, queries: torch.Tensor, decodes: Decodes, attended: torch.Tensor) -> None:
        """Write the results of the first rows of `queries` `[rows, heads, head_dim]` to those of `attended`."""
        pool, sequences = self.pool, len(decodes.positions)
        keys, values = pool.keys(layer), pool.values(layer)
        group, dim = self.heads // pool.kv_heads, pool.head_dim
        width = 1 << (dim - 1).bit_length()
        kernels.attend_part[(sequences, pool.kv_heads, self.splits)](
            queries, keys, values, decodes.tables, decodes.positions, self._partial, self._stats,
            dim**-0.5, queries.stride(0), queries.stride(1), decodes.tables.stride(0),
            keys.stride(0), keys.stride(1), keys.stride(2),
            GROUP=group, ROWS=max(16, 1 << (group - 1).bit_length()), DIM=dim, WIDTH=max(16, width),
            PAGE=pool.block_size, STEP=STEP, SPLITS=self.splits, HEADS=self.heads,
            num_warps=4, num_stages=2,
        )  # fmt: skip
        kernels.join_parts[(sequences, self.heads)](
            self._partial, self._stats, attended, attended.stride(0), attended.stride(1),
            DIM=dim, WIDTH=max(16, width), SPLITS=self.splits, HEADS=self.heads,
        )  # fmt: skip


def _zeros(queries: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(queries, memory_format=torch.contiguous_format)
