"""Proof of death by pidfd, whether or not a process ever connected."""

import asyncio
import os
from collections.abc import Callable

from aquasim.core.leases import Process
from aquasim.runtime.coordinator import identity

RETRY_S = 1.0


class Deaths:
    """Calls `died` once for each watched process that is dead, from the event loop and never from `watch`.

    A closed connection or silence proves nothing and is not looked at.
    """

    def __init__(self, died: Callable[[Process], None]) -> None:
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._fds: dict[Process, int] = {}
        self._closed = False

    def watch(self, process: Process) -> None:
        """Watch a process that is not watched yet."""
        if self._closed or process in self._fds:
            return
        try:
            fd = identity.open_pidfd(process)
        except OSError:  # no descriptors left, say: nothing is proven, so ask again
            self._loop.call_later(RETRY_S, self.watch, process)
            return
        if fd is None:
            self._loop.call_soon(self._tell, process)
        else:
            self._fds[process] = fd
            self._loop.add_reader(fd, self._gone, process)

    def close(self) -> None:
        """Watch nobody any more."""
        self._closed = True
        for process in list(self._fds):
            self._drop(process)

    def _gone(self, process: Process) -> None:
        self._drop(process)
        self._tell(process)

    def _drop(self, process: Process) -> None:
        fd = self._fds.pop(process)
        self._loop.remove_reader(fd)
        os.close(fd)

    def _tell(self, process: Process) -> None:
        if not self._closed:
            self._died(process)
