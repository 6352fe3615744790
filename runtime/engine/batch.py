"""The persistent decode batch: rows of arrays that change only where a request joins, leaves or grows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aquasim.runtime.engine.sampling import GREEDY, Choices, Sampling


class Column:
    """An array on the host that torch sees too, and its copy on a GPU where there is one."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: int) -> None:
        on_gpu = device.type != "cpu"
        held = torch.full(shape, fill, dtype=dtype, pin_memory=on_gpu)
        self.host: npt.NDArray[Any] = held.numpy()
        self.device = held.to(device)  # the same memory on the CPU
        self._held = held

    def upload(self, first: int, last: int) -> None:
        """Copy rows to the GPU, in the order of the current stream; nothing to do on the CPU."""
        if self.device is not self._held and first < last:
            self.device[first:last].copy_(self._held[first:last], non_blocking=True)


class DecodeBatch:
    """Sequences that decode together, one token each in a step. Rows 0 to `count` - 1 are theirs, in no set order.

    Changing the batch costs Python what changes; a step costs the same for any size. Rows beyond `count` stand for
    nobody: token 0 at position 0 of the pool's idle block, so that a padded step may run them.
    """

    def __init__(
        self, capacity: int, max_blocks: int, block_size: int, idle: int, device: str | torch.device = "cpu"
    ) -> None:
        device = torch.device(device)
        self.capacity, self.max_blocks, self.block_size, self.idle = capacity, max_blocks, block_size, idle
        self.count = 0
        self.ids: list[int] = []
        """Whose each row is."""
        self.tokens = Column((capacity,), torch.int64, device, 0)
        """The newest token of each row, not computed yet."""
        self.positions = Column((capacity,), torch.int64, device, 0)
        """Its position: how many tokens of the row are computed."""
        self.tables = Column((capacity, max_blocks), torch.int32, device, idle)
        """Block numbers, in order."""
        self.adapters = Column((capacity,), torch.int64, device, -1)
        """Slot of each row's LoRA adapter; -1: none."""
        self._lengths = np.zeros(capacity, np.int64)
        self._temperature = np.zeros(capacity, np.float64)
        self._top_k = np.zeros(capacity, np.int64)
        self._top_p = np.ones(capacity, np.float64)
        self._seed = np.zeros(capacity, np.uint64)
        self._row: dict[int, int] = {}
        self._dirty = [capacity, 0]

    def __contains__(self, id: object) -> bool:
        return id in self._row

    def __len__(self) -> int:
        return self.count

    def join(
        self, id: int, token: int, position: int, blocks: Sequence[int], sampling: Sampling = GREEDY,
        adapter: int = -1,
    ) -> None:  # fmt: skip
        """Add a sequence: its newest token, that token's position, and its blocks, which may reach further.

        `adapter` is the slot of its LoRA adapter (-1: none).

        Raises ValueError for an id that is in, a full batch, too many blocks or too few for the position.
        """
        self._check(id, position, blocks)
        row = self.count
        self.count += 1
        self._row[id] = row
        self.ids.append(id)
        self.tokens.host[row] = token
        self.positions.host[row] = position
        self.tables.host[row, : len(blocks)] = blocks
        self.adapters.host[row] = adapter
        self._lengths[row] = len(blocks)
        self._temperature[row], self._top_k[row] = sampling.temperature, sampling.top_k
        self._top_p[row], self._seed[row] = sampling.top_p, sampling.seed
        self._touch(row)

    def leave(self, id: int) -> None:
        """Take a sequence out; the last row moves to its place. Raises KeyError for an id that is not in."""
        row = self._row.pop(id)
        self.count -= 1
        last = self.count
        moved = self.ids.pop()
        if row != last:
            for values in self._columns():
                values[row] = values[last]
            self.ids[row] = moved
            self._row[moved] = row
            self._touch(row)
        self.tokens.host[last] = self.positions.host[last] = 0
        self.tables.host[last] = self.idle
        self.adapters.host[last] = -1
        self._lengths[last] = self._temperature[last] = 0
        self._touch(last)

    def grow(self, id: int, block: int) -> None:
        """Append a block to a sequence. Raises KeyError for an id that is not in, ValueError for a full table."""
        row = self._row[id]
        length = int(self._lengths[row])
        if length == self.max_blocks:
            raise ValueError(f"request {id} holds {length} blocks; the tables of this batch end there")
        self.tables.host[row, length] = block
        self._lengths[row] = length + 1
        self._touch(row)

    def readdress(self, moved: dict[int, int]) -> None:
        """Follow blocks whose bytes were moved to other numbers: old numbers to new ones."""
        numbers = np.arange(self.idle + 1, dtype=np.int32)
        numbers[list(moved)] = list(moved.values())
        self.tables.host[: self.count] = numbers[self.tables.host[: self.count]]
        if self.count:
            self._touch(0)
            self._touch(self.count - 1)

    def token(self, id: int) -> tuple[int, int]:
        """Return a sequence's newest token and its position; KeyError for an id that is not in."""
        row = self._row[id]
        return int(self.tokens.host[row]), int(self.positions.host[row])

    def blocks(self, id: int) -> list[int]:
        """Return a sequence's blocks, in order; KeyError for an id that is not in."""
        row = self._row[id]
        held: list[int] = self.tables.host[row, : self._lengths[row]].tolist()
        return held

    def longest(self) -> int:
        """Return the most tokens a row attends to in the next step, its newest one included; 0 if empty."""
        return int(self.positions.host[: self.count].max()) + 1 if self.count else 0

    def choices(self) -> Choices:
        """Return how to choose the next token of each row."""
        n = self.count
        position = self.positions.host[:n] + 1
        return Choices(self._temperature[:n], self._top_k[:n], self._top_p[:n], self._seed[:n], position)

    def begin(self) -> None:
        """Bring the device up to date before a step. Raises ValueError when a row lacks the block it writes to."""
        n = self.count
        lacking = self.positions.host[:n] >= self._lengths[:n] * self.block_size
        if lacking.any():
            who = [self.ids[row] for row in np.flatnonzero(lacking)[:5]]
            raise ValueError(f"requests {who} have no block for their next token; grow them first")
        first, last = self._dirty
        self.tables.upload(first, last)
        rows = max(n, last)
        self.tokens.upload(0, rows)
        self.positions.upload(0, rows)
        self.adapters.upload(first, last)
        self._dirty = [self.capacity, 0]

    def advance(self, tokens: npt.NDArray[np.int64]) -> None:
        """Take each row's newly chosen token, once the step is done."""
        n = self.count
        self.tokens.host[:n] = tokens
        self.positions.host[:n] += 1

    def check(self) -> None:
        """Assert that rows, ids and idle rows are as the class says."""
        assert len(self.ids) == self.count == len(self._row)
        assert all(self.ids[row] == id for id, row in self._row.items())
        assert (self.tables.host[self.count :] == self.idle).all()
        assert not self.positions.host[self.count :].any()
        assert (self.adapters.host[self.count :] == -1).all()
        assert not self._temperature[self.count :].any()

    def _columns(self) -> tuple[npt.NDArray[Any], ...]:
        return (
            self.tokens.host, self.positions.host, self.tables.host, self.adapters.host, self._lengths,
            self._temperature, self._top_k, self._top_p, self._seed,
        )  # fmt: skip

    def _touch(self, row: int) -> None:
        self._dirty[0] = min(self._dirty[0], row)
        self._dirty[1] = max(self._dirty[1], row + 1)

    def _check(self, id: int, position: int, blocks: Sequence[int]) -> None:
        if id in self._row:
            raise ValueError(f"request {id} is in the batch already")
        if self.count == self.capacity:
            raise ValueError(f"the batch is full: {self.capacity} sequences")
        if len(blocks) > self.max_blocks:
            raise ValueError(
                f"request {id} has {len(blocks)} blocks; the batch's tables hold {self.max_blocks}"
            )
        if not 0 <= position < len(blocks) * self.block_size:
            raise ValueError(f"request {id}: position {position} is not in its {len(blocks)} blocks")
