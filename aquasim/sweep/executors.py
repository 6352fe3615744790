"""Where batches run: processes of this machine, or a Ray cluster (`aquasim.sweep.cluster`)."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, Protocol

from aquasim.processes import Pool


class WorkerLost(BrokenExecutor):
    """The process or node that ran a batch died."""


class Backend(Protocol):
    """Executors of one kind, one after the other: a broken one is replaced."""

    workers: int
    """Batches that run at a time."""

    @property
    def executor(self) -> Executor:
        """The one to submit to."""

    def renew(self) -> None:
        """Replace an executor that is broken."""


class Local:
    """Processes of this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.executor: Executor = self._pool()

    def _pool(self) -> Pool:
        context = get_context("spawn")  # a fork of a process with threads (pyarrow, Ray) may hang
        return Pool(self.workers, mp_context=context, initializer=_end_with_parent)

    def renew(self) -> None:
        """Start new processes in place of those that broke."""
        self.executor.shutdown(wait=True, cancel_futures=True)
        self.executor = self._pool()


class Here:
    """This very process: no other starts, for one worker and for tests."""

    workers = 1

    def __init__(self) -> None:
        self.executor: Executor = _Inline()

    def renew(self) -> None:
        """Nothing can break."""


class _Inline(Executor):
    """Runs what is submitted at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def local(workers: int) -> Iterator[Backend]:
    """Give processes; whatever leaves the block with an exception ends them and their work at once."""
    if workers == 1:
        yield Here()
        return
    backend = Local(workers)
    try:
        yield backend
    except BaseException:
        backend.executor.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise
    finally:
        backend.executor.shutdown()


def _end_with_parent() -> None:
    """Let a worker end when whoever waits for it was killed; it would wait for work for ever."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
