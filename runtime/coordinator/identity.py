"""Who a process is, provably: its PID and the moment it started make the `run` of its name.

A PID comes back some day, a PID with a start time never does (proc_pid_stat(5): ticks since boot). So anybody on the
machine can prove from a `Process` alone that it is dead: also a coordinator that started after it died.
"""

import os
import select
import socket
import struct
from errno import EINVAL, ENOENT, ESRCH
from itertools import count
from pathlib import Path
from typing import NamedTuple

from aquasim.core.leases import Process

_PID_BITS = 22  # the kernel's PID_MAX_LIMIT is 2**22
_SERIAL_BITS = 10
_SERIALS = count()
_CREDENTIALS = struct.Struct("3i")
_START = 19  # starttime is field 22; the two first are cut off with the name, which may contain anything


class Life(NamedTuple):
    """A process of the operating system: its PID, and when it started (clock ticks since boot)."""

    pid: int
    start: int


class Peer(NamedTuple):
    """Who connected a socket, as the kernel says."""

    pid: int
    uid: int


def started(pid: int) -> int | None:
    """Return when a process started (ticks), or None where there is none of that PID."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[_START])


def own(name: str) -> Process:
    """Name a new client of this process; two clients of one process differ too."""
    start = started(os.getpid())
    assert start is not None, "a process that runs has a start time"
    serial = next(_SERIALS) % (1 << _SERIAL_BITS)
    return Process(name, ((start << _PID_BITS | os.getpid()) << _SERIAL_BITS) | serial)


def life(process: Process) -> Life:
    """Return PID and start time of a process that `own` named."""
    word = process.run >> _SERIAL_BITS
    return Life(word & ((1 << _PID_BITS) - 1), word >> _PID_BITS)


def peer(sock: socket.socket) -> Peer:
    """Return who connected, by SO_PEERCRED; a PID of 0 is one in a PID namespace that we do not see."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, uid)


def doubt(process: Process, peer: Peer) -> str | None:
    """Say why the process at the other end of a socket cannot be who it says, or None."""
    claimed = life(process)
    if peer.pid != claimed.pid:
        return (
            f"it calls itself PID {claimed.pid} and is seen as {peer.pid}: coordinator, donors and consumers have to "
            "share a PID namespace (docker run --pid=..., hostPID), for CUDA IPC too"
        )
    if started(peer.pid) != claimed.start:
        return f"PID {peer.pid} did not start when it says: another process, or another time namespace"
    return None


def open_pidfd(process: Process) -> int | None:
    """Return a pidfd, readable once the process is dead, or None if it is; raises OSError where neither can be told.

    The descriptor is opened first and the start time read after, so that a PID taken anew in between is noticed.
    """
    pid, start = life(process)
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (ESRCH, EINVAL, ENOENT):  # EINVAL: the number is now a thread's, or never was a PID
            return None
        raise
    try:
        found = started(pid)
        gone = _readable(fd) if found is None else found != start
        if found is None and not gone:
            raise OSError(f"PID {pid} is there and its start time is hidden (hidepid of /proc?)")
    except BaseException:
        os.close(fd)
        raise
    if gone:
        os.close(fd)
        return None
    return fd


def dead(process: Process) -> bool:
    """Tell whether a process is proven dead now; raises OSError where it cannot be told."""
    fd = open_pidfd(process)
    if fd is None:
        return True
    try:
        return _readable(fd)
    finally:
        os.close(fd)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
