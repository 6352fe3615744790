"""Free ranges of a stretch of bytes: first fit, neighbours joined."""

from bisect import bisect

ALIGN = 256
"""Bytes that every range starts at a multiple of: enough for any dtype and for a GPU's wide loads."""


def padded(nbytes: int) -> int:
    """Return the bytes that a range for `nbytes` takes: whole units of `ALIGN`, at least one."""
    return max(1, -(-nbytes // ALIGN)) * ALIGN


class Ranges:
    """Hands out ranges of `nbytes` bytes; what does not fill a unit of `ALIGN` at the end stays unused."""

    def __init__(self, nbytes: int) -> None:
        self.size = nbytes // ALIGN * ALIGN
        """Bytes, free or taken."""
        self._free = [(0, self.size)] if self.size else []
        """(first, end) of each free range, in order, never touching each other."""

    @property
    def free(self) -> int:
        """Free bytes, of all ranges together."""
        return sum(end - first for first, end in self._free)

    @property
    def largest(self) -> int:
        """Bytes of the largest free range."""
        return max((end - first for first, end in self._free), default=0)

    def take(self, nbytes: int) -> int | None:
        """Return the offset of the first range that fits, now taken; None, and nothing changed, if none does."""
        size = padded(nbytes)
        for index, (first, end) in enumerate(self._free):
            if end - first >= size:
                self._free[index : index + 1] = [(first + size, end)] if first + size < end else []
                return first
        return None

    def give(self, offset: int, nbytes: int) -> None:
        """Make a taken range free again: `take`'s result and argument."""
        first, end = offset, offset + padded(nbytes)
        index = bisect(self._free, (first, end))
        before, after = self._free[:index], self._free[index:]
        assert not before or before[-1][1] <= first, f"{first}..{end} is free already"
        assert not after or end <= after[0][0], f"{first}..{end} is free already"
        if before and before[-1][1] == first:
            first = before.pop()[0]
        if after and after[0][0] == end:
            end = after.pop(0)[1]
        self._free = [*before, (first, end), *after]
