"""Does a path move bytes, all of them, and how fast? A pattern goes there and back."""

from dataclasses import dataclass

import numpy as np

from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.region import Extent, Region
from aquasim.runtime.copy import Copier, Descriptors, Scratch, Stream

SIZES = (4 << 10, 64 << 10, 2 << 20, 64 << 20)


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second to the region and back, of single copies of `nbytes` bytes, submission included."""

    nbytes: int
    write: float
    read: float


def probe(
    region: Region, copier: Copier, sizes: tuple[int, ...] = SIZES, *, offset: int = 0, path: str = "auto"
) -> list[Rate]:
    """Write a pattern into `region` from `offset` on, by a path of `copier`, read it back; return rates by size.

    Sizes that do not fit are left out. Overwrites those bytes and scrubs them at the end. Raises ArenaError when what
    comes back differs: with an IOMMU in the way, peer copies over PCIe can be dropped while every call reports
    success (unsloth, NVLINK_P2P.md), so that only reading back tells.
    """
    sizes = tuple(size for size in sizes if offset + size <= region.nbytes)
    if not sizes:
        raise ArenaError(f"{region!r} has no room for a probe at offset {offset}")
    with copier.scratch(max(sizes)) as local:
        rates = [_there_and_back(region, copier, local, size, offset, path) for size in sizes]
    region.scrub(Extent(offset, max(sizes)))
    return rates


def _there_and_back(
    region: Region, copier: Copier, local: Scratch, size: int, offset: int, path: str
) -> Rate:
    pattern = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    remote = region.at(Extent(offset, size))
    local.write(pattern)
    write = _seconds(copier, Descriptors.of_blocks(local.ptr, [0], remote, [0], size), copier.outgoing, path)
    local.write(~pattern)
    read = _seconds(copier, Descriptors.of_blocks(remote, [0], local.ptr, [0], size), copier.incoming, path)
    back = local.read(size)
    wrong = np.flatnonzero(back != pattern)
    if wrong.size:
        raise ArenaError(
            f"{region!r} does not keep what is written: {wrong.size} of {size} bytes came back different, "
            f"the first at {offset + wrong[0]}"
        )
    return Rate(size, size / write, size / read)


def _seconds(copier: Copier, copies: Descriptors, stream: Stream, path: str) -> float:
    start = stream.record()
    event = copier.submit(copies, stream, path)
    event.wait()
    return max(event.since(start), 1e-9)
