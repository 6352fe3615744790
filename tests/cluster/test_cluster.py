"""Sweeps on a real Ray cluster: the same rows as here, and none lost, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aquasim.sweep.plan import load_sweep
from aquasim.sweep.run import Outcome, backend, run_sweep
from aquasim.sweep.store import Store

pytestmark = pytest.mark.cluster

TEXT = """
scenario = "small-h100"
systems = ["fcfs", "aqua"]
seeds = %d
objectives = ["min ttft_p99"]
[set]
workload.requests = 60
[grid]
machine.peer_gib = [2, 10.5]
engine.kv_blocks = [100, 300]
"""


def written(folder: Path, seeds: int = 4) -> Path:
    """Write a sweep file."""
    path = folder / "small.sweep.toml"
    path.write_text(TEXT % seeds)
    return path


def command(ray: Any, path: Path, *words: str) -> subprocess.Popen[str]:
    """Start a sweep on the cluster in a process of its own."""
    words = (
        sys.executable,
        "-m",
        "aquasim",
        "sweep",
        str(path),
        "--out",
        "s",
        "--ray",
        ray.address,
        "--json",
        *words,
    )
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=path.parent, stdout=pipe, stderr=pipe, text=True)


def here(path: Path, store: Path) -> Outcome:
    """Run a sweep, or fold what is stored, with processes of this machine."""
    return run_sweep(load_sweep(path), store, lambda: backend(2, None), metrics=("*",))


def finished(process: subprocess.Popen[str]) -> None:
    """Wait for the end, which must be a good one."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err + out


def stored(folder: Path, count: int) -> int:
    """Wait until so many points are stored; return how many are."""
    log = folder / "s" / "log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = log.read_bytes().count(b"\n") if log.exists() else 0
        if lines >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError("nothing was stored")


def test_rows_are_the_same_as_here(ray_cluster: Any, tmp_path: Path) -> None:
    """To the last bit, failed points included."""
    path = written(tmp_path)
    finished(command(ray_cluster, path))
    remote = here(path, tmp_path / "s")
    assert remote.ran == 0
    pd.testing.assert_frame_equal(
        remote.results.points, here(path, tmp_path / "l").results.points, check_exact=True
    )
    assert set(remote.results.points["status"]) == {"ok", "failed"}


def test_a_killed_driver_goes_on_and_repeats_nothing(ray_cluster: Any, tmp_path: Path) -> None:
    """kill -9 of the process that waits: the next one finds what was stored and runs the rest."""
    path = written(tmp_path, 12)
    with command(ray_cluster, path) as process:
        count = stored(tmp_path, 5)
        process.send_signal(signal.SIGKILL)
    with Store(tmp_path / "s") as store:
        before = set(store.status)
    assert count <= len(before) < 96
    with command(ray_cluster, path) as process:
        out, err = process.communicate(timeout=80)
    assert process.returncode == 0, err
    assert f'"simulated": {96 - len(before)}' in out
    assert f'"stored": {len(before)}' in out


def test_a_killed_worker_loses_no_point(ray_cluster: Any, tmp_path: Path) -> None:
    """kill -9 of a process that runs tasks: all points are there, each once, equal to those run here."""
    path = written(tmp_path, 12)
    with command(ray_cluster, path) as process:
        stored(tmp_path, 3)
        workers = ray_cluster.workers()
        assert workers
        os.kill(workers[0], signal.SIGKILL)
        finished(process)
    outcome = here(path, tmp_path / "s")
    assert (outcome.ran, outcome.found) == (0, 96)
    pd.testing.assert_frame_equal(
        outcome.results.points, here(path, tmp_path / "l").results.points, check_exact=True
    )


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no.such.host.invalid:6379"])
def test_an_unreachable_cluster_is_told_quickly(tmp_path: Path, address: str) -> None:
    """One line, exit code 2, within seconds."""
    started = time.monotonic()
    path = written(tmp_path)
    words = [sys.executable, "-m", "aquasim", "sweep", str(path), "--ray", address]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"--ray {address}: nothing answers there" in done.stderr
    assert time.monotonic() - started < 15


def test_an_interrupt_leaves_the_cluster_and_keeps_the_store(ray_cluster: Any, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 at once, what is stored stays."""
    path = written(tmp_path, 30)
    with command(ray_cluster, path) as process:
        stored(tmp_path, 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "aquasim: interrupted\n")
    with Store(tmp_path / "s") as store:
        assert len(store.status) >= 2


def test_a_node_that_dies_loses_no_point(ray_cluster: Any, tmp_path: Path) -> None:
    """Every process of the second node killed at once: the other runs what was lost. (Last: the node is gone.)"""
    path = written(tmp_path, 12)
    with command(ray_cluster, path) as process:
        stored(tmp_path, 3)
        ray_cluster.kill(1)
        finished(process)
    outcome = here(path, tmp_path / "s")
    assert (outcome.ran, outcome.found) == (0, 96)
