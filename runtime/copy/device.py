"""Copies that a GPU makes: on its copy engines or by kernels, on two streams of its own."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from aquasim.runtime.copy import batch, cuda, kernels
from aquasim.runtime.copy.choose import Thresholds
from aquasim.runtime.copy.copier import Copier, CopyError, CopyPath, Event, Scratch, Stream
from aquasim.runtime.copy.descriptors import Descriptors, Int64s, merge_runs

_LOWEST_PRIORITY = 0  # CUDA's least; a compute stream of priority -1 goes first
_BY_POINTERS = 4  # cudaMemcpyDefault: the addresses say what is host and what is device
_UNREGISTERED = 0  # cudaMemoryTypeUnregistered


class DeviceEvent(Event):
    """A CUDA event. It is polled through the driver: the runtime would leave "not ready" behind as the last error."""

    def __init__(self, index: int, stream: int) -> None:
        with cuda.on(index):
            self._event = cuda.cupy().cuda.Event()
            cuda.runtime().eventRecord(self._event.ptr, stream)

    @property
    def handle(self) -> int:
        """The raw event."""
        return int(self._event.ptr)

    def done(self) -> bool:
        """See Event."""
        status = int(cuda.driver().cuEventQuery(ctypes.c_void_p(self.handle)))
        if status not in (cuda.SUCCESS, cuda.NOT_READY):
            raise CopyError(f"an earlier copy failed: {cuda.name(status)}", status)
        return status == cuda.SUCCESS

    def since(self, earlier: Event) -> float:
        """See Event; by the GPU's clock."""
        if not (isinstance(earlier, DeviceEvent) and self.done() and earlier.done()):
            raise ValueError("times are between two done events of one copier")
        return float(cuda.runtime().eventElapsedTime(earlier.handle, self.handle)) / 1e3


class DeviceStream(Stream):
    """A CUDA stream by its raw handle; `own` is the object that keeps it, if it is ours."""

    def __init__(self, index: int, handle: int, own: Any = None) -> None:
        self._index = index
        self.handle = handle
        self.own = own

    def record(self) -> DeviceEvent:
        """See Stream."""
        return DeviceEvent(self._index, self.handle)

    def wait(self, event: Event) -> None:
        """See Stream; on the GPU, the caller goes on at once. Raises ValueError for a CPU's event."""
        if not isinstance(event, DeviceEvent):
            raise ValueError("a GPU's stream can wait for GPU events only")
        with cuda.on(self._index):
            cuda.runtime().streamWaitEvent(self.handle, event.handle)


class DeviceScratch(Scratch):
    """Memory from cudaMalloc. Reading and writing take a stream of their own and wait for it."""

    def __init__(self, index: int, nbytes: int) -> None:
        self.nbytes = nbytes
        self._index = index
        with cuda.on(index):
            self.ptr = cuda.runtime().malloc(nbytes)

    def write(self, data: npt.NDArray[Any], offset: int = 0) -> None:
        """See Scratch."""
        data = np.ascontiguousarray(data)
        self._move(self.ptr + offset, data.ctypes.data, data.nbytes)

    def read(self, nbytes: int, offset: int = 0) -> npt.NDArray[np.uint8]:
        """See Scratch."""
        data = np.empty(nbytes, dtype=np.uint8)
        self._move(data.ctypes.data, self.ptr + offset, nbytes)
        return data

    def close(self) -> None:
        """See Scratch."""
        if self.ptr:
            with cuda.on(self._index):
                cuda.runtime().free(self.ptr)
            self.ptr = 0

    def _move(self, dst: int, src: int, nbytes: int) -> None:
        with cuda.on(self._index):
            stream = cuda.cupy().cuda.Stream(non_blocking=True)
            cuda.runtime().memcpyAsync(dst, src, nbytes, _BY_POINTERS, stream.ptr)
            stream.synchronize()


class DeviceCopier(Copier):
    """Copies between addresses that one GPU reaches: its own memory, mapped peers', pinned host memory.

    `batch` needs a driver of CUDA 12.8. Host memory that is not pinned is refused by kernels, and slow elsewhere.
    """

    outgoing: DeviceStream
    incoming: DeviceStream

    def __init__(self, device: str | int, thresholds: Thresholds, staging_bytes: int) -> None:
        self._index = cuda.index_of(device)
        super().__init__(cuda.uuid_of(self._index), thresholds, staging_bytes)
        self._paths["kernel"] = self._kernel
        if batch.function() is None:
            del self._paths["batch"]
        self.outgoing, self.incoming = self._stream(), self._stream()

    def compute(self, handle: int = 0) -> DeviceStream:
        """See Copier; for torch, `torch.cuda.current_stream().cuda_stream`."""
        return DeviceStream(self._index, handle)

    def checksums(self, starts: npt.ArrayLike, sizes: npt.ArrayLike, stream: Stream) -> Int64s:
        """See Copier."""
        if not (isinstance(stream, DeviceStream) and stream.own):
            raise ValueError("checksums run on the copier's own streams: outgoing or incoming")
        with cuda.on(self._index):
            return kernels.weigh(starts, sizes, stream.own)

    def scratch(self, nbytes: int) -> DeviceScratch:
        """See Copier."""
        return DeviceScratch(self._index, nbytes)

    def close(self) -> None:
        """See Copier."""
        with cuda.on(self._index):
            self.outgoing.own.synchronize()
            self.incoming.own.synchronize()
        super().close()

    def _stream(self) -> DeviceStream:
        with cuda.on(self._index):
            own = cuda.cupy().cuda.Stream(non_blocking=True, priority=_LOWEST_PRIORITY)
        return DeviceStream(self._index, int(own.ptr), own)

    def _issue(self, path: CopyPath, copies: Descriptors, stream: DeviceStream, stable: bool) -> None:
        with cuda.on(self._index):
            path(copies, stream, stable)

    def _loop(self, copies: Descriptors, stream: DeviceStream, stable: bool) -> None:
        copy = cuda.runtime().memcpyAsync
        for src, dst, nbytes in copies.rows():
            copy(dst, src, nbytes, _BY_POINTERS, stream.handle)

    def _batch(self, copies: Descriptors, stream: DeviceStream, stable: bool) -> None:
        batch.submit(merge_runs(copies), stream.handle, stable)

    def _kernel(self, copies: Descriptors, stream: DeviceStream, stable: bool) -> None:
        self._scattered(copies, stream)

    def _scattered(self, copies: Descriptors, stream: DeviceStream) -> None:
        for pointer in (int(copies.src[0]), int(copies.dst[0])):
            if cuda.runtime().pointerGetMemoryType(pointer) == _UNREGISTERED:
                raise CopyError(f"kernels reach pinned host memory only, and {pointer:#x} is not pinned")
        kernels.copy(copies, stream.own)
