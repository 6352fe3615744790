"""What works on this machine: arenas measured between two processes, namespaces, limits, the socket's folder."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from aquasim.core.leases import Extent, Lease, Process
from aquasim.runtime.arenas import ArenaError, available, recv_handle
from aquasim.runtime.coordinator import folder, identity
from aquasim.runtime.copy import CopyError, open_copier
from aquasim.runtime.donor.room import group_limits
from aquasim.runtime.peers.mapped import Mapped, map_extent

SCHEMA = "aquasim.doctor/1"
GIB = 1 << 30
PROBE_BYTES = 64 << 20
PATIENCE_S = 60.0
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # proc_ns.h: the namespaces that a kernel starts with
_FIRST_TIME_NAMESPACE = 0xEFFFFFFA
_NOFILE = 4096


def examine(path: Path) -> dict[str, Any]:
    """Return what was found as plain values; `path` is where the coordinator would listen."""
    return {
        "schema": SCHEMA,
        "arenas": [_arena(name, reason) for name, reason in available().items()],
        "checks": [*_namespaces(), _proof(), *_memory(), _files(), *_socket(path)],
    }


# --- arenas --------------------------------------------------------------------------------------------------


def _arena(backend: str, reason: str | None) -> dict[str, Any]:
    """Lend and map memory of one back end; what works was written and read back between two processes."""
    row: dict[str, Any] = {"backend": backend, "works": False, "reason": reason, "transport": None}
    row |= {"write_bytes_per_s": None, "read_bytes_per_s": None}
    if reason is not None:
        return row
    try:
        mapped = _try(backend)
    except (ArenaError, CopyError, OSError) as error:
        return row | {"reason": str(error)}
    rate = mapped.rate
    row |= {"works": True, "transport": mapped.transport}
    return row | {"write_bytes_per_s": int(rate.write), "read_bytes_per_s": int(rate.read)}


def _try(backend: str) -> Mapped:
    """Have another process lend, map it here, probe it, and close it again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.settimeout(PATIENCE_S)
    with ours:
        with theirs:
            words = [sys.executable, "-m", "aquasim.runtime.peers.lender", str(theirs.fileno()), backend]
            child = subprocess.Popen(
                [*words, str(PROBE_BYTES)], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
            )
        try:
            return _borrow(ours, backend, child)
        finally:
            ours.close()
            child.kill()
            child.communicate()


def _borrow(sock: socket.socket, backend: str, child: "subprocess.Popen[str]") -> Mapped:
    try:
        handle = recv_handle(sock)
    except ArenaError:
        child.wait(PATIENCE_S)
        lines = (child.stderr.read() if child.stderr else "").splitlines()
        raise ArenaError(f"the lending process failed: {lines[-1] if lines else child.returncode}") from None
    here = Process("doctor")
    lease = Lease(Extent(here, 0), 1, PROBE_BYTES, here, 0)
    with handle, open_copier(0 if backend.startswith("cuda") else "cpu") as copier:
        mapped = map_extent(lease, handle, copier, (4 << 10, PROBE_BYTES))
    mapped.mapping.close()
    return mapped


# --- traps ---------------------------------------------------------------------------------------------------


def _check(name: str, ok: bool | None, text: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "text": text}


def _namespaces() -> list[dict[str, Any]]:
    """Containers: CUDA IPC and proofs of death need one PID namespace, leases one clock (vLLM PR#55906)."""
    rows = []
    for kind, first, what in (
        (
            "pid",
            _FIRST_PID_NAMESPACE,
            "coordinator, donors and consumers must share it, CUDA IPC needs that too",
        ),
        (
            "time",
            _FIRST_TIME_NAMESPACE,
            "coordinator, donors and consumers must share it: leases go by one clock",
        ),
    ):
        try:
            own = os.stat(f"/proc/self/ns/{kind}").st_ino
        except OSError as error:
            rows.append(_check(f"{kind} namespace", None, f"cannot be told: {error.strerror}"))
            continue
        text = "the machine's own" if own == first else f"a container's ({own}): {what}"
        rows.append(_check(f"{kind} namespace", True if own == first else None, text))
    return rows


def _proof() -> dict[str, Any]:
    """Whether deaths can be proven, without which no memory of the dead comes back."""
    try:
        alive = not identity.dead(identity.own("doctor"))
    except (OSError, AttributeError, AssertionError) as error:
        return _check("proof of death", False, f"needs pidfd_open (Linux 5.3) and /proc: {error}")
    return _check("proof of death", alive, "pidfds and start times" if alive else "we look dead to ourselves")


def _memory() -> list[dict[str, Any]]:
    """Host memory counts for the control group of the process that touched it first: the donor's."""
    rows = []
    for _, limit, used in group_limits():
        text = f"{(limit - used) / GIB:.1f} GiB left of {limit / GIB:.1f}; donated host memory counts for its donor"
        rows.append(_check("cgroup memory", None, text))
    return rows or [_check("cgroup memory", True, "no limit")]


def _files() -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= _NOFILE or soft == resource.RLIM_INFINITY
    text = f"{soft} at a time (hard limit {hard})" + (
        "" if enough else "; a donor needs one per extent: ulimit -n"
    )
    return _check("open files", True if enough else None, text)


def _socket(path: Path) -> list[dict[str, Any]]:
    """The coordinator's folder and socket: ours, and nobody else's."""
    if not path.parent.exists():
        return [
            _check(
                "socket folder",
                True,
                f"{path.parent} does not exist yet; the coordinator makes it, mode 0700",
            )
        ]
    wrong = folder.trouble(path.parent)
    rows = [_check("socket folder", wrong is None, wrong or f"{path.parent}: ours, mode 0700")]
    if path.is_socket():
        mode = path.stat().st_mode & 0o777
        rows.append(_check("socket", mode == 0o600, f"{path}: mode {mode:04o}"))
    return rows
