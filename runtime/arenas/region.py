"""Arenas and mappings: the same stretch of memory as its donor and as its consumer see it."""

import os
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.handle import Handle

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Extent:
    """`nbytes` bytes of an arena from `offset` on."""

    offset: int
    nbytes: int


class Memory(ABC):
    """What a back end implements: memory mapped at `ptr` in this process, `device` "cpu" or a GPU's UUID."""

    ptr: int
    nbytes: int
    device: str
    pinned = False  # whether it is host memory that a GPU reaches by itself
    free_while_mapped = True  # whether a donor may let go while others still map the memory

    @abstractmethod
    def share(self) -> tuple[str, int | None]:
        """Return a handle's payload and a file descriptor for it to own."""

    @abstractmethod
    def zero(self, offset: int, nbytes: int) -> None:
        """Write zeros and wait until they are there."""

    @abstractmethod
    def release(self) -> None:
        """Unmap and let go; raises ArenaError, and leaves it mapped, where that is not possible yet."""

    def view(self) -> memoryview:
        """Return the bytes; GPU memory has no such view."""
        raise ArenaError(f"memory of {self.device} has no view on the CPU: copy by pointer")


class Region:
    """Memory that is used by pointer until it is closed; `Arena` and `Mapping` are its two sides."""

    def __init__(self, backend: str, memory: Memory) -> None:
        self.backend = backend
        self.nbytes = memory.nbytes
        self.device = memory.device
        self._memory: Memory | None = memory

    @property
    def closed(self) -> bool:
        """Whether the memory is unmapped."""
        return self._memory is None

    @property
    def pinned(self) -> bool:
        """Whether this is host memory that a GPU reaches by itself; copies of other host memory are slow there."""
        return self._open().pinned

    @property
    def ptr(self) -> int:
        """The address of the first byte in this process, for CPU and GPU alike; raises ArenaError once closed."""
        return self._open().ptr

    def at(self, extent: Extent) -> int:
        """Return the address of an extent; raises ArenaError when it reaches outside."""
        return self.ptr + self._inside(extent).offset

    def view(self, extent: Extent | None = None) -> memoryview:
        """Return bytes of CPU memory, to read and write; drop all views before closing. GPU memory: ArenaError."""
        whole = self._open().view()
        extent = self._inside(extent)
        return whole[extent.offset : extent.offset + extent.nbytes]

    def tensor(self, extent: Extent | None = None) -> "torch.Tensor":
        """Return the bytes of `view` as a torch tensor of uint8; it is a view too."""
        import torch

        return torch.frombuffer(self.view(extent), dtype=torch.uint8)

    def scrub(self, extent: Extent | None = None) -> None:
        """Fill with zeros, as is due whenever an extent changes hands; returns when done."""
        extent = self._inside(extent)
        self._open().zero(extent.offset, extent.nbytes)

    def close(self) -> None:
        """Unmap; closing twice is harmless. Copies must be done. Raises ArenaError while views are alive."""
        if self._memory is not None:
            self._memory.release()
            self._memory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._memory is None else ", pinned" if self._memory.pinned else ""
        return f"<{type(self).__name__} {self.backend}: {self.nbytes} bytes on {self.device}{state}>"

    def _open(self) -> Memory:
        if self._memory is None:
            raise ArenaError(f"{self!r} is used after it was closed")
        return self._memory

    def _inside(self, extent: Extent | None) -> Extent:
        if extent is None:
            return Extent(0, self.nbytes)
        if extent.offset < 0 or extent.nbytes <= 0 or extent.offset + extent.nbytes > self.nbytes:
            raise ArenaError(f"{extent} is not inside {self!r}")
        return extent


class Mapping(Region):
    """A consumer's side: closing it is what gives memory back once the donor has let go."""


class Arena(Region):
    """A donor's side: one slab of its own, made for this and never part of a tensor."""

    def __init__(self, backend: str, memory: Memory) -> None:
        super().__init__(backend, memory)
        self._lent: set[str] = set()

    @property
    def lent(self) -> int:
        """Exports that have not come back."""
        return len(self._lent)

    def export(self) -> Handle:
        """Return a new handle for one consumer; give its token to `take_back` when the consumer is through."""
        payload, fd = self._open().share()
        handle = Handle(
            self.backend, self.device, self.nbytes, os.getpid(), secrets.token_hex(8), payload, fd
        )
        self._lent.add(handle.token)
        return handle

    def take_back(self, token: str) -> None:
        """Note that the consumer of an export closed its mapping, or is proven dead; raises ArenaError if unknown."""
        if token not in self._lent:
            raise ArenaError(f"{self!r} has no export {token!r}")
        self._lent.remove(token)

    def close(self, *, force: bool = False) -> None:
        """Let go of the memory.

        A memfd or VMM arena may go while it is mapped elsewhere: the memory returns with the last mapping. Freeing
        CUDA IPC memory under an importer is undefined (CUDA documentation of cudaIpcGetMemHandle), so that raises
        ArenaError until every export is taken back, unless forced.
        """
        if self._memory is not None and self._lent and not (force or self._memory.free_while_mapped):
            raise ArenaError(
                f"{self!r} is lent out: {self.lent} exports to take back once their importers have closed"
            )
        super().close()
