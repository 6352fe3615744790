"""A small sweep, and ways to run it."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from aquasim.sweep.executors import Backend
from aquasim.sweep.plan import load_sweep
from aquasim.sweep.run import Outcome, backend, run_sweep

HERE: Callable[[], AbstractContextManager[Backend]] = partial(backend, 1, None)
TWO: Callable[[], AbstractContextManager[Backend]] = partial(backend, 2, None)

SMALL = """
scenario = "small-h100"
systems = ["fcfs", "aqua"]
seeds = 2
objectives = ["min ttft_p99", "max throughput"]
constraints = ["throughput >= 0.5 * fcfs.throughput"]
[set]
workload.requests = 12
[grid]
machine.peer_gib = [2, 10.5]
engine.kv_blocks = [300, 600]
"""


def written(folder: Path, text: str = SMALL) -> Path:
    """Write a sweep file."""
    path = folder / "small.sweep.toml"
    path.write_text(text)
    return path


def run(
    path: Path, store: Path, where: Callable[[], AbstractContextManager[Backend]] = HERE, **more: Any
) -> Outcome:
    """Run a sweep file with all metrics."""
    return run_sweep(load_sweep(path), store, where, metrics=("*",), **more)


def aquasim(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "aquasim", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
