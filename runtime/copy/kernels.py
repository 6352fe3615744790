"""Kernels that copy and weigh many stretches of memory that a GPU can reach: its own, peers', pinned host memory."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aquasim.runtime.copy.cuda import cupy
from aquasim.runtime.copy.descriptors import Descriptors, Int64s

GRID = 16  # thread blocks: enough to fill a link, few enough to leave the GPU to compute (vLLM 0.33 takes 12)
THREADS = 1024
WEIGH_THREADS = 256
PIECE = 4096  # bytes that one warp moves at a time: 8 loads of 16 bytes per lane are under way before the first store

SOURCE = r"""
#define PIECE 4096
typedef long long i64;
typedef unsigned long long u64;

// Columns of `table`: sources, destinations, sizes. Each warp takes pieces; a descriptor has `pieces` of them.
extern "C" __global__ void __launch_bounds__(1024) copy(const i64* table, i64 count, i64 pieces)
{
    const int lane = threadIdx.x & 31;
    const i64 warps = (i64)gridDim.x * blockDim.x / 32;
    for (i64 work = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32; work < count * pieces; work += warps) {
        const i64 which = work / pieces, offset = work % pieces * PIECE;
        const i64 left = table[2 * count + which] - offset;
        if (left <= 0) continue;
        const char* src = (const char*)table[which] + offset;
        char* dst = (char*)table[count + which] + offset;
        const int size = left < PIECE ? (int)left : PIECE;
        int done = 0;
        if ((((u64)src | (u64)dst) & 15) == 0) {
            const int vectors = size / 16;
            int4 held[PIECE / 512];
            #pragma unroll
            for (int k = 0; k < PIECE / 512; k++)
                if (lane + 32 * k < vectors) held[k] = ((const int4*)src)[lane + 32 * k];
            #pragma unroll
            for (int k = 0; k < PIECE / 512; k++)
                if (lane + 32 * k < vectors) ((int4*)dst)[lane + 32 * k] = held[k];
            done = vectors * 16;
        }
        for (int at = done + lane; at < size; at += 32) dst[at] = src[at];
    }
}

// Columns of `table`: starts, sizes. Each thread block weighs one stretch: the sum of (2 i + 1) w[i], modulo 2**64.
extern "C" __global__ void weigh(const i64* table, i64 count, u64* sums)
{
    const unsigned char* start = (const unsigned char*)table[blockIdx.x];
    const i64 size = table[count + blockIdx.x];
    const bool aligned = ((u64)start & 7) == 0;
    u64 sum = 0;
    for (i64 index = threadIdx.x; index * 8 < size; index += blockDim.x) {
        u64 word = 0;
        if (aligned && index * 8 + 8 <= size)
            word = ((const u64*)start)[index];
        else
            for (int byte = 0; byte < 8 && index * 8 + byte < size; byte++)
                word |= (u64)start[index * 8 + byte] << (8 * byte);
        sum += (2 * (u64)index + 1) * word;
    }
    __shared__ u64 total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    atomicAdd(&total, sum);
    __syncthreads();
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}
"""


@cache
def _kernel(name: str) -> Any:
    return cupy().RawKernel(SOURCE, name)


def copy(copies: Descriptors, stream: Any, grid: int = GRID) -> None:
    """Queue one kernel that copies everything on CuPy stream `stream` of the current device.

    CuPy keeps the table's pinned staging until it has arrived, and its memory pool hands out a stream's freed memory
    to that stream only, so that neither is overwritten while in use.
    """
    with stream:
        table = cupy().asarray(np.concatenate((copies.src, copies.dst, copies.sizes)))
        pieces = -(-int(copies.sizes.max()) // PIECE)
        _kernel("copy")((grid,), (THREADS,), (table, np.int64(len(copies)), np.int64(pieces)))


def weigh(starts: npt.ArrayLike, sizes: npt.ArrayLike, stream: Any) -> Int64s:
    """Return the checksum of each stretch, as `checksum` defines it; waits for `stream`."""
    columns = np.stack([np.asarray(starts, dtype=np.int64), np.asarray(sizes, dtype=np.int64)])
    count = columns.shape[1]
    if not count:
        return np.zeros(0, dtype=np.int64)
    with stream:
        table, sums = cupy().asarray(columns), cupy().empty(count, dtype=np.int64)
        _kernel("weigh")((count,), (WEIGH_THREADS,), (table, np.int64(count), sums))
        found: Int64s = sums.get()
    return found
