"""A pool of processes that an interrupt ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, resource_tracker
from typing import Any

from aquasim.errors import UserError


class Pool(ProcessPoolExecutor):
    """Ctrl-C reaches a whole process group; only the process that waits answers it, its workers never see it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor. Workers start here."""
        with undisturbed():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put off SIGINT; a process that is started meanwhile never sees it.

    The mask is for the process that inherits it. Here it is not enough: the system may give the signal to any other
    thread, of a library perhaps, and Python answers it all the same.
    """
    resource_tracker.ensure_running()  # the first process would start it, which lets SIGINT through again
    caught: list[int] = []
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number)) if here else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if here:
            signal.signal(signal.SIGINT, handler)
        if caught:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def processes(count: int) -> Iterator[Pool]:
    """Give a pool of `count` processes; whatever leaves the block with an exception ends them and their work.

    Raises:
        UserError: a process died.
    """
    pool = Pool(count, mp_context=get_context("spawn"))
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError("a process that simulates died: out of memory? (--workers 1 needs least)") from None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown()
