"""A range of addresses whose memory comes and goes in pieces: the addresses stay, and so do tensors over them.

A piece at home is mapped in the range; away it is mapped nowhere in this process, and whoever it was exported to has
it: the same memory, nothing copied and nothing kept aside.
"""

import ctypes
import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.memfd import SEALS
from aquasim.runtime.arenas.region import Arena, Memory

if TYPE_CHECKING:
    import torch

RESERVABLE = ("memfd", "cuda-vmm")
"""Back ends whose memory can be mapped at a given address."""
_NONE, _PRIVATE, _SHARED, _FIXED, _ANONYMOUS, _NORESERVE = 0, 0x2, 0x1, 0x10, 0x20, 0x4000  # mmap(2), Linux
_READ_WRITE = 0x1 | 0x2
_DONTFORK, _POPULATE_WRITE = 10, 23  # madvise(2)


class Piece(Memory):
    """Memory that is mapped in a range, or (`ptr` is 0) away."""

    @abstractmethod
    def come(self) -> None:
        """Map it at its place in the range; raises ArenaError."""

    @abstractmethod
    def leave(self) -> None:
        """Unmap it; its addresses must not be touched until it comes again. Raises ArenaError."""

    def view(self) -> memoryview:
        """See Memory; a piece has none, so that none can be alive when it leaves."""
        raise ArenaError("a piece of a range is used through the range")


class Reserved:
    """`sum(sizes)` bytes of addresses from `ptr` on, with a piece of each size one after the other, all at home."""

    def __init__(self, backend: str, sizes: Sequence[int], *, place: int | str | None = None) -> None:
        """Take addresses and memory; sizes must be multiples of `granularity`. Raises ArenaError."""
        step = granularity(backend, place)
        if not sizes or any(size <= 0 or size % step for size in sizes):
            raise ArenaError(f"a range of {list(sizes)} bytes; {backend} needs multiples of {step}")
        self.backend, self.nbytes = backend, sum(sizes)
        self._pieces: list[Piece] = []
        self._space: Space = (
            HostSpace(self.nbytes) if backend == "memfd" else _device_space(self.nbytes, place)
        )
        try:
            at = 0
            for size in sizes:
                self._pieces.append(self._space.piece(at, size))
                at += size
        except BaseException:
            self.close()
            raise
        self.arenas = [Arena(backend, piece) for piece in self._pieces]
        """One per piece, to lend it."""

    @property
    def ptr(self) -> int:
        """The first address."""
        return self._space.ptr

    @property
    def device(self) -> str:
        """ "cpu" or a GPU's UUID."""
        return self._pieces[0].device

    def home(self, index: int) -> bool:
        """Whether a piece is mapped in the range."""
        return self._pieces[index].ptr != 0

    def leave(self, index: int) -> Arena:
        """Unmap a piece and return it, to lend. Nothing may use its addresses. Raises ArenaError."""
        assert self.home(index), f"piece {index} is away already"
        self._pieces[index].leave()
        return self.arenas[index]

    def come(self, index: int) -> None:
        """Map a piece again that nobody else maps any more. Raises ArenaError."""
        assert not self.home(index), f"piece {index} is at home"
        self._pieces[index].come()

    def tensor(self) -> "torch.Tensor":
        """Return the range as one row of bytes (uint8). Where a piece is away, it must not be touched."""
        return self._space.tensor()

    def close(self) -> None:
        """Let go of memory and addresses; tensors over them must not be used any more. Twice is harmless."""
        while self._pieces:
            self._pieces.pop().release()
        self._space.close()


def granularity(backend: str, place: int | str | None = None) -> int:
    """Return the bytes that pieces are multiples of; raises ArenaError for a back end without ranges."""
    if backend == "memfd":
        return mmap.PAGESIZE
    if backend == "cuda-vmm":
        from aquasim.runtime.arenas import vmm

        return vmm.granularity(place)
    raise ArenaError(
        f"memory of {backend!r} cannot be mapped at a given address; valid: {', '.join(RESERVABLE)}"
    )


