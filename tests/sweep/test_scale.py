"""How sweeps scale: generous bounds, so that a busy machine passes; run with -s to see the figures."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aquasim.sweep.drive import Driver
from aquasim.sweep.executors import local
from aquasim.sweep.plan import Sweep, load_sweep
from aquasim.sweep.store import Store
from aquasim.sweep.worker import Row, row_of, run_point

LARGE = """
scenario = "small-h100"
systems = ["fcfs", "aqua"]
seeds = 50
objectives = ["min ttft_p99", "max throughput"]
constraints = ["throughput >= 0.95 * fcfs.throughput"]
[sample]
kind = "random"
count = %d
[sample.ranges]
machine.peer_gib = {kind = "linear", low = 1, high = 20}
engine.kv_blocks = {kind = "integer", low = 300, high = 3000}
"""
SUMMARISE = """
import re, resource, sys, time
sys.argv[1:] = ["sweep", "large.sweep.toml", "--out", "s"]
started = time.monotonic()
from aquasim.cli.app import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())  # ru_maxrss begins with the parent's
    print(time.monotonic() - started, used.ru_utime + used.ru_stime, int(peak[1]) * 1024, file=sys.stderr)
"""


def fill(sweep: Sweep, folder: Path) -> int:
    """Store invented results of every point, with as many metrics as real ones have."""
    example = run_point(sweep.base.data, next(sweep.points(())))["metrics"]
    count = 0
    with Store(folder) as store:
        for assignment in sweep.assignments:
            rows: list[Row] = []
            for point in sweep.points(assignment):
                shift = hash(point.key) % 997 / 997
                metrics = {name: None if value is None else value + shift for name, value in example.items()}
                rows.append({**row_of(point, None), "metrics": metrics})
            store.append(rows)
            count += len(rows)
    return count


@pytest.mark.slow
def test_many_stored_points_are_summarised_quickly(tmp_path: Path) -> None:
    """100,000 points: every address looked up, means, intervals, front and table, under 10 s and 1 GB."""
    path = tmp_path / "large.sweep.toml"
    path.write_text(LARGE % 1000)
    assert fill(load_sweep(path), tmp_path / "s") == 100_000
    command = [sys.executable, "-c", SUMMARISE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "0 points simulated, 100,000 were stored" in " ".join(done.stdout.split()), done.stderr
    wall, cpu, memory = map(float, done.stderr.split())
    print(
        f"\n100,000 stored points summarised in {wall:.1f} s ({cpu:.1f} s of CPU) and {memory / 1e6:.0f} MB"
    )
    assert cpu < 20
    assert memory < 1e9


@pytest.mark.slow
def test_workers_are_kept_busy(tmp_path: Path) -> None:
    """1,000 points on two processes: nearly all of the time is simulation (>= 90 % on an idle machine)."""
    path = tmp_path / "large.sweep.toml"
    path.write_text((LARGE % 10).replace("[sample]", "[set]\nworkload.requests = 60\n[sample]"))
    sweep = load_sweep(path)
    points = [point for assignment in sweep.assignments for point in sweep.points(assignment)]
    assert len(points) == 1000
    before = _children()
    started = time.monotonic()
    with Store(tmp_path / "s") as store, local(2) as pool:
        driver = Driver(pool, sweep.base.data, store.append)
        driver.run(points)
        wall = time.monotonic() - started
    spent = _children() - before
    share, overhead = driver.busy_s / wall / 2, (wall * 2 - driver.busy_s) / len(points)
    print(
        f"\n1,000 points in {wall:.1f} s: {share:.1%} of two processes' time is in points, {overhead * 1e3:.1f}"
    )
    print(f"ms per point beside; {driver.cpu_s:.1f} of the workers' {spent:.1f} s of CPU is in points")
    assert driver.cpu_s / spent > 0.8
    assert share > 0.8


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
