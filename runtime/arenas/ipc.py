"""GPU memory from cudaMalloc, shared by CUDA IPC handles.

The exporter must not free it while anybody has it open (undefined, by CUDA's documentation), so that arenas count
their exports; prefer `cuda-vmm`, which has no such trap, where it works. With both, an importer keeps the memory
allocated when the exporter dies: LMCache#4014 found 112 GB per GPU held so.
"""

import os
import threading
from typing import Any

from aquasim.runtime.arenas import cuda
from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.handle import Handle
from aquasim.runtime.arenas.region import Memory
from aquasim.runtime.copy.cuda import runtime, uuid_of

SLAB = 2 << 20  # smaller allocations may share a driver block with others, which a handle would open too


def allocate(nbytes: int, place: int | str | None) -> Memory:
    """Make `nbytes` bytes of GPU memory, rounded up to 2 MiB, on the GPU `place`; raises ArenaError."""
    return Slab(-(-nbytes // SLAB) * SLAB, cuda.index_of(0 if place is None else place))


def attach(handle: Handle, device: int | str | None) -> Memory:
    """Open a handle for copies from GPU `device`; raises ArenaError with what the driver says and a hint."""
    if handle.pid == os.getpid():
        raise ArenaError(
            f"a CUDA IPC handle cannot be opened by a process with its exporter's PID, {handle.pid}: this is the "
            "exporter, or containers have separate PID namespaces (share one: vLLM PR#55906)"
        )
    return Opened(handle, cuda.index_of(0 if device is None else device))


class Slab(Memory):
    """A donor's allocation."""

    free_while_mapped = False

    def __init__(self, nbytes: int, index: int) -> None:
        self.nbytes, self.device, self._index = nbytes, uuid_of(index), index
        with cuda.on(index, f"allocating {nbytes} bytes"):
            self.ptr = runtime().malloc(nbytes)
        self.zero(0, nbytes)

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        with cuda.on(self._index, "exporting memory"):
            return bytes(runtime().ipcGetMemHandle(self.ptr)).hex(), None

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory."""
        cuda.zero(self._index, self.ptr + offset, nbytes)

    def release(self) -> None:
        """See Memory."""
        with cuda.on(self._index, "freeing memory"):
            runtime().free(self.ptr)


class Opened(Memory):
    """A consumer's mapping of the whole slab."""

    def __init__(self, handle: Handle, index: int) -> None:
        self.nbytes, self.device, self._index = handle.nbytes, handle.device, index
        self._key = (index, handle.payload)
        self.ptr = _OPENS.open(*self._key)

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        raise ArenaError("only the donor can export its memory")

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory."""
        cuda.zero(self._index, self.ptr + offset, nbytes)

    def release(self) -> None:
        """See Memory."""
        _OPENS.close(*self._key)


class _Opens:
    """Handles that this process has open, by GPU: the driver opens each once, and closes it with the last of ours.

    CUDA's documentation promises such counting, but one close was seen to unmap for everybody (LMCache).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opens: dict[tuple[int, str], list[int]] = {}

    def open(self, index: int, payload: str) -> int:
        """Return the address of the memory, opened here once."""
        with self._lock:
            if (index, payload) not in self._opens:
                with cuda.on(index, "opening a CUDA IPC handle"):
                    self._opens[index, payload] = [runtime().ipcOpenMemHandle(_bytes(payload)), 0]
            entry = self._opens[index, payload]
            entry[1] += 1
            return entry[0]

    def close(self, index: int, payload: str) -> None:
        """Undo one open."""
        with self._lock:
            entry = self._opens[index, payload]
            entry[1] -= 1
            if not entry[1]:
                del self._opens[index, payload]
                with cuda.on(index, "closing a CUDA IPC handle"):
                    runtime().ipcCloseMemHandle(entry[0])


_OPENS = _Opens()


def _bytes(payload: str) -> Any:
    try:
        raw = bytes.fromhex(payload)
    except ValueError:
        raw = b""
    if len(raw) != 64:
        raise ArenaError("a broken handle: CUDA IPC handles have 64 bytes")
    return raw
