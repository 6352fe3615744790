"""Processes of ours, and waiting for what they do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable


def spawn(*words: str) -> "subprocess.Popen[bytes]":
    """Start a command of ours, silent."""
    return subprocess.Popen(
        [sys.executable, "-m", "aquasim", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def eventually(condition: Callable[[], object], seconds: float = 30.0, nap: float = 0.01) -> None:
    """Wait for a condition; fail if it never comes."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(nap)
