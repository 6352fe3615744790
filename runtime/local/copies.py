"""What pages take to each tier of this machine, for policies that weigh paging against the rest."""

import statistics
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aquasim.core.predictor import Copying
from aquasim.runtime.arenas import Arena
from aquasim.runtime.copy import Copier, Descriptors

if TYPE_CHECKING:
    from aquasim.runtime.engine import KvPool

BLOCKS = 32
REPEATS = 5


def expected(
    tiers: Iterable[str], copier: Copier, pool: "KvPool", arena: Arena, nvlink: float
) -> dict[str, Copying]:
    """Return ns per block out and back, by tier.

    Measured between the cache and `arena` (host memory). A peer's memory is not there yet when this is asked: on a
    GPU its rate is `nvlink` (bytes/s), on the CPU it is memory like the other.
    """
    host = _measure(copier, pool, arena)
    each = pool.block_bytes / nvlink * 1e9
    peer = host if copier.device == "cpu" else Copying(each, each)
    return {tier: peer if tier == "peer" else host for tier in tiers}


def _measure(copier: Copier, pool: "KvPool", arena: Arena) -> Copying:
    count = min(BLOCKS, pool.blocks, arena.nbytes // pool.block_bytes)
    blocks, size = range(count), pool.block_bytes
    out = Descriptors.of_blocks(pool.base, blocks, arena.ptr, blocks, size)
    back = Descriptors.of_blocks(arena.ptr, blocks, pool.base, blocks, size)
    times = []
    for copies, stream in ((out, copier.outgoing), (back, copier.incoming)):
        taken = []
        for _ in range(REPEATS):
            start = time.perf_counter_ns()
            copier.submit(copies, stream).wait()
            taken.append((time.perf_counter_ns() - start) / count)
        times.append(statistics.median(taken))
    return Copying(*times)
