"""The same attention in torch: blocks gathered to rows of equal length, then torch's own products. Runs anywhere."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from aquasim.runtime.engine.pool import KvPool
    from aquasim.runtime.host.attention import Work


def attend(pool: "KvPool", work: "Work", layer: int, queries: torch.Tensor, out: torch.Tensor) -> None:
    """Write attention of `queries` `[rows, heads, head_dim]` (float32) to `out`, of the same shape.

    Rows of about the same length go together, padded to the longest of them: less than twice what is read.
    """
    for rows in _alike(work.lengths):
        slots, seen = _slots(pool, work, rows)
        keys, values = (part.float().transpose(1, 2) for part in pool.read(layer, slots))
        mine = queries[rows]
        split = mine.view(len(rows), pool.kv_heads, -1, pool.head_dim)
        found = scaled_dot_product_attention(split, keys, values, attn_mask=seen[:, None, None, :])
        out[rows] = found.flatten(1, 2)


def _alike(lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[torch.Tensor]:
    """Return rows whose lengths need the same number of bits, group by group."""
    bits = np.frexp(lengths)[1]
    return [torch.from_numpy(np.flatnonzero(bits == some)) for some in np.unique(bits)]


def _slots(pool: "KvPool", work: "Work", rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slots `[rows, longest]` and which of them a row sees; beyond its end it reads its token 0."""
    lengths = work.lengths[rows.numpy()]
    positions = np.arange(lengths.max())
    seen = positions < lengths[:, None]
    positions = positions * seen
    blocks = work.blocks[work.starts[rows.numpy()][:, None] + positions // pool.block_size].astype(np.int64)
    return torch.from_numpy(pool.slots(blocks, positions)), torch.from_numpy(seen)
