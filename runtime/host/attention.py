"""Decode attention over a KV pool in host memory: the kernel in C, or torch where that cannot be had.

How fast the kernel reads, as a share of a plain read of as many bytes by the same threads (CPU seconds, medians over
1, 16 and 256 requests, two cores with AVX-512, head_dim 128):

    queries of a KV head        1       4       8
    float32                  0.78    0.68    0.47
    float16                  0.71    0.64    0.48
    bfloat16                 0.77    0.65    0.48

With 1 query it waits for memory, with 8 for products, of which it does about half of what the core could. Over the
numbers of requests it varies by 2 to 13 %. `tests/runtime/host/speed.py` measures it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from aquasim.runtime.engine.pool import KvPool
from aquasim.runtime.host import native, plain

Kernel = Literal["auto", "native", "torch"]
KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
SEGMENT = 256
"""Tokens of a sequence that are one unit of work: fixed, so that no result depends on threads or company."""
LARGEST_GROUP = 64

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What all layers of one iteration share: whose tokens are where, and how rows are cut.

    blocks: all rows' block numbers (int32), one row after the other. starts: where each row begins in them.
    lengths: tokens of each row. segments: `[segments, 4]` (row, where in `blocks`, tokens, 1 if it is the row
    alone). firsts: `[rows + 1]`, the first segment of each row.
    """

    blocks: npt.NDArray[np.int32]
    starts: Int64s
    lengths: Int64s
    segments: Int64s
    firsts: Int64s

    @property
    def tokens(self) -> int:
        """Tokens of all rows: what is read."""
        return int(self.lengths.sum())


class HostAttention:
    """Attention of one query per sequence over a pool in host memory, with grouped queries, scaled by dim ** -0.5.

    Storage is float32, float16 or bfloat16, sums are float32. `threads` cores take part, the caller's among them.
    `kernel`: the one in C ("native") reads each key and value once for up to 8 queries; "torch" runs anywhere;
    "auto" takes C where it compiles and says once where it does not. `segment` is how many tokens are one unit of
    work, a multiple of the pool's block size. One call at a time; close it after use.

    Tensor-parallel ranks have one each, over their own KV heads, on their own cores.

    Raises:
        ValueError: a pool on a GPU or of another type, heads that are no multiple of the pool's, a segment that cuts
            blocks, no thread.
        NativeError: "native" is asked for and cannot be compiled.
    """

    def __init__(
        self, pool: KvPool, heads: int, *, threads: int = 1, kernel: Kernel = "auto", segment: int = SEGMENT
    ) -> None:
        _check(pool, heads, threads, segment)
        self.pool, self.heads, self.threads = pool, heads, threads
        self._segment = max(segment // pool.block_size, 1) * pool.block_size
        self._partial = self._stats = np.zeros(0, np.float32)
        self._left = np.zeros(0, np.int32)
        self._threads = _native(kernel, threads)
        self.name = "torch" if self._threads is None else "native"
        """The kernel that runs."""

    def plan(self, blocks: Sequence[Sequence[int]], lengths: Sequence[int]) -> Work:
        """Prepare an iteration: `blocks` of each row, in order, hold `lengths` tokens of it, the newest included.

        Raises ValueError for a length that is not positive or reaches beyond its blocks.
        """
        size = self.pool.block_size
        tokens = np.array(lengths, np.int64)
        counts = np.array([len(row) for row in blocks], np.int64)
        if len(tokens) and (tokens.min() < 1 or (tokens > counts * size).any()):
            row = int(np.flatnonzero((tokens < 1) | (tokens > counts * size))[0])
            raise ValueError(
                f"row {row} has {tokens[row]} tokens, its {counts[row]} blocks hold {counts[row] * size}"
            )
        flat = np.fromiter((block for row in blocks for block in row), np.int32, int(counts.sum()))
        assert not len(flat) or 0 <= flat.min() <= flat.max() < self.pool.blocks, "no such block"
        starts = np.cumsum(counts) - counts
        return Work(flat, starts, tokens, *self._cut(starts, tokens))

    def _cut(self, starts: Int64s, lengths: Int64s) -> tuple[Int64s, Int64s]:
        """Return segments, and the first of each row."""
        parts = -(-lengths // self._segment)
        firsts = np.concatenate([[0], np.cumsum(parts)]).astype(np.int64)
        rows = np.repeat(np.arange(len(lengths)), parts)
        number = np.arange(len(rows)) - firsts[rows]
        tokens = np.minimum(lengths[rows] - number * self._segment, self._segment)
        begins = starts[rows] + number * (self._segment // self.pool.block_size)
        return np.stack([rows, begins, tokens, parts[rows] == 1], axis=1).astype(np.int64), firsts

    def attend(self, work: Work, layer: int, queries: torch.Tensor, out: torch.Tensor) -> None:
        """Write attention of `queries` to `out`: both float32 `[rows, heads, head_dim]`, contiguous, on the CPU."""
        shape = (len(work.lengths), self.heads, self.pool.head_dim)
        for tensor in (queries, out):
            assert tensor.shape == shape, (tensor.shape, shape)
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous()
            assert tensor.device.type == "cpu"
        if not len(work.lengths):
            return
        if self._threads is None:
            plain.attend(self.pool, work, layer, queries, out)
        else:
            self._threads.attend(self._job(work, layer, queries, out))

    def _job(self, work: Work, layer: int, queries: torch.Tensor, out: torch.Tensor) -> native.Job:
        pool, count = self.pool, len(work.segments)
        self._make_room(count, len(work.lengths))
        pointers = [a.ctypes.data for a in (work.blocks, work.segments, work.firsts)]
        pointers += [a.ctypes.data for a in (self._partial, self._stats, self._left)]
        keys, values = pool.keys(layer).data_ptr(), pool.values(layer).data_ptr()
        return native.Job(
            queries.data_ptr(), out.data_ptr(), keys, values, *pointers, pool.block_bytes, len(work.lengths), count,
            self.heads, pool.kv_heads, pool.head_dim, pool.block_size, KINDS[pool.dtype], 0, pool.head_dim**-0.5,
        )  # fmt: skip

    def _make_room(self, segments: int, rows: int) -> None:
        """Have memory for partial results; it stays as large as it was ever needed."""
        if len(self._stats) < segments * self.heads * 2:
            self._partial = np.empty(segments * self.heads * self.pool.head_dim, np.float32)
            self._stats = np.empty(segments * self.heads * 2, np.float32)
        if len(self._left) < rows:
            self._left = np.empty(rows, np.int32)

    def close(self) -> None:
        """End its threads; closing twice is harmless."""
        if self._threads is not None:
            self._threads.close()


def _native(kernel: Kernel, threads: int) -> native.Threads | None:
    if kernel == "torch":
        return None
    try:
        return native.Threads(native.library(), threads)
    except native.NativeError as error:
        if kernel == "native":
            raise
        # Python shows one warning of a place once.
        warnings.warn(
            f"host attention runs in torch, several times as slow: {error}", RuntimeWarning, stacklevel=3
        )
        return None


def _check(pool: KvPool, heads: int, threads: int, segment: int) -> None:
    if pool.device.type != "cpu" or pool.dtype not in KINDS:
        raise ValueError(
            f"host attention reads a pool of floats in host memory, not {pool.dtype} on {pool.device}"
        )
    if heads % pool.kv_heads or heads // pool.kv_heads > LARGEST_GROUP:
        raise ValueError(
            f"{heads} heads over {pool.kv_heads} KV heads: a multiple up to {LARGEST_GROUP} times is needed"
        )
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    if segment < 1:
        raise ValueError(f"segment is {segment}; it must be at least 1 token")
