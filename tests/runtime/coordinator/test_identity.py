"""Who a process is and that it is dead: by PID and start time, from anywhere on the machine."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from lease_stage import eventually

from aquasim.core.leases import Process
from aquasim.runtime.coordinator import identity
from aquasim.runtime.coordinator.identity import Peer, dead, doubt, life, own, started


def child() -> "subprocess.Popen[bytes]":
    """Start a process that sleeps."""
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])


def process_of(pid: int) -> Process:
    """Name a process as it would name itself."""
    start = started(pid)
    assert start is not None
    return Process("child", (start << 22 | pid) << 10)


def test_a_process_knows_itself() -> None:
    """PID and start time come back out of the run number, and each name is another process."""
    first, second = own("a"), own("a")
    assert life(first) == life(second) == (os.getpid(), started(os.getpid()))
    assert first != second
    assert not dead(first)
    assert doubt(first, Peer(os.getpid(), os.getuid())) is None


def test_death_is_proven_and_stopping_is_none() -> None:
    """Stopped: alive. Killed, not even waited for: dead. Gone: dead."""
    with child() as running:
        process = process_of(running.pid)
        assert not dead(process)
        running.send_signal(signal.SIGSTOP)
        assert not dead(process)
        running.kill()
        assert eventually(lambda: dead(process))
        running.wait()
        assert dead(process)


def test_a_pid_that_was_taken_anew_is_somebody_else() -> None:
    """The same PID with another start time is another process: the one before is dead."""
    alive = own("a")
    before = Process("a", alive.run - (1 << 32))
    assert life(before).pid == os.getpid()
    assert dead(before)
    assert "did not start when it says" in str(doubt(before, Peer(os.getpid(), 0)))


@pytest.mark.parametrize("run", [0, 5, (1 << 22 | 3) << 10])
def test_numbers_that_are_no_process_are_dead(run: int) -> None:
    """PID 0 is nobody; nor is a PID with a start that never was."""
    assert dead(Process("a", run))


def test_a_pid_from_another_namespace_is_refused_with_a_hint() -> None:
    """What the kernel sees is not what the process calls itself."""
    assert "share a PID namespace" in str(doubt(own("a"), Peer(0, 0)))


def test_a_thread_is_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PID that is now a thread's number: its process is gone. Other errors are no proof."""

    def fail(number: int) -> Any:
        def pidfd_open(pid: int) -> int:
            raise OSError(number, os.strerror(number))

        return pidfd_open

    monkeypatch.setattr(os, "pidfd_open", fail(22))
    assert dead(own("a"))
    monkeypatch.setattr(os, "pidfd_open", fail(24))
    with pytest.raises(OSError, match="Too many open files"):
        dead(own("a"))


def test_a_process_that_is_hidden_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc shows no start time but the PID is there, nothing is proven."""
    monkeypatch.setattr(identity, "started", lambda pid: None)
    alive = Process("a", os.getpid() << 10)
    with pytest.raises(OSError, match="hidden"):
        dead(alive)


def test_looking_leaks_nothing() -> None:
    """Neither at the living nor at the dead."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        dead(own("a"))
        dead(Process("a", own("a").run - (1 << 32)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_with_anything_in_them_are_read_right() -> None:
    """The kernel's line holds the program's name, with spaces and brackets if it likes."""
    with subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-c",
            "open('/proc/self/comm', 'w').write(') R 1 (x'); import time; time.sleep(60)",
        ]
    ) as running:
        time.sleep(0.1)
        start = started(running.pid)
        assert start is not None
        assert start >= (started(os.getpid()) or 0)
        running.kill()
