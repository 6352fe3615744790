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
            return None if _call("cuDeviceGetAttribute", kind, 0) else "this GPU exports no file descriptors"
    except ArenaError as error:
        return str(error)


def allocate(nbytes: int, place: int | str | None) -> Memory:
    """Make `nbytes` bytes of GPU memory, rounded up to the GPU's granularity (2 MiB), on the GPU `place`."""
    driver, index = _driver(), cuda.index_of(0 if place is None else place)
    wanted = driver.CUmemAllocationProp()
    wanted.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    wanted.requestedHandleTypes = _fd_kind()
    wanted.location = _location(index)
    with cuda.on(index, f"allocating {nbytes} bytes"):
        minimum = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        step = int(_call("cuMemGetAllocationGranularity", wanted, minimum))
        nbytes = -(-nbytes // step) * step
        memory = Mapped(_call("cuMemCreate", nbytes, wanted, 0), nbytes, base.uuid_of(index), index)
    memory.zero(0, nbytes)
    return memory


def attach(handle: Handle, device: int | str | None) -> Memory:
    """Map a handle's memory for copies from GPU `device`; raises ArenaError with what the driver says and a hint."""
    if handle.fd is None:
        raise ArenaError("this handle has no file descriptor, or was closed")
    index = cuda.index_of(0 if device is None else device)
    with cuda.on(index, "mapping memory"):
        imported = _call("cuMemImportFromShareableHandle", handle.fd, _fd_kind())
        return Mapped(imported, handle.nbytes, handle.device, index)


class Mapped(Memory):
    """An allocation, own or imported, mapped for reading and writing from one GPU."""

    def __init__(self, allocation: Any, nbytes: int, device: str, index: int) -> None:
        self.nbytes, self.device, self._index, self._allocation = nbytes, device, index, allocation
        with ExitStack() as undo:
            undo.callback(_call, "cuMemRelease", allocation)
            self.ptr = int(_call("cuMemAddressReserve", nbytes, 0, 0, 0))
            undo.callback(_call, "cuMemAddressFree", self.ptr, nbytes)
            _call("cuMemMap", self.ptr, nbytes, 0, allocation, 0)
            undo.callback(_call, "cuMemUnmap", self.ptr, nbytes)
            _call("cuMemSetAccess", self.ptr, nbytes, [_access(index)], 1)
            self._undo = undo.pop_all()

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        with cuda.on(self._index, "exporting memory"):
            fd = int(_call("cuMemExportToShareableHandle", self._allocation, _fd_kind(), 0))
        os.set_inheritable(fd, False)
        return "", fd

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory."""
        cuda.zero(self._index, self.ptr + offset, nbytes)

    def release(self) -> None:
        """See Memory."""
        with cuda.on(self._index, "unmapping memory"):
            self._undo.close()


def _driver() -> Any:
    return import_module("cuda.bindings.driver")


def _call(name: str, *words: Any) -> Any:
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


def _access(index: int) -> Any:
    access = _driver().CUmemAccessDesc()
    access.location = _location(index)
    access.flags = _driver().CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    return access
