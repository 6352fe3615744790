"""What copies blocks: paths by name, streams that keep order, events that tell when a copy is done."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from aquasim.runtime.copy.choose import Thresholds, choose
from aquasim.runtime.copy.descriptors import Descriptors, Int64s, merge_runs, staged

POLL = 20e-6  # seconds between two looks at an event that somebody waits for


class CopyError(RuntimeError):
    """A copy failed, or the machine lacks what a path needs; the text says which. `code` is CUDA's, or 0."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Event(ABC):
    """A moment on a stream: done once everything submitted before it is done."""

    @abstractmethod
    def done(self) -> bool:
        """Tell whether the moment has come, without waiting; raises CopyError when the work before it failed."""

    @abstractmethod
    def since(self, earlier: "Event") -> float:
        """Return the seconds from `earlier`, another done event of the same copier, to this done one."""

    def wait(self, timeout: float | None = None) -> None:
        """Block the caller until done; raises TimeoutError after `timeout` seconds, and what `done` raises."""
        limit = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            if limit is not None and time.monotonic() > limit:
                raise TimeoutError(f"the event was not done after {timeout} s")
            time.sleep(POLL)


class Stream(ABC):
    """Work in order. A copier's own streams run beside the caller; `Copier.compute` is somebody else's stream."""

    @abstractmethod
    def record(self) -> Event:
        """Return an event for everything submitted so far."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """Start nothing submitted from now on before `event` is done; on a copier's stream the caller goes on."""


class Scratch(ABC):
    """Memory of the copier's own, at `ptr`, freed on close: for staging, and for patterns that check a path."""

    ptr: int
    nbytes: int

    @abstractmethod
    def write(self, data: npt.NDArray[Any], offset: int = 0) -> None:
        """Put `data` at `offset` and wait until it is there."""

    @abstractmethod
    def read(self, nbytes: int, offset: int = 0) -> npt.NDArray[np.uint8]:
        """Return a copy of `nbytes` bytes from `offset`."""

    @abstractmethod
    def close(self) -> None:
        """Free it; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


CopyPath = Callable[[Descriptors, Any, bool], None]
_STAGED = ("gather", "scatter")


class Copier(ABC):
    """Copies of one device, on two streams of its own: `outgoing` and `incoming`, so that both directions overlap.

    Paths: `loop` (one copy per descriptor), `batch` (one call for all, runs joined), `kernel` (GPUs: threads copy),
    `gather` (small blocks to one staging buffer, then few large copies) and `scatter` (the other way round).
    One thread may use a copier. Streams never synchronise with a default stream.
    """

    device: str
    thresholds: Thresholds
    outgoing: Stream
    incoming: Stream

    def __init__(self, device: str, thresholds: Thresholds, staging_bytes: int) -> None:
        self.device = device
        self.thresholds = thresholds
        self._staging_bytes = staging_bytes
        self._staging: dict[int, Scratch] = {}
        self._closed = False
        self._paths: dict[str, CopyPath] = {
            "loop": self._loop,
            "batch": self._batch,
            "gather": self._gather,
            "scatter": self._scatter,
        }

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the paths that work here."""
        return tuple(self._paths)

    def path_for(self, copies: Descriptors) -> str:
        """Name the path that `auto` takes for `copies`; one that is missing here becomes `loop`."""
        path = choose(copies.nbytes / max(len(copies), 1), len(copies), self.thresholds)
        return path if path in self._paths else "loop"

    def submit(
        self, copies: Descriptors, stream: Stream, path: str = "auto", *, stable: bool = False
    ) -> Event:
        """Queue `copies` on one of this copier's two streams and return the event of their end.

        `stable` promises that the sources are complete already and stay as they are until the end, so that they may
        be read before earlier work of the stream is done: right for swapping in, never for swapping out, where the
        compute stream may still be writing them (vLLM PR#39306). Destinations are always written in stream order.
        Raises ValueError for overlapping copies, an unknown path or a foreign stream; CopyError after close and for
        what the device reports.
        """
        if self._closed:
            raise CopyError(f"the copier for {self.device} is closed")
        if stream not in (self.outgoing, self.incoming):
            raise ValueError("copies go on the copier's own streams: outgoing or incoming")
        path = self.path_for(copies) if path == "auto" else path
        if path not in self._paths:
            raise ValueError(f"no path {path!r} on {self.device}; valid are {', '.join(self._paths)}")
        copies.refuse_overlap()
        if path in _STAGED and len(copies) and copies.sizes.max() > self._staging_bytes:
            raise ValueError(
                f"{path}: a descriptor exceeds the staging buffer of {self._staging_bytes} bytes"
            )
        if len(copies):
            self._issue(self._paths[path], copies, stream, stable)
        return stream.record()

    @abstractmethod
    def compute(self, handle: int = 0) -> Stream:
        """Return somebody else's stream, by its raw handle, to record events on it and to let it wait for ours.

        On the CPU it stands for the caller itself: what it has done is done, and its waits block.
        """

    @abstractmethod
    def checksums(self, starts: npt.ArrayLike, sizes: npt.ArrayLike, stream: Stream) -> Int64s:
        """Return `checksum` of each stretch, after the work on `stream` so far; blocks the caller."""

    @abstractmethod
    def scratch(self, nbytes: int) -> Scratch:
        """Allocate memory near the copies: on the device, or in host memory for the CPU."""

    def close(self) -> None:
        """Wait for what was submitted, then free streams and staging; closing twice is harmless."""
        self._closed = True
        while self._staging:
            self._staging.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _issue(self, path: CopyPath, copies: Descriptors, stream: Any, stable: bool) -> None: ...

    @abstractmethod
    def _loop(self, copies: Descriptors, stream: Any, stable: bool) -> None: ...

    @abstractmethod
    def _batch(self, copies: Descriptors, stream: Any, stable: bool) -> None: ...

    @abstractmethod
    def _scattered(self, copies: Descriptors, stream: Any) -> None:
        """Copy many small blocks within reach of the device."""

    def _gather(self, copies: Descriptors, stream: Any, stable: bool) -> None:
        for collect, send in self._staged(copies, stream):
            self._scattered(collect, stream)
            self._loop(merge_runs(send), stream, False)

    def _scatter(self, copies: Descriptors, stream: Any, stable: bool) -> None:
        for fetch, spread in self._staged(copies, stream):
            self._loop(merge_runs(fetch), stream, stable)
            self._scattered(spread, stream)

    def _staged(self, copies: Descriptors, stream: Any) -> Any:
        """Stream order keeps rounds apart that share the buffer; each stream has one of its own."""
        key = id(stream)
        if key not in self._staging:
            self._staging[key] = self.scratch(self._staging_bytes)
        return staged(copies, self._staging[key].ptr, self._staging_bytes)