class Space(ABC):
    """Addresses without memory."""

    ptr: int
    nbytes: int

    @abstractmethod
    def piece(self, offset: int, nbytes: int) -> Piece:
        """Make memory for a part of the addresses and map it there."""

    @abstractmethod
    def tensor(self) -> "torch.Tensor":
        """See Reserved."""

    @abstractmethod
    def close(self) -> None:
        """Give the addresses back."""


def _device_space(nbytes: int, place: int | str | None) -> Space:
    from aquasim.runtime.arenas.vmm_reserve import DeviceSpace

    return DeviceSpace(nbytes, place)


# --- host memory ---------------------------------------------------------------------------------------------


class HostSpace(Space):
    """Addresses of this process that fault until a piece is mapped."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.ptr = _map(0, nbytes, _NONE, _PRIVATE | _ANONYMOUS | _NORESERVE, -1)

    def piece(self, offset: int, nbytes: int) -> Piece:
        """See Space."""
        return _HostPiece(self.ptr + offset, nbytes)

    def tensor(self) -> "torch.Tensor":
        """See Space."""
        import torch

        whole = (ctypes.c_ubyte * self.nbytes).from_address(self.ptr)
        return torch.frombuffer(whole, dtype=torch.uint8)

    def close(self) -> None:
        """See Space."""
        if self.ptr:
            _check("munmap", _libc().munmap(ctypes.c_void_p(self.ptr), ctypes.c_size_t(self.nbytes)))
            self.ptr = 0


class _HostPiece(Piece):
    """A sealed memfd, as other host arenas are, mapped at a place of its own. Children of a fork do not have it."""

    device = "cpu"

    def __init__(self, address: int, nbytes: int) -> None:
        self.nbytes, self.ptr, self._address = nbytes, 0, address
        self._fd = os.memfd_create("aquasim-range", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, nbytes)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
            self.come()
        except BaseException as error:
            os.close(self._fd)
            if isinstance(error, OSError):
                raise ArenaError(f"no host memory of {nbytes} bytes: {error}") from error
            raise

    def come(self) -> None:
        """See Piece."""
        _map(self._address, self.nbytes, _READ_WRITE, _SHARED | _FIXED, self._fd)
        words = (ctypes.c_void_p(self._address), ctypes.c_size_t(self.nbytes))
        _libc().madvise(
            *words, _POPULATE_WRITE
        )  # where the kernel is older, pages come when they are touched
        _check("madvise", _libc().madvise(*words, _DONTFORK))
        self.ptr = self._address

    def leave(self) -> None:
        """See Piece."""
        flags = _PRIVATE | _ANONYMOUS | _NORESERVE | _FIXED
        _map(self._address, self.nbytes, _NONE, flags, -1)
        self.ptr = 0

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        return "", os.dup(self._fd)

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory; away, through a mapping of its own for as long as it takes."""
        if self.ptr:
            ctypes.memset(self.ptr + offset, 0, nbytes)
            return
        with mmap.mmap(self._fd, self.nbytes) as mapped:
            view = ctypes.c_char.from_buffer(mapped)
            ctypes.memset(ctypes.addressof(view) + offset, 0, nbytes)
            del view

    def release(self) -> None:
        """See Memory; the range unmaps it."""
        if self.ptr:
            self.leave()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    return libc


def _map(address: int, nbytes: int, protection: int, flags: int, fd: int) -> int:
    words = (ctypes.c_void_p(address), ctypes.c_size_t(nbytes), protection, flags, fd, ctypes.c_long(0))
    found = _libc().mmap(*words)
    _check("mmap", -1 if found == ctypes.c_void_p(-1).value else 0)
    assert isinstance(found, int)
    return found


def _check(name: str, status: int) -> None:
    if status:
        raise ArenaError(f"{name}: {os.strerror(ctypes.get_errno())}")
