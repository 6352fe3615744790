"""Whatever is killed or interrupted, nothing that was stored is lost or run again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeps import SMALL, run, written

from aquasim.sweep.drive import Driver
from aquasim.sweep.executors import Local, WorkerLost, local
from aquasim.sweep.plan import load_sweep
from aquasim.sweep.store import Store
from aquasim.sweep.worker import DIED_TEXT

LONGER = SMALL.replace("requests = 12", "requests = 60").replace("seeds = 2", "seeds = 5")


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    """kill -9 at a random moment: what was stored is not run again, and the end is as without the kill."""
    path = written(tmp_path, LONGER)
    command = [sys.executable, "-m", "aquasim", "sweep", str(path), "--out", "s", "--workers", "2", "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        log = tmp_path / "s" / "log.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not log.exists() or not log.stat().st_size):
            time.sleep(0.02)
        time.sleep(random.Random(seed).uniform(0, 0.7))
        process.kill()
    stored = len([line for line in log.read_bytes().split(b"\n")[:-1] if line])
    outcome = run(path, tmp_path / "s")
    assert outcome.found >= stored > 0
    assert outcome.ran + outcome.found == 40
    whole = run(path, tmp_path / "whole").results
    pd.testing.assert_frame_equal(outcome.results.points, whole.points, check_exact=True)


def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    """Nothing is left running after kill -9 of the process that waits."""
    path = written(tmp_path, LONGER)
    command = [sys.executable, "-m", "aquasim", "sweep", str(path), "--out", "s", "--workers", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        workers = _wait(lambda: _children(process.pid), 2)
        process.kill()
    assert _wait(lambda: [] if any(map(_alive, workers)) else [0], 1)


def test_an_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, one line, no process left, what was stored is there."""
    path = written(tmp_path, LONGER.replace("seeds = 5", "seeds = 50"))
    command = [sys.executable, "-m", "aquasim", "sweep", str(path), "--out", "s", "--workers", "2"]
    log = tmp_path / "s" / "log.jsonl"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        _wait(lambda: [0] if log.exists() and log.stat().st_size else [], 1)
        workers = _children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "aquasim: interrupted\n")
    assert time.monotonic() - started < 15
    assert not any(map(_alive, workers))
    with Store(tmp_path / "s") as store:
        assert store.status


def _wait(found: Callable[[], list[int]], count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while len(found()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found()


def _children(pid: int) -> list[int]:
    """Return the workers of a process (the tracker of shared resources is none)."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(p) for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_killed_worker_loses_no_point(tmp_path: Path) -> None:
    """Its points run again; the rows are those of an undisturbed sweep."""
    sweep = load_sweep(written(tmp_path, LONGER))
    rows: list[object] = []
    with local(2) as pool:
        assert isinstance(pool, Local)
        killed: list[int] = []

        def sink(new: object) -> None:
            rows.extend(new)  # type: ignore[arg-type]
            if not killed:
                killed.append(next(iter(pool.executor._processes)))  # type: ignore[attr-defined]
                os.kill(killed[0], signal.SIGKILL)

        Driver(pool, sweep.base.data, sink).run(p for a in sweep.assignments for p in sweep.points(a))
    assert sorted(row["key"] for row in rows) == sorted(  # type: ignore[index]
        {p.key for a in sweep.assignments for p in sweep.points(a)}
    )
    assert {row["status"] for row in rows} == {"ok"}  # type: ignore[index]


def test_a_point_that_kills_its_worker_is_found_out(tmp_path: Path) -> None:
    """The guilty point fails with a reason; those that were out with it do not."""
    from concurrent.futures import Executor, Future

    sweep = load_sweep(written(tmp_path))
    points = [p for a in sweep.assignments for p in sweep.points(a)]
    guilty = points[5].key

    class Deadly(Executor):
        def submit(self, fn: Callable[..., Any], /, *words: Any, **options: Any) -> Future[Any]:
            (batch,) = words
            future: Future[Any] = Future()
            if any(point.key == guilty for point in batch.points):
                future.set_exception(WorkerLost("gone"))
            else:
                future.set_result(fn(batch))
            return future

    class Fake:
        workers = 2
        executor = Deadly()

        def renew(self) -> None:
            pass

    rows: list[dict[str, object]] = []
    Driver(Fake(), sweep.base.data, rows.extend).run(points)
    assert len(rows) == len(points)
    assert [(row["key"], row["error"]) for row in rows if row["status"] != "ok"] == [(guilty, DIED_TEXT)]
