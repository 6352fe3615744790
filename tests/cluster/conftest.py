"""A Ray cluster of two nodes on this machine, whose processes all end with the tests."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_initial_delay_ms": "2000",
}


class Ray:
    """Nodes with one core each, without a dashboard; nodes are sets of processes found by their parents."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = tempfile.mkdtemp(prefix="aq", dir="/tmp")  # paths of sockets must be short
        self.nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.split(":")[1]
        self.start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self.start(f"--address={self.address}")

    def start(self, *words: str) -> None:
        """Start a node and wait until it listens."""
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--num-cpus=1",
            "--num-gpus=0",
        ]
        more = ["--object-store-memory=80000000", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        with open(Path(self.folder) / f"node{len(self.nodes)}.txt", "wb") as out:
            node = subprocess.Popen(
                [*command, *more, *words],
                stdout=out,
                stderr=out,
                env=os.environ | QUIET,
                start_new_session=True,
            )
        self.nodes.append(node)
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in Path(out.name).read_bytes():
            assert node.poll() is None, Path(out.name).read_text()
            assert time.monotonic() < deadline, Path(out.name).read_text()
            time.sleep(0.1)

    def kill(self, index: int) -> None:
        """Kill every process of a node at once, as a power cut would."""
        for pid in [self.nodes[index].pid, *descendants(self.nodes[index].pid)]:
            _kill(pid)
        self.nodes[index].wait()

    def workers(self) -> list[int]:
        """Return the processes that run tasks of aquasim, of all nodes."""
        found = [pid for node in self.nodes for pid in descendants(node.pid)]
        return [pid for pid in found if _name(pid).startswith(("ray::_call", "ray::IDLE"))]

    def stop(self) -> None:
        """End everything."""
        for index in range(len(self.nodes)):
            self.kill(index)
        shutil.rmtree(self.folder, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, below) for found in (child, *descendants(child))]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Ray]:
    """Give a cluster; skip where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    cluster = Ray()
    everything = [pid for node in cluster.nodes for pid in descendants(node.pid)]
    try:
        yield cluster
    finally:
        everything += [pid for node in cluster.nodes for pid in descendants(node.pid)]
        cluster.stop()
        for pid in everything:
            if "ray" in _name(pid):
                _kill(pid)
        deadline = time.monotonic() + 10
        while any("ray" in _name(pid) for pid in everything):
            assert time.monotonic() < deadline, "processes of Ray are left"
            time.sleep(0.1)
