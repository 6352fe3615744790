"""A donor's arenas, one per extent, and whom each was handed to. Used by one thread at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

from aquasim.core.leases import Extent
from aquasim.runtime.arenas import Arena, ArenaError, Handle, create
from aquasim.runtime.donor.room import host_room

HOST = ("memfd", "host")


@dataclass(slots=True)
class Slab:
    """One extent's memory; `epoch` is the lease that it was last handed out under (0: it is all zeros)."""

    arena: Arena
    epoch: int = 0
    tokens: list[str] = field(default_factory=list)
    """Exports under that epoch."""
    back: Callable[[Arena], object] | None = None
    """Who has the memory when it is nobody's here any more; None: the system."""


def allocate(backend: str, place: int | str | None, sizes: list[int]) -> list[Arena]:
    """Make arenas of these sizes (bytes), all or none; raises ArenaError where the memory is not there."""
    room = host_room() if backend in HOST else None
    if room is not None and sum(sizes) > room:
        raise ArenaError(
            f"{sum(sizes)} bytes of host memory are to be lent, and {room} can still be taken here"
        )
    arenas: list[Arena] = []
    try:
        for size in sizes:
            arenas.append(create(backend, size, place=place))
    except BaseException:
        for arena in arenas:
            arena.close()
        raise
    return arenas


def split(nbytes: int, extent_bytes: int) -> list[int]:
    """Cut `nbytes` into extents; the last may be smaller."""
    whole, rest = divmod(nbytes, extent_bytes)
    return [extent_bytes] * whole + ([rest] if rest else [])


class Slabs:
    """The memory behind a donor's table."""

    def __init__(self) -> None:
        self._slabs: dict[Extent, Slab] = {}

    def __len__(self) -> int:
        return len(self._slabs)

    def add(self, extent: Extent, arena: Arena, back: Callable[[Arena], object] | None = None) -> None:
        """Keep the memory of a new extent, all zeros; `back` gets it once it is released."""
        self._slabs[extent] = Slab(arena, back=back)

    def hand(self, extent: Extent, epoch: int) -> Handle:
        """Return a new handle for the holder of `epoch`, to be closed; scrubs first if this is a new holder.

        The one before closed its mapping or is dead, or there would be no new epoch; nobody has seen this one's
        memory yet. Asked again under the same epoch, the memory is left alone.
        """
        slab = self._slabs[extent]
        if slab.epoch != epoch:
            self._end(slab)
            if slab.epoch:
                slab.arena.scrub()
            slab.epoch = epoch
        handle = slab.arena.export()
        slab.tokens.append(handle.token)
        return handle

    def scrub(self, extent: Extent) -> None:
        """Overwrite what a dead consumer left."""
        slab = self._slabs[extent]
        self._end(slab)
        slab.arena.scrub()
        slab.epoch = 0

    def release(self, extent: Extent) -> int:
        """Give the memory of an extent that nobody holds back to the system, or to whose it is; returns its bytes.

        Host memory is zeroed by the kernel before anybody has it again; GPU memory in the same process is not, and
        neither is memory that somebody goes on using.
        """
        slab = self._slabs.pop(extent)
        self._end(slab)
        if slab.epoch and (slab.back is not None or slab.arena.device != "cpu"):
            slab.arena.scrub()
        nbytes = slab.arena.nbytes
        if slab.back is None:
            slab.arena.close()
        else:
            slab.back(slab.arena)
        return nbytes

    def close(self, *, force: bool) -> None:
        """Close all, which nobody holds: unless forced, by somebody who knows that the holders are dead."""
        for extent in list(self._slabs):
            if self._slabs[extent].back is not None:
                self.release(extent)
                continue
            self._end(self._slabs[extent])
            self._slabs[extent].arena.close(force=force)
            del self._slabs[extent]

    def _end(self, slab: Slab) -> None:
        """The last holder's mapping is gone."""
        while slab.tokens:
            slab.arena.take_back(slab.tokens.pop())
