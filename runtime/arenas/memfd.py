"""Host memory in a sealed memfd: any process that is handed the descriptor maps it, and the last one frees it.

The descriptor is a capability that travels over Unix sockets only. The seals keep a donor from shrinking the file
under its consumers (which would kill them with SIGBUS). Nothing has a name, so nothing is left behind by `kill -9`.
"""

import ctypes
import errno
import fcntl
import mmap
import os

from aquasim.runtime.arenas import cuda, numa
from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.handle import Handle
from aquasim.runtime.arenas.region import Memory

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_POPULATE_WRITE = 23  # madvise since Linux 5.14; Python has no name for it


def allocate(nbytes: int, *, pin: bool = False, node: int | None = None) -> Memory:
    """Make host memory of `nbytes` bytes, rounded up to whole pages and all of them present.

    `pin` registers it with CUDA, `node` binds it to a NUMA node. Raises ArenaError.
    """
    nbytes = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    fd = os.memfd_create("aquasim-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        return HostMemory(fd, nbytes, pin=pin, node=node, fresh=True)
    except OSError as error:
        raise ArenaError(f"no host memory of {nbytes} bytes: {error}") from error
    finally:
        os.close(fd)


def attach(handle: Handle, *, pin: bool = False) -> Memory:
    """Map a handle's memory; raises ArenaError for a descriptor that is not sealed or too small."""
    if handle.fd is None:
        raise ArenaError("this handle has no file descriptor, or was closed")
    try:
        seals, size = fcntl.fcntl(handle.fd, fcntl.F_GET_SEALS), os.fstat(handle.fd).st_size
        if seals & SEALS != SEALS or size < handle.nbytes:
            raise ArenaError(f"no sealed memory of {handle.nbytes} bytes: {size} bytes with seals {seals:#x}")
        return HostMemory(handle.fd, handle.nbytes, pin=pin)
    except OSError as error:
        raise ArenaError(f"this handle's file descriptor cannot be mapped: {error}") from error


class HostMemory(Memory):
    """A shared mapping of a memfd; a donor's keeps a descriptor too, to share it."""

    device = "cpu"

    def __init__(
        self, fd: int, nbytes: int, *, pin: bool, node: int | None = None, fresh: bool = False
    ) -> None:
        self.nbytes = nbytes
        self._map = mmap.mmap(fd, nbytes)
        self.ptr = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._fd = os.dup(fd) if fresh else None
        try:
            if node is not None:
                numa.bind(self.ptr, nbytes, node)
            _populate(self._map)
            if pin:
                cuda.pin(self.ptr, nbytes)
                self.pinned = True
        except BaseException:
            self.release()
            raise

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        assert self._fd is not None
        return "", os.dup(self._fd)

    def view(self) -> memoryview:
        """See Memory."""
        return memoryview(self._map)

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory."""
        ctypes.memset(self.ptr + offset, 0, nbytes)

    def release(self) -> None:
        """See Memory."""
        if self.pinned:
            cuda.unpin(self.ptr)
            self.pinned = False
        try:
            self._map.close()
        except BufferError as error:
            raise ArenaError(
                "views or tensors of this memory are still alive: drop them before closing"
            ) from error
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _populate(memory: mmap.mmap) -> None:
    """Make every page present now: a page fault later would stall a copy, and a lack of memory kill the process."""
    try:
        memory.madvise(_POPULATE_WRITE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        memory[:: mmap.PAGESIZE]  # an older kernel; reading is enough for shared memory
