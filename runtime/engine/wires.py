"""Between a device and the host: nothing on the CPU, pinned buffers and a stream of their own on a GPU."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from aquasim.runtime.engine.pool import KvPool

if TYPE_CHECKING:
    from aquasim.runtime.copy import Copier, Descriptors, Event

_new_stream: Any = torch.cuda.Stream  # neither is typed in torch 2.13
_new_event: Any = torch.cuda.Event


class Wire(Protocol):
    """Carries one sub-batch's rows. One layer is under way at a time."""

    def room(self, count: int) -> torch.Tensor:
        """Return memory of the host for `count` results, float32 `[count, heads, head_dim]`, until the next step."""

    def send(self, rows: torch.Tensor) -> torch.Tensor:
        """Bring a layer's `[count, heads + 2 * kv_heads, head_dim]` to the host; it is there after `wait`."""

    def wait(self) -> None:
        """Block the host's thread until what was sent is there."""

    def back(self, results: torch.Tensor) -> torch.Tensor:
        """Bring results to the device, in the order of its current stream."""

    def stage(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> int:
        """Let keys and values `[tokens, kv_heads, head_dim]` of staged prompts leave for `slots` of the host's pool.

        Returns their bytes.
        """

    def settle(self) -> None:
        """Block until what was staged is in the host's pool."""


def open_wire(pool: KvPool, heads: int, max_seqs: int, device: torch.device, copier: "Copier | None") -> Wire:
    """Return the wire of a sub-batch; ValueError for a GPU without a copier."""
    if device.type == "cpu":
        return Direct(pool, heads)
    if copier is None:
        raise ValueError("prompts are staged off a GPU by a copier, and there is none")
    return Pinned(pool, heads, max_seqs, device, copier)


class Direct:
    """Device and host are one memory: nothing moves but what is staged."""

    def __init__(self, pool: KvPool, heads: int) -> None:
        self._pool, self._heads = pool, heads

    def room(self, count: int) -> torch.Tensor:
        """See Wire."""
        return torch.empty(count, self._heads, self._pool.head_dim)

    def send(self, rows: torch.Tensor) -> torch.Tensor:
        """See Wire."""
        return rows

    def wait(self) -> None:
        """See Wire."""

    def back(self, results: torch.Tensor) -> torch.Tensor:
        """See Wire."""
        return results

    def stage(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> int:
        """See Wire."""
        self._pool.write(layer, slots, keys, values)
        return keys.nbytes + values.nbytes

    def settle(self) -> None:
        """See Wire."""


class Pinned:
    """Between a GPU and pinned memory: rows on a stream of their own, staged prompts block by block by the copier.

    A staging layer on the GPU has the blocks' own layout, so that a layer of a block is one copy. The next layer is
    written to it once this one has left (NEO's extra layer, section 2.2).
    """

    def __init__(
        self, pool: KvPool, heads: int, max_seqs: int, device: torch.device, copier: "Copier"
    ) -> None:
        shape = (max_seqs, heads + 2 * pool.kv_heads, pool.head_dim)
        self._pool, self._device, self._copier = pool, device, copier
        self._rows = torch.empty(shape, dtype=pool.dtype, pin_memory=True)
        self._results = torch.empty((max_seqs, heads, pool.head_dim), dtype=torch.float32, pin_memory=True)
        self._stream = _new_stream(device)
        self._sent = _new_event()
        self._staging = torch.empty(0, dtype=pool.dtype, device=device)
        self._leaving: Event | None = None  # of the layer that is on its way

    def room(self, count: int) -> torch.Tensor:
        """See Wire."""
        return self._results[:count]

    def send(self, rows: torch.Tensor) -> torch.Tensor:
        """See Wire."""
        here = self._rows[: len(rows)]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            here.copy_(rows, non_blocking=True)
            self._sent.record(self._stream)
        rows.record_stream(self._stream)  # not to be used for others before it is copied
        return here

    def wait(self) -> None:
        """See Wire."""
        self._sent.synchronize()

    def back(self, results: torch.Tensor) -> torch.Tensor:
        """See Wire."""
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            there = results.to(self._device, non_blocking=True)
        current.wait_stream(self._stream)
        there.record_stream(current)
        return there

    def stage(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> int:
        """See Wire."""
        staged = Staged.of(self._pool, slots)
        compute = self._copier.compute(torch.cuda.current_stream(self._device).cuda_stream)
        if self._leaving is not None:
            compute.wait(self._leaving)
        staging = self._room_for(len(staged.blocks))
        staged.fill(staging, keys, values)
        self._copier.outgoing.wait(compute.record())
        copies = staged.copies(staging.data_ptr(), layer)
        self._leaving = self._copier.submit(copies, self._copier.outgoing)
        return copies.nbytes

    def settle(self) -> None:
        """See Wire."""
        if self._leaving is not None:
            self._leaving.wait()
            self._leaving = None

    def _room_for(self, blocks: int) -> torch.Tensor:
        """Return a staging layer of so many blocks; it stays as large as it was ever needed."""
        pool = self._pool
        size = blocks * pool.stride // pool.layers * pool.kv_heads * pool.head_dim
        if self._staging.numel() < size:
            self.settle()  # what is still read of the smaller one
            self._staging = torch.empty(size, dtype=pool.dtype, device=self._device)
        return self._staging[:size]


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """Staged prompts in a staging layer, `[blocks, 2, block_size, kv_heads, head_dim]` as in a pool."""

    pool: KvPool
    blocks: npt.NDArray[np.int64]
    """Where each block of the staging layer goes in the host's pool."""
    rows: npt.NDArray[np.int64]
    """Where each token's keys go in it, in rows of kv_heads * head_dim; its values are block_size rows further."""

    @classmethod
    def of(cls, pool: KvPool, slots: torch.Tensor) -> "Staged":
        """Lay tokens out that belong to these slots of the host's pool."""
        blocks, place = np.unique(slots.numpy() // pool.stride, return_inverse=True)
        return cls(pool, blocks, place * 2 * pool.block_size + slots.numpy() % pool.stride)

    def fill(self, staging: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write keys and values `[tokens, kv_heads, head_dim]` to a staging layer, on its device."""
        flat = staging.view(-1, self.pool.kv_heads * self.pool.head_dim)
        at = torch.from_numpy(self.rows).to(staging.device)
        flat.index_copy_(0, at, keys.flatten(1))
        flat.index_copy_(0, at + self.pool.block_size, values.flatten(1))

    def copies(self, address: int, layer: int) -> "Descriptors":
        """Return the copies that bring a staging layer at `address` to a layer of the host's pool: one per block."""
        from aquasim.runtime.copy import Descriptors

        pool = self.pool
        each = pool.block_bytes // pool.layers
        sources = address + np.arange(len(self.blocks), dtype=np.int64) * each
        targets = pool.base + self.blocks * pool.block_bytes + layer * each
        return Descriptors(sources, targets, np.full(len(self.blocks), each, np.int64))
