"""Where tensors lie: a stretch of memory, leased or our own, and a place on it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from aquasim.runtime.arenas import Extent
from aquasim.runtime.arenas.region import Region
from aquasim.runtime.peers.mapped import Mapped
from aquasim.runtime.tensors.ranges import Ranges


class Stretch:
    """`nbytes` bytes of a region: an extent that is leased, or (`mapped` is None) memory of our own."""

    def __init__(self, region: Region, nbytes: int, mapped: Mapped | None = None) -> None:
        self.region = region
        self.mapped = mapped
        self.ranges = Ranges(nbytes)
        self.leaving = False
        """Whether it must be given back: nothing new is put here."""

    @property
    def kind(self) -> Literal["peer", "host"]:
        """Whose memory it is."""
        return "host" if self.mapped is None else "peer"

    def take(self, nbytes: int) -> "Place | None":
        """Return a place for `nbytes` bytes; None if there is no room."""
        offset = self.ranges.take(nbytes)
        return None if offset is None else Place(self, offset, nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """`nbytes` bytes that are taken, from `offset` of a stretch on."""

    stretch: Stretch
    offset: int
    nbytes: int

    @property
    def ptr(self) -> int:
        """The address in this process."""
        return self.stretch.region.ptr + self.offset

    def view(self) -> memoryview:
        """Return the bytes, of which there is one at least; raises ArenaError for memory of a GPU."""
        return self.stretch.region.view(Extent(self.offset, self.nbytes))

    def give(self) -> None:
        """Let others have it."""
        self.stretch.ranges.give(self.offset, self.nbytes)


def find(nbytes: int, stretches: Iterable[Stretch]) -> Place | None:
    """Return a place on the first stretch that has room."""
    return next((place for stretch in stretches if (place := stretch.take(nbytes)) is not None), None)


def free_bytes(stretches: Iterable[Stretch]) -> int:
    """Return the bytes that are free, of all stretches together."""
    return sum(stretch.ranges.free for stretch in stretches)
