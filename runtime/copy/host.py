"""Copies on the CPU: a thread per stream, so that submit, event and poll mean what they mean on a GPU."""

import ctypes
import mmap
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from aquasim.runtime.copy.checksum import checksum
from aquasim.runtime.copy.choose import HOST_THRESHOLDS, Thresholds
from aquasim.runtime.copy.copier import Copier, CopyError, CopyPath, Event, Scratch, Stream
from aquasim.runtime.copy.descriptors import Descriptors, Int64s, merge_runs

Work = Callable[[], object]


class HostEvent(Event):
    """Done once set: by a stream, or by whoever computes on the CPU."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._error: BaseException | None = None
        self._at = 0.0

    def set(self, error: BaseException | None = None) -> None:
        """Say that the moment has come, or that the work before it failed."""
        self._at, self._error = time.perf_counter(), error
        self._set.set()

    def done(self) -> bool:
        """See Event."""
        if self._set.is_set() and self._error is not None:
            raise CopyError(f"an earlier copy on this stream failed: {self._error}") from self._error
        return self._set.is_set()

    def wait(self, timeout: float | None = None) -> None:
        """See Event."""
        self._set.wait(timeout)
        if not self.done():
            raise TimeoutError(f"the event was not done after {timeout} s")

    def since(self, earlier: Event) -> float:
        """See Event."""
        if not (isinstance(earlier, HostEvent) and self.done() and earlier.done()):
            raise ValueError("times are between two done events of one copier")
        return self._at - earlier._at


class HostStream(Stream):
    """Work in the order of submission, on a thread. After a failure, later work is skipped and every event tells."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Work | HostEvent | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work | HostEvent) -> None:
        """Queue a call without arguments, or an event to set; raises CopyError after close."""
        if self._closed:
            raise CopyError("the stream is closed")
        self._queue.put(work)

    def record(self) -> HostEvent:
        """See Stream."""
        event = HostEvent()
        self.submit(event)
        return event

    def wait(self, event: Event) -> None:
        """See Stream; any kind of event will do."""
        self.submit(event.wait)

    def close(self) -> None:
        """Wait for the queued work and end the thread; closing twice is harmless."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, HostEvent):
                item.set(self._error)
            elif self._error is None:
                self._try(item)

    def _try(self, work: Work) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the events that follow tell it
            self._error = error


class Caller(Stream):
    """The caller's own work on the CPU: done when control returns, so that waiting means blocking."""

    def record(self) -> HostEvent:
        """See Stream."""
        event = HostEvent()
        event.set()
        return event

    def wait(self, event: Event) -> None:
        """See Stream."""
        event.wait()


class HostScratch(Scratch):
    """Anonymous memory of this process."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._map = mmap.mmap(-1, nbytes)
        self.ptr = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def write(self, data: npt.NDArray[Any], offset: int = 0) -> None:
        """See Scratch."""
        self._map.seek(offset)
        self._map.write(data.tobytes())

    def read(self, nbytes: int, offset: int = 0) -> npt.NDArray[np.uint8]:
        """See Scratch."""
        return np.frombuffer(self._map[offset : offset + nbytes], dtype=np.uint8)

    def close(self) -> None:
        """See Scratch."""
        self._map.close()


class HostCopier(Copier):
    """Copies between addresses of this process, by memmove (without the interpreter's lock) on two threads."""

    outgoing: HostStream
    incoming: HostStream

    def __init__(self, thresholds: Thresholds = HOST_THRESHOLDS, staging_bytes: int = 16 << 20) -> None:
        super().__init__("cpu", thresholds, staging_bytes)
        self.outgoing = HostStream("copy-outgoing")
        self.incoming = HostStream("copy-incoming")

    def compute(self, handle: int = 0) -> Caller:
        """See Copier; the handle means nothing here."""
        return Caller()

    def checksums(self, starts: npt.ArrayLike, sizes: npt.ArrayLike, stream: Stream) -> Int64s:
        """See Copier."""
        stream.record().wait()
        pairs = zip(np.asarray(starts).tolist(), np.asarray(sizes).tolist(), strict=True)
        return np.array([checksum(start, nbytes) for start, nbytes in pairs], dtype=np.int64)

    def scratch(self, nbytes: int) -> HostScratch:
        """See Copier."""
        return HostScratch(nbytes)

    def close(self) -> None:
        """See Copier."""
        self.outgoing.close()
        self.incoming.close()
        super().close()

    def _issue(self, path: CopyPath, copies: Descriptors, stream: HostStream, stable: bool) -> None:
        stream.submit(lambda: path(copies, stream, stable))

    def _loop(self, copies: Descriptors, stream: HostStream, stable: bool) -> None:
        for src, dst, nbytes in copies.rows():
            ctypes.memmove(dst, src, nbytes)

    def _batch(self, copies: Descriptors, stream: HostStream, stable: bool) -> None:
        self._loop(merge_runs(copies), stream, stable)

    def _scattered(self, copies: Descriptors, stream: HostStream) -> None:
        self._loop(copies, stream, False)
