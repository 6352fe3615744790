"""Published kernel timings as arrays: which rows are used, and which are held out to judge a fit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HELD_OUT = 0.1
_MULTIPLIER = 2654435761  # Knuth's: spreads consecutive row numbers over 32 bits


@dataclass(frozen=True, slots=True)
class Samples:
    """Timings `seconds` (shape: rows) at the coordinates `x` (rows x axes), from the file `source`.

    `floor` is the least time the hardware's peaks allow; rows below it (operands still in cache) are left out
    by `above_floor`. `read` counts the rows of the file that lie in the fitted range.
    """

    source: str
    x: Floats
    seconds: Floats
    floor: Floats
    read: int

    def above_floor(self) -> "Samples":
        """Return the rows that are no faster than the hardware's peaks."""
        return self._take(self.seconds >= self.floor)

    def split(self) -> tuple["Samples", "Samples"]:
        """Return nine tenths of the rows to fit and one tenth to judge; the same rows each time."""
        hashed = np.arange(len(self.x), dtype=np.uint64) * np.uint64(_MULTIPLIER) % np.uint64(2**32)
        held = hashed < _HELD_OUT * 2**32
        return self._take(~held), self._take(held)

    def _take(self, rows: NDArray[np.bool_]) -> "Samples":
        return Samples(self.source, self.x[rows], self.seconds[rows], self.floor[rows], self.read)


def one_file(folder: Path, pattern: str) -> Path:
    """Return the only file in `folder` that matches; ValueError if there is none or more than one."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder}: expected one file {pattern}, found {len(found)}")
    return found[0]


def read_table(path: Path) -> pd.DataFrame:
    """Read one CSV of timings, without repeated points (the first stays)."""
    frame = pd.read_csv(path)
    timed = [column for column in frame.columns if column.startswith("latency")]
    return frame.drop_duplicates([column for column in frame.columns if column not in timed])


def gemm_samples(folder: Path, peak_flops: float, peak_bytes: float) -> Samples:
    """Return bf16 products; axes: m (tokens, to 16384), n (outputs) and k (inputs, both from 256)."""
    path = one_file(folder, "gemm_bf16_*.csv.gz")
    frame = read_table(path)
    frame = frame[(frame.n >= 256) & (frame.k >= 256) & (frame.m <= 16384)]
    m, n, k = (frame[axis].to_numpy(float) for axis in "mnk")
    floor = np.maximum(2 * (m * n + n * k + m * k) / peak_bytes, 2 * m * n * k / peak_flops)
    return _samples(path, frame, np.stack([m, n, k], axis=1), floor)


def decode_samples(folder: Path, head_dim: int, peak_bytes: float) -> Samples:
    """Return decode attention; axes: query heads per KV head, KV heads, sequences, tokens of each."""
    path = one_file(folder, "generation_attention_bf16_*.csv.gz")
    frame = read_table(path)
    frame = frame[frame.head_dim == head_dim]
    heads, batch = frame.num_key_value_heads.to_numpy(float), frame.batch_size.to_numpy(float)
    group, length = frame.num_heads.to_numpy(float) / heads, (frame.step + frame.isl).to_numpy(float)
    floor = 4 * head_dim * heads * batch * length / peak_bytes
    return _samples(path, frame, np.stack([group, heads, batch, length], axis=1), floor)


def prefill_samples(folder: Path, head_dim: int, tile: int, peak_flops: float) -> Samples:
    """Return prefill attention; axes: query heads per KV head, query rows, tokens a query sees on average.

    Rows are heads x sequences x new tokens, the latter no less than a kernel's tile. One-token prompts are
    left out: the kernel for decoding serves them.
    """
    path = one_file(folder, "context_attention_bf16_*.csv.gz")
    frame = read_table(path)
    frame = frame[(frame.head_dim == head_dim) & (frame.isl > 1)]
    heads, new = frame.num_heads.to_numpy(float), frame.isl.to_numpy(float)
    rows = heads * frame.batch_size.to_numpy(float)
    reach = frame.step.to_numpy(float) + new / 2
    group = heads / frame.num_key_value_heads.to_numpy(float)
    x = np.stack([group, rows * np.maximum(new, tile), reach], axis=1)
    return _samples(path, frame, x, 4 * head_dim * rows * new * reach / peak_flops)


def _samples(path: Path, frame: pd.DataFrame, x: Floats, floor: Floats) -> Samples:
    seconds = frame.latency_ms.to_numpy(float) / 1e3
    return Samples(f"{path.parent.name}/{path.name}", x, seconds, floor, len(frame))


def all_reduce_samples(folder: Path, gpus: int, version: str, custom_limit: int) -> Samples:
    """Return all-reduce over `gpus` GPUs; axis: bytes. The faster of vLLM's own kernel and NCCL at each size.

    vLLM's kernel, of the given version and under CUDA graphs, counts up to `custom_limit` bytes.
    """
    paths = folder / f"vllm_custom_allreduce_{version}.csv.gz", one_file(folder, "nccl_2.2*.csv.gz")
    own, nccl = (pd.read_csv(path) for path in paths)
    own = own[(own.backend == "vllm_graph") & (own.message_size_as_given <= custom_limit)]
    both = pd.concat([own, nccl[nccl.op_name == "all_reduce"]])
    both = both[(both.num_gpus == gpus) & (both.message_size_as_given >= 256)]
    best = both.groupby("message_size_as_given").latency_ms.min()
    x = best.index.to_numpy(float)[:, None]
    source = " + ".join(f"{path.parent.name}/{path.name}" for path in paths)
    return Samples(source, x, best.to_numpy(float) / 1e3, np.zeros(len(best)), len(best))
