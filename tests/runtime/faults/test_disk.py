"""The disk is full while records are written: one clear line, exit code 2, and what was written before stays."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aquasim.records.store import load

WORDS = ("small-h100", "--set", "workload.requests=40")


def aquasim(*words: str, most: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run a command; with `most`, no file may have more bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    before: Callable[[], None] | None = limit if most else None
    command = [sys.executable, "-m", "aquasim", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run folder."""
    folder = tmp_path_factory.mktemp("disk") / "run"
    assert aquasim("run", *WORDS, "--system", "aqua", "--out", str(folder)).returncode == 0
    return folder


def refused(done: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """Check that a command ended with one line that says so."""
    assert done.returncode == 2, done
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("aquasim: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("most", [500, 2000, 6000])
def test_an_earlier_run_stays_whole(run: Path, tmp_path: Path, most: int) -> None:
    """However far the writing came: the folder it was to replace is as it was, and nothing lies beside it."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    done = aquasim("run", *WORDS, "--system", "fcfs", "--overwrite", "--out", str(folder), most=most)
    refused(done, str(folder), "cannot be written", "File too large")
    assert load(folder).summary() == load(run).summary()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_trace_that_does_not_fit_spoils_no_run(run: Path, tmp_path: Path) -> None:
    """The run can be read as before; no half of a trace is left."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    refused(aquasim("trace", str(folder), most=1000), "trace.json.gz", "File too large")
    assert {path.name for path in folder.iterdir()} == {path.name for path in run.iterdir()}
    assert load(folder).summary() == load(run).summary()


def test_of_several_runs_those_that_were_written_stay(tmp_path: Path) -> None:
    """A file system runs full in the middle of a comparison: the systems written so far can be read, none in part."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    words = " ".join([sys.executable, "-m", "aquasim", "compare", *WORDS, "--out", str(disk / "out")])
    mount = f"mount -t tmpfs -o size=200k none {disk} || exit 77"
    script = f"{mount}; {words}; code=$?; cp -a {disk}/out {kept}; exit $code"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    if done.returncode in (1, 77) and ("mount" in done.stderr or "unshare" in done.stderr):
        pytest.skip("no file system of one's own can be mounted here")
    refused(done, "cannot be written", "No space left on device")
    written = sorted(path for path in kept.iterdir())
    assert written
    for folder in written:
        assert load(folder).summary()["requests"] == 40
