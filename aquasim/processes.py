"""A pool of processes that an interrupt ends at once."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

from aquasim.errors import UserError


class Pool(ProcessPoolExecutor):
    """Ctrl-C reaches a whole process group; only the process that waits answers it, its workers never see it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor. A worker that starts here inherits the mask."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
