"""Where a KV cache's blocks lie in a range whose extents come and go."""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from aquasim.core.blocks import BlockPool

Int64s = npt.NDArray[np.int64]


class Frames:
    """Gives the numbers that a scheduler hands out frames: places for a block, `per_extent` in each extent.

    A scheduler that shrinks retires whichever numbers are free, and makes new ones as it grows again; a number gets a
    frame when it is first used, the lowest that is free. To vacate an extent, what is held in it moves to other
    frames; free numbers simply lose theirs. `flying` names the numbers that copies under way, or about to start,
    refer to: their frames stay.

    It is the cache's side of a pager, too (`addresses`).
    """

    def __init__(
        self, pool: BlockPool, flying: Callable[[], Collection[int]], base: int, block_bytes: int,
        extents: int, per_extent: int,
    ) -> None:  # fmt: skip
        assert pool.capacity == extents * per_extent, (pool.capacity, extents, per_extent)
        self.block_bytes, self.per_extent = block_bytes, per_extent
        self.home = set(range(extents))
        """Extents that blocks may be in."""
        self._pool, self._flying, self._base = pool, flying, base
        self._frame: dict[int, int] = {}
        self._free = list(range(extents * per_extent))  # a heap
        self._retired = 0
        self._late: list[int] = []
        """Retired numbers that were flying when we last looked."""

    @property
    def room(self) -> int:
        """Blocks that the extents at home hold."""
        return len(self.home) * self.per_extent

    def places(self, numbers: Iterable[int]) -> list[int]:
        """Return the frames of blocks, for tables: indices of the runner's pool."""
        return [self._of(number) for number in numbers]

    def addresses(self, blocks: Sequence[int]) -> Int64s:
        """Return the address of each block."""
        return self._base + np.asarray(self.places(blocks), np.int64) * self.block_bytes

    def come(self, extent: int) -> None:
        """An extent is at home: use its frames."""
        assert extent not in self.home, extent
        self.home.add(extent)
        for frame in range(extent * self.per_extent, (extent + 1) * self.per_extent):
            heapq.heappush(self._free, frame)

    def vacate(self, count: int, move: Callable[[Int64s, Int64s], None]) -> tuple[list[int], dict[int, int]]:
        """Empty at most `count` extents, those that hold least; return them, and who moved: old frames, new ones.

        `move(from addresses, to addresses)` copies, and returns when it is done. Between steps only. Extents with
        something in flight are not among them; ask again later.
        """
        flying = set(self._flying())
        self._drop(flying)
        leaving = self._least(count, flying)
        movers = [number for number, frame in self._frame.items() if frame // self.per_extent in leaving]
        staying = [frame for frame in self._free if frame // self.per_extent not in leaving]
        while len(movers) > len(
            staying
        ):  # frames of flying numbers, that are not the scheduler's any more, lack
            spared = leaving.pop()
            movers = [number for number in movers if self._frame[number] // self.per_extent != spared]
            staying = [frame for frame in self._free if frame // self.per_extent not in leaving]
        staying.sort()
        moved = dict(zip((self._frame[number] for number in movers), staying, strict=False))
        if moved:
            old, new = (np.array(list(column), np.int64) for column in (moved.keys(), moved.values()))
            move(self._base + old * self.block_bytes, self._base + new * self.block_bytes)
        self._frame |= {number: moved[self._frame[number]] for number in movers}
        self._free = staying[len(movers) :]  # sorted, hence a heap
        self.home -= set(leaving)
        return leaving, moved

    def check(self) -> None:
        """Assert that each frame at home is some number's or free, and that none elsewhere is used."""
        used = list(self._frame.values())
        assert len(set(used)) == len(used), "two blocks share a frame"
        assert not set(used) & set(self._free), "a used frame is free"
        assert {frame // self.per_extent for frame in [*used, *self._free]} <= self.home
        assert len(used) + len(self._free) == self.room, "frames lost or made"

    def _of(self, number: int) -> int:
        frame = self._frame.get(number)
        if frame is None:
            if not self._free:
                self._drop(set(self._flying()))
            frame = self._frame[number] = heapq.heappop(self._free)
        return frame

    def _drop(self, flying: Collection[int]) -> None:
        """Take frames from numbers that are retired, or that nobody holds and nobody will look for."""
        retired = [*self._late, *self._pool.retired[self._retired :]]
        self._retired = len(self._pool.retired)
        self._late = [number for number in retired if number in flying]
        for number in (*retired, *self._pool.idle_numbers()):
            if number not in flying and number in self._frame:
                heapq.heappush(self._free, self._frame.pop(number))

    def _least(self, count: int, flying: Collection[int]) -> list[int]:
        """Return `count` extents or fewer, none with anything in flight: those with least blocks, then the last."""
        held = dict.fromkeys(sorted(self.home), 0)
        busy = set()
        for number, frame in self._frame.items():
            held[frame // self.per_extent] += 1
            if number in flying:
                busy.add(frame // self.per_extent)
        ranked = sorted((extent for extent in held if extent not in busy), key=lambda e: (held[e], -e))
        return ranked[:count]
