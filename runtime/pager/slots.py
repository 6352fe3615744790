"""Where the blocks of a tier lie: numbers that a scheduler hands out, on extents that come and go."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


class Blocks(Protocol):
    """Blocks of `block_bytes` bytes by number, wherever they lie; each in one stretch, unless they are `Pieces`."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""

    def addresses(self, blocks: Sequence[int]) -> Int64s:
        """Return the address of each block."""


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks one after the other in memory: number n is `block_bytes` bytes at `base` + n x `block_bytes`."""

    base: int
    block_bytes: int

    def addresses(self, blocks: Sequence[int]) -> Int64s:
        """Return the address of each block."""
        return self.base + np.asarray(blocks, np.int64) * self.block_bytes


@dataclass(frozen=True, slots=True)
class Pieces:
    """Blocks that lie in pieces, as in caches laid out layer by layer; in a tier each is one stretch, a page.

    Piece p of block n is `piece_bytes` bytes at `bases[p]` + n x `piece_bytes`. Keys and values of vLLM 0.3, say,
    `[layer, 2, block, ...]`, have a base for each layer's keys and another for its values.
    """

    bases: tuple[int, ...]
    piece_bytes: int

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, all its pieces together."""
        return len(self.bases) * self.piece_bytes

    def addresses(self, blocks: Sequence[int]) -> Int64s:
        """Return the address of each piece, block by block."""
        offsets = np.asarray(blocks, np.int64)[:, None] * self.piece_bytes
        return (offsets + np.array(self.bases, np.int64)).ravel()

    def cut(self, pages: Int64s) -> Int64s:
        """Return where the pieces lie in pages at these addresses, page by page."""
        offsets = np.arange(len(self.bases), dtype=np.int64) * self.piece_bytes
        return (pages[:, None] + offsets).ravel()


class Slots:
    """Gives each block number of a tier a slot in one of its extents.

    A scheduler counts blocks and does not know extents: numbers 0, 1, 2, ... in the order of growth. Numbers that a
    shrink retires leave slots behind; an extent is emptied by moving what is still on it to such slots.
    """

    def __init__(self, block_bytes: int) -> None:
        assert block_bytes > 0, block_bytes
        self.block_bytes = block_bytes
        self._extents: dict[str, int] = {}
        """Address of the first slot, by extent."""
        self._sizes: dict[str, int] = {}
        self._slot: list[tuple[str, int] | None] = []
        """(extent, index) of each number; None once it is retired."""
        self._free: list[tuple[str, int]] = []
        self._retired = 0

    @property
    def capacity(self) -> int:
        """Numbers that have a slot."""
        return sum(slot is not None for slot in self._slot)

    @property
    def made(self) -> int:
        """Numbers that ever had a slot."""
        return len(self._slot)

    @property
    def slots(self) -> int:
        """Slots of all extents."""
        return sum(self._sizes.values())

    def add(self, extent: str, address: int, size: int) -> int:
        """Add an extent of `size` bytes at `address`; return how many slots that makes; the rest is left out."""
        assert extent not in self._extents, extent
        count = size // self.block_bytes
        self._extents[extent] = address
        self._sizes[extent] = count
        self._free += [(extent, index) for index in range(count - 1, -1, -1)]
        return count

    def grow(self, capacity: int) -> None:
        """Give slots to the next numbers, until `capacity` have one; there must be enough."""
        missing = capacity - self.capacity
        assert 0 <= missing <= len(self._free), (capacity, self.capacity, len(self._free))
        for _ in range(missing):
            self._slot.append(self._free.pop())

    def retire(self, numbers: Iterable[int]) -> None:
        """Take numbers out for good; their slots are free for others."""
        for number in numbers:
            slot = self._slot[number]
            assert slot is not None, f"block {number} was retired before"
            self._free.append(slot)
            self._slot[number] = None

    def addresses(self, blocks: Sequence[int]) -> Int64s:
        """Return the address of each block."""
        return np.array([self._address(self._slot[block]) for block in blocks], np.int64)

    def steer(self, blocks: Iterable[int], away: Collection[str]) -> bool:
        """Give blocks that are about to be overwritten slots off the extents `away`; False if there are too few.

        Those that were moved stay moved.
        """
        for block in blocks:
            slot = self._slot[block]
            if slot is None or slot[0] not in away:
                continue
            better = next((free for free in reversed(self._free) if free[0] not in away), None)
            if better is None:
                return False
            self._free.remove(better)
            self._free.insert(0, slot)
            self._slot[block] = better
        return True

    def empty(
        self, extent: str, move: Callable[[Int64s, Int64s], None], worth: Callable[[int], bool]
    ) -> None:
        """Move every block off an extent and forget it.

        `move(from addresses, to addresses)` copies what is `worth` keeping, and returns when it is done. Nothing may
        be on its way to or from the extent.
        """
        self._free = [slot for slot in self._free if slot[0] != extent]
        staying = [n for n, slot in enumerate(self._slot) if slot is not None and slot[0] == extent]
        assert len(staying) <= len(self._free), f"{len(staying)} blocks of {extent} have nowhere to go"
        moved = []
        for number in staying:
            old, new = self._slot[number], self._free.pop()
            if worth(number):
                moved.append((self._address(old), self._address(new)))
            self._slot[number] = new
        if moved:
            table = np.array(moved, np.int64)
            move(table[:, 0], table[:, 1])
        del self._extents[extent], self._sizes[extent]

    def check(self) -> None:
        """Assert that every slot belongs to one number or is free."""
        used = [slot for slot in self._slot if slot is not None]
        assert len(set(used)) == len(used), "two numbers share a slot"
        assert not set(used) & set(self._free), "a used slot is free"
        assert len(used) + len(self._free) == self.slots, "slots lost or made"

    def _address(self, slot: tuple[str, int] | None) -> int:
        assert slot is not None, "a retired block is used"
        return self._extents[slot[0]] + slot[1] * self.block_bytes
