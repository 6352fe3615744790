"""A coordinator and a donor of our own, for a run that needs a peer's memory and is given none."""

import ctypes
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aquasim.errors import UserError

MIB = 1 << 20
PATIENCE_S = 20.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


@contextmanager
def lending(nbytes: int, folder: Path | None = None) -> Iterator[Path]:
    """Give the socket of a coordinator at which another process lends `nbytes` bytes, rounded up to MiB.

    Both run in a private folder (of `folder`, or the system's temporary one), and are gone when the block is left,
    however that happens; should this process be killed, the kernel ends them.

    Raises:
        UserError: one of them does not start.
    """
    place = Path(tempfile.mkdtemp(prefix="aquasim-lend-", dir=folder))
    started: list[subprocess.Popen[str]] = []
    try:
        socket = place / "coordinator.sock"
        mib = -(-nbytes // MIB)
        started.append(_start("coordinator", "--socket", str(socket)))
        _hear(started[-1], "listening")
        words = ("--gib", repr(mib / 1024), "--extent-mib", str(mib), "--name", "own-donor")
        started.append(_start("donate", *words, "--socket", str(socket)))
        _hear(started[-1], "lends")
        yield socket
    finally:
        for process in reversed(started):
            _end(process)
        shutil.rmtree(place, ignore_errors=True)


def _start(*words: str) -> "subprocess.Popen[str]":
    """Start an `aquasim` command that no terminal interrupts and that does not outlive us."""
    command = [sys.executable, "-m", "aquasim.runtime.local.lend", str(os.getpid()), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def _hear(process: "subprocess.Popen[str]", word: str) -> None:
    """Wait for a line with `word`; UserError with what the process says instead."""
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = next((text for text in process.stdout if word in text), None)
    finally:
        timer.cancel()
    if line is None:
        said = process.communicate()[1].strip().splitlines()
        raise UserError(f"a process that lends memory did not start: {said[-1] if said else 'no answer'}")


def _end(process: "subprocess.Popen[str]") -> None:
    """Ask it to leave, then make it."""
    process.terminate()
    try:
        process.communicate(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _main(parent: int, words: list[str]) -> None:
    """Run an `aquasim` command that ends when `parent` does."""
    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we could ask for the signal
        sys.exit(1)
    sys.argv = ["aquasim", *words]
    runpy.run_module("aquasim", run_name="__main__")


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
