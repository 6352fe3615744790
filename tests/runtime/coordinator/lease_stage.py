"""Real processes, sockets and shared memory: donors, consumers and coordinators that can be killed and stopped."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from partner import hear, say  # noqa: E402

from aquasim.runtime.coordinator import query  # noqa: E402
from aquasim.runtime.coordinator.identity import started  # noqa: E402

PATIENCE = 10.0
LEASE_S = 0.8


class Actor:
    """A forged process, and our connection to it."""

    def __init__(self, forge: Path, **options: Any) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(forge))
        say(self.sock, options)
        try:
            self.pid = hear(self.sock)
        except EOFError:
            self.sock.close()
            raise
        self.stopped = False

    def ask(self, verb: str, *words: Any) -> Any:
        """Run a command, return its answer; an error is a RuntimeError of its text."""
        say(self.sock, [verb, *words])
        answer = hear(self.sock)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def signal(self, number: int) -> None:
        """Send a signal; wait until death if it is SIGKILL."""
        os.kill(self.pid, number)
        self.stopped = number == signal.SIGSTOP
        if number == signal.SIGKILL:
            eventually(lambda: started(self.pid) is None)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def go(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return started(self.pid) is not None

    def end(self) -> None:
        """Kill it if need be, and hang up."""
        if self.alive:
            self.kill()
        self.sock.close()


class Stage:
    """A folder for one coordinator's socket, and everybody who meets there."""

    def __init__(self, forge: Path, folder: Path) -> None:
        self.forge = forge
        self.folder = folder
        self.path = folder / "c.sock"
        self.actors: list[Actor] = []

    def start(self, role: str, name: str, **options: Any) -> Actor:
        """Start a process."""
        log = str(self.folder / f"{role}.log")
        self.actors.append(
            Actor(self.forge, role=role, log=log, path=str(self.path), **options | self._name(role, name))
        )
        return self.actors[-1]

    def _name(self, role: str, name: str) -> dict[str, str]:
        return {} if role == "coordinator" else {"name": name}

    def coordinator(self, **options: Any) -> Actor:
        """Start a coordinator and wait until it listens."""
        times = {} if "only" in options else {"lease_s": LEASE_S, "drain_s": 0.4}
        actor = self.start("coordinator", "", **times | options)
        assert eventually(self.listens)
        return actor

    def listens(self) -> bool:
        """Whether a coordinator takes connections."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return self.path.exists() and sock.connect_ex(str(self.path)) == 0

    def donor(self, name: str = "d0", **options: Any) -> Actor:
        """Start a donor with extents of 1 MiB."""
        return self.start("donor", name, **{"extent_bytes": 1 << 20} | options)

    def consumer(self, name: str = "c0", **options: Any) -> Actor:
        """Start a consumer; it leaves extents when told unless `obey` is False."""
        return self.start("consumer", name, **options)

    def status(self) -> dict[str, Any]:
        """What the coordinator shows."""
        found: dict[str, Any] = json.loads(query(self.path, "status"))
        return found

    def states(self) -> list[str]:
        """States of all extents."""
        return [extent["state"] for extent in self.status()["extents"]]

    def logs(self) -> str:
        """What everybody has logged, down to the least."""
        return "".join(path.read_text() for path in self.folder.glob("*.log"))


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Look until a condition holds; tell whether it did in time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@contextmanager
def forging(program: Path) -> Iterator[Path]:
    """Run a server that makes processes; give its address."""
    folder = Path(tempfile.mkdtemp(prefix="aqf"))
    path = folder / "forge"
    server = subprocess.Popen([sys.executable, str(program), str(path)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield path
    server.kill()
    server.communicate()
    shutil.rmtree(folder)


def check_logs(logs: str) -> None:
    """Show what was logged if the test fails; no handle's text and no error may be in it."""
    print("\n".join(line for line in logs.splitlines() if not line.startswith("DEBUG")))
    assert "aquasim.arena/" not in logs
    assert "Traceback" not in logs, logs
