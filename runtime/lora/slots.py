"""Slots in the device's memory that adapters are copied to, and what those in use add to a step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import linear, pad

from aquasim.runtime.lora.layout import LoraLayout, Pair

if TYPE_CHECKING:
    from aquasim.runtime.engine.deltas import Delta, Group

Rows = torch.Tensor | slice


class LoraSlots:
    """`count` slots of `layout.elements` elements each; an adapter in a slot is one contiguous stretch of bytes.

    The products are grouped by adapter: each one's rows are multiplied with its own A and B and with nothing else
    (cf. SGMV: Punica, Chen et al. 2023, section 4); rows without an adapter are left as they are.
    """

    def __init__(
        self, layout: LoraLayout, count: int, *, dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        """Take the memory. Raises ValueError for a count below 1."""
        if count < 1:
            raise ValueError(f"there must be at least 1 slot for adapters, not {count}")
        self.layout, self.count = layout, count
        self.memory = torch.zeros(count, layout.elements, dtype=dtype, device=device)
        self._pairs = [layout.pairs(row) for row in self.memory]

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self.layout.elements * self.memory.itemsize

    def pair(self, slot: int, layer: int, group: "Group") -> Pair | None:
        """Return what a slot holds for one product; None where no adapter adapts it."""
        return self._pairs[slot][layer].get(group)

    def delta(self, slots: npt.NDArray[np.int64], padded: int) -> "Delta | None":
        """See `aquasim.runtime.engine.deltas.Loras`."""
        used = [slot for slot in np.unique(slots).tolist() if slot >= 0]
        if not used:
            return None
        parts = [(slot, _rows(np.flatnonzero(slots == slot), self.memory.device)) for slot in used]
        return Grouped(self, parts, padded)

    def masked(self, slots: torch.Tensor) -> "Delta":
        """See `aquasim.runtime.engine.deltas.Loras`."""
        return Masked(self, slots)


class Grouped:
    """Adds to the rows of each adapter in turn."""

    def __init__(self, slots: LoraSlots, parts: Sequence[tuple[int, Rows]], padded: int) -> None:
        self._slots, self._parts, self._padded = slots, parts, padded

    def __call__(self, layer: int, group: "Group", inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """See Delta."""
        for slot, rows in self._parts:
            pair = self._slots.pair(slot, layer, group)
            if pair is not None:
                self._add(pair, rows, inputs[rows], outputs)

    def _add(self, pair: Pair, rows: Rows, mine: torch.Tensor, outputs: torch.Tensor) -> None:
        rank, count = self._slots.layout.rank, len(mine)
        if self._padded:  # in memory of its own: bits may change with alignment too
            mine = pad(mine, (0, 0, 0, -count % self._padded)).clone()
        small = self._product(mine, pair.a)
        for place, (first, matrix) in enumerate(pair.bs):
            added = self._product(small[:, place * rank : (place + 1) * rank], matrix)[:count]
            columns = outputs[:, first : first + len(matrix)]
            if isinstance(rows, slice):
                columns[rows] += added
            else:
                columns.index_add_(0, rows, added)

    def _product(self, rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        size = self._padded
        if not size or len(rows) <= size:
            return linear(rows, matrix)
        return torch.cat([linear(rows[at : at + size], matrix) for at in range(0, len(rows), size)])


class Masked:
    """Adds for slots that only the device knows: every slot's products over all rows, of which its own count.

    Shapes do not depend on who uses what, so that a CUDA graph may hold it. It reads all slots, also one that is
    being filled: what comes of that is replaced by zeros, whatever it is.
    """

    def __init__(self, slots: LoraSlots, rows: torch.Tensor) -> None:
        self._slots = slots
        numbers = torch.arange(slots.count, device=rows.device).unsqueeze(1)
        self._mine = (rows.unsqueeze(0) == numbers).unsqueeze(-1)
        """`[slots, rows, 1]`"""

    def __call__(self, layer: int, group: "Group", inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """See Delta."""
        rank = self._slots.layout.rank
        for slot in range(self._slots.count):
            pair = self._slots.pair(slot, layer, group)
            if pair is None:
                continue
            small = linear(inputs, pair.a).masked_fill(~self._mine[slot], 0.0)
            for place, (first, matrix) in enumerate(pair.bs):
                added = linear(small[:, place * rank : (place + 1) * rank], matrix)
                outputs[:, first : first + len(matrix)] += added


def _rows(found: npt.NDArray[np.int64], device: torch.device) -> Rows:
    """Return rows as a slice where they follow each other, which needs no copy."""
    first, last = int(found[0]), int(found[-1]) + 1
    return slice(first, last) if last - first == len(found) else torch.from_numpy(found).to(device)
