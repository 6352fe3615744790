"""What the CUDA back ends share: errors with hints, pinning, and a fill that is complete when it returns."""

from collections.abc import Iterator
from contextlib import contextmanager

from aquasim.runtime.arenas.errors import ArenaError, hint
from aquasim.runtime.copy import cuda
from aquasim.runtime.copy.copier import CopyError

_REGISTER = 1 | 2  # cudaHostRegisterPortable | cudaHostRegisterMapped
_CAN_USE_HOST_POINTER = 91  # cudaDevAttrCanUseHostPointerForRegisteredMem


@contextmanager
def on(index: int, what: str) -> Iterator[None]:
    """Make GPU `index` current inside; errors come out as ArenaError: while doing what, and what it means here."""
    try:
        with cuda.on(index):
            yield
    except CopyError as error:
        raise ArenaError(f"{what}: {error}{hint(error.code)}") from error


def index_of(device: str | int) -> int:
    """Return the visible index of a GPU; raises ArenaError where CUDA or the GPU is missing."""
    try:
        return cuda.index_of(device)
    except CopyError as error:
        raise ArenaError(str(error)) from error


def pin(ptr: int, nbytes: int) -> None:
    """Register host memory with CUDA, for every GPU and for kernels too; raises ArenaError.

    Unlike torch's pinned allocator this takes no power of two, and it works on memory that is shared.
    """
    with on(0, f"pinning {nbytes} bytes"):
        cuda.runtime().hostRegister(ptr, nbytes, _REGISTER)
        if not cuda.runtime().deviceGetAttribute(_CAN_USE_HOST_POINTER, 0):
            cuda.runtime().hostUnregister(ptr)
            raise ArenaError("this GPU sees pinned host memory under other addresses than the CPU does")


def unpin(ptr: int) -> None:
    """Undo `pin`."""
    with on(0, "unpinning"):
        cuda.runtime().hostUnregister(ptr)


def zero(index: int, ptr: int, nbytes: int) -> None:
    """Fill GPU memory with zeros, on a stream of its own so that no other work waits; returns when done."""
    with on(index, f"scrubbing {nbytes} bytes"):
        stream = cuda.cupy().cuda.Stream(non_blocking=True)
        cuda.runtime().memsetAsync(ptr, 0, nbytes, stream.ptr)
        stream.synchronize()
