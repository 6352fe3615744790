"""The command as a process of its own, and what a browser would send it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Explorer:
    """A running `aquasim explore`."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.port = int(url.rsplit(":", 1)[1].strip("/"))

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send one request; `Host` is the right one unless given (None: none at all)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            given = {"Host": f"127.0.0.1:{self.port}", **{k.replace("_", "-"): v for k, v in headers.items()}}
            if body is not None:
                given.setdefault("Content-Length", str(len(body)))
            for name, value in given.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            return Reply(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def simulate(self, values: Any, systems: Any) -> Reply:
        """Ask for an answer as the page does."""
        body = json.dumps({"values": values, "systems": systems}).encode()
        return self.ask("POST", "/simulate", body, Content_Type="application/json")


@contextmanager
def exploring(*words: object) -> Iterator[Explorer]:
    """Start the command, in a process group of its own as a terminal does, and end it by a signal."""
    command = [sys.executable, "-m", "aquasim", "explore", "--no-browser", *map(str, words)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **streams) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("http://"):
            raise AssertionError((line, process.communicate(timeout=20)))
        yield Explorer(process, line.strip())
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@pytest.fixture(scope="session")
def explorer() -> Iterator[Explorer]:
    """One for all tests that leave it as it is."""
    with exploring("--set", "workload.requests=60") as running:
        yield running


@pytest.fixture
def start() -> Callable[..., Any]:
    """Return what starts another one."""
    return exploring
