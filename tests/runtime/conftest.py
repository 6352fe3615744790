"""Other processes to share memory with, and file descriptors that must not leak."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aquasim.runtime.arenas import ArenaError, available

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from partner import hear, say  # noqa: E402


class Process:
    """A partner process, and our end of the socket to it."""

    def __init__(self, device: str | int) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        with theirs:
            words = [sys.executable, str(HERE / "partner.py"), str(theirs.fileno()), str(device)]
            self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
        assert hear(self.sock) == "ready"

    def say(self, verb: str, *words: Any) -> None:
        """Send a command."""
        say(self.sock, [verb, *words])

    def answer(self) -> Any:
        """Return what the command gave; raises ArenaError where it did."""
        reply = hear(self.sock)
        if "error" in reply:
            raise ArenaError(reply["error"])
        return reply["ok"]

    def ask(self, verb: str, *words: Any) -> Any:
        """Send a command and return its answer."""
        self.say(verb, *words)
        return self.answer()

    def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def close(self) -> None:
        """End it by closing the socket."""
        self.sock.close()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


TORCH = ("engine", "host", "longprompt", "lora")
"""Folders whose GPU tests need nothing but torch."""


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: small products gain nothing from more, and lose much where cores are shared."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Give a function that starts a partner process for a device; all are ended after the test."""
    started: list[Process] = []

    def launch(device: str | int = "cpu") -> Process:
        started.append(Process(device))
        return started[-1]

    yield launch
    for process in started:
        process.close()


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """Give a function that counts this process's open file descriptors."""
    return lambda: len(os.listdir("/proc/self/fd"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say why."""
    missing = {HERE.name: available()["cuda-ipc"], "donor": available()["cuda-vmm"]}
    for item in items:
        if not item.get_closest_marker("gpu"):
            continue
        folder = item.path.parent.name
        why = _no_device() if folder in TORCH else missing.get(folder)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


def _no_device() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch finds no CUDA device"
