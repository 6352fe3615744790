"""One simulation at a time, in a process of its own, which newer input ends: nobody waits for a stale answer."""

import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from aquasim.explore.answer import Job
from aquasim.processes import undisturbed

LONGEST_S = 30.0
"""Seconds after which a simulation is given up."""


class StaleError(Exception):
    """Newer input came while this one was simulated."""


class Worker:
    """A process that answers jobs; imports are done before the first one comes."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with undisturbed():  # Ctrl-C is the server's alone
            self._process.start()
        theirs.close()

    def ask(self, job: Job) -> dict[str, Any]:
        """Return the answer; an error where it takes too long.

        Raises:
            EOFError, OSError: the process is gone.
        """
        self.connection.send(job)
        if not self.connection.poll(LONGEST_S):
            self.kill()
            return {"error": f"took longer than {LONGEST_S:g} s: fewer requests, or more memory"}
        found: dict[str, Any] = self.connection.recv()
        return found

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()


class Workers:
    """A worker that simulates, and one that is ready for when the first is ended."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._busy: Worker | None = None
        self._ready: list[Worker] = [Worker()]

    def run(self, job: Job) -> dict[str, Any]:
        """Answer a job, ending the one under way.

        Raises:
            StaleError: a newer job came meanwhile.
        """
        worker = self._take()
        try:
            found = worker.ask(job)
        except (EOFError, OSError):
            found = {"error": "the process that simulates died: out of memory?"}
        with self._lock:
            if self._busy is not worker:
                raise StaleError
            self._busy = None
            if worker.alive:
                self._ready.append(worker)
            return found

    def _take(self) -> Worker:
        with self._lock:
            if self._busy is not None:
                self._busy.kill()
            worker = self._busy = self._ready.pop() if self._ready else Worker()
            if not self._ready:
                self._ready.append(Worker())
            return worker

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            for worker in (*self._ready, *([self._busy] if self._busy else [])):
                worker.kill()
            self._ready, self._busy = [], None


def _serve(connection: Connection) -> None:
    """Answer jobs until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from aquasim.explore.answer import answer

    _warm()
    while True:
        try:
            job = connection.recv()
            connection.send(answer(job))
        except (EOFError, OSError):
            return


def _warm() -> None:
    """Import what answers need."""
    import altair  # noqa: F401

    import aquasim.figures.distributions
    import aquasim.figures.load
    import aquasim.report.headline
    import aquasim.sim.simulate  # noqa: F401
