"""GPU memory from cuMemCreate, shared by file descriptors over Unix sockets.

The driver counts references: a donor may let go at any time, and the memory returns with the last mapping. The
descriptor is a capability that cannot be forged, logged or sent over TCP.
"""

import os
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from aquasim.runtime.arenas import cuda
from aquasim.runtime.arenas.errors import ArenaError, hint
from aquasim.runtime.arenas.handle import Handle
from aquasim.runtime.arenas.region import Memory
from aquasim.runtime.copy import cuda as base


def reason() -> str | None:
    """Say why CUDA's virtual memory cannot be shared here, or None where it can."""
    missing = base.reason()
    if missing is not None:
        return missing
    try:
        driver = _driver()
    except ImportError as error:
        return f"needs cuda-bindings, which torch for CUDA brings: pip install cuda-bindings ({error})"
    kind = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    try:
        with cuda.on(0, "asking the GPU"):
            return None if call("cuDeviceGetAttribute", kind, 0) else "this GPU exports no file descriptors"
    except ArenaError as error:
        return str(error)


def allocate(nbytes: int, place: int | str | None) -> Memory:
    """Make `nbytes` bytes of GPU memory, rounded up to the GPU's granularity (2 MiB), on the GPU `place`."""
    index = cuda.index_of(0 if place is None else place)
    step = granularity(index)
    nbytes = -(-nbytes // step) * step
    with cuda.on(index, f"allocating {nbytes} bytes"):
        memory = Mapped(call("cuMemCreate", nbytes, wanted(index), 0), nbytes, base.uuid_of(index), index)
    memory.zero(0, nbytes)
    return memory


def granularity(place: int | str | None) -> int:
    """Return the bytes that allocations on a GPU are multiples of; raises ArenaError."""
    index = cuda.index_of(0 if place is None else place)
    minimum = _driver().CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    with cuda.on(index, "asking the GPU"):
        return int(call("cuMemGetAllocationGranularity", wanted(index), minimum))


def wanted(index: int) -> Any:
    """Return the properties of memory on a GPU that can be shared by file descriptor."""
    driver = _driver()
    found = driver.CUmemAllocationProp()
    found.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    found.requestedHandleTypes = _fd_kind()
    found.location = _location(index)
    return found


def export(allocation: Any, index: int) -> int:
    """Return a new file descriptor for an allocation, which children do not inherit."""
    with cuda.on(index, "exporting memory"):
        fd = int(call("cuMemExportToShareableHandle", allocation, _fd_kind(), 0))
    os.set_inheritable(fd, False)
    return fd


def attach(handle: Handle, device: int | str | None) -> Memory:
    """Map a handle's memory for copies from GPU `device`; raises ArenaError with what the driver says and a hint."""
    if handle.fd is None:
        raise ArenaError("this handle has no file descriptor, or was closed")
    index = cuda.index_of(0 if device is None else device)
    with cuda.on(index, "mapping memory"):
        imported = call("cuMemImportFromShareableHandle", handle.fd, _fd_kind())
        return Mapped(imported, handle.nbytes, handle.device, index)


class Mapped(Memory):
    """An allocation, own or imported, mapped for reading and writing from one GPU."""

    def __init__(self, allocation: Any, nbytes: int, device: str, index: int) -> None:
        self.nbytes, self.device, self._index, self._allocation = nbytes, device, index, allocation
        with ExitStack() as undo:
            undo.callback(call, "cuMemRelease", allocation)
            self.ptr = int(call("cuMemAddressReserve", nbytes, 0, 0, 0))
            undo.callback(call, "cuMemAddressFree", self.ptr, nbytes)
            call("cuMemMap", self.ptr, nbytes, 0, allocation, 0)
            undo.callback(call, "cuMemUnmap", self.ptr, nbytes)
            call("cuMemSetAccess", self.ptr, nbytes, [access(index)], 1)
            self._undo = undo.pop_all()

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        return "", export(self._allocation, self._index)

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory."""
        cuda.zero(self._index, self.ptr + offset, nbytes)

    def release(self) -> None:
        """See Memory."""
        with cuda.on(self._index, "unmapping memory"):
            self._undo.close()


def _driver() -> Any:
    return import_module("cuda.bindings.driver")


def call(name: str, *words: Any) -> Any:
    """Call a driver function; return its value, raise ArenaError with the error's name and a hint."""
    driver = _driver()
    status, *values = getattr(driver, name)(*words)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise ArenaError(f"{name}: {status.name} (error {int(status)}){hint(int(status))}")
    return values[0] if values else None


def _fd_kind() -> Any:
    return _driver().CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR


def _location(index: int) -> Any:
    place = _driver().CUmemLocation()
    place.type = _driver().CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    place.id = index
    return place


def access(index: int) -> Any:
    """Return the word that lets a GPU read and write what is mapped."""
    found = _driver().CUmemAccessDesc()
    found.location = _location(index)
    found.flags = _driver().CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    return found
