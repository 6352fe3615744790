"""`aquasim trace`: which part of a run it shows, and which files it replaces."""

from collections.abc import Callable
from pathlib import Path

import pytest

import aquasim
from aquasim.records.store import save

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of some seconds."""
    run = aquasim.simulate("small-h100", "fcfs", changes=["workload.requests=20"])
    return save(run, tmp_path_factory.mktemp("runs") / "fcfs")


@pytest.mark.parametrize("option", ["--start", "--end"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400"])
def test_times_are_finite(command: Command, whole: Path, tmp_path: Path, option: str, value: str) -> None:
    """A time that is none is one line that names the option."""
    code, out, error = command("trace", whole, "-o", tmp_path / "t.json", f"{option}={value}")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"aquasim: {option} {float(value):g}: a finite number")
    assert not list(tmp_path.iterdir())


def test_a_window_beyond_the_run_is_refused(command: Command, whole: Path, tmp_path: Path) -> None:
    """One line with the options and the run's span; a window that only reaches beyond it is cut to it."""
    target = tmp_path / "t.json"
    for words in (["--start=1e300"], ["--start=500", "--end=600"], ["--end=-1e300"]):
        code, out, error = command("trace", whole, "-o", target, *words)
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert "nothing lies there; the run goes from " in error
        assert error.startswith(f"aquasim: {words[0].split('=')[0]}")
        assert not target.exists()
    assert command("trace", whole, "-o", target, "--start=-1e300", "--end=1e300")[0] == 0
    assert command("trace", whole, "-o", tmp_path / "u.json", "--start=3", "--end=1e300")[0] == 0


def test_help_says_what_a_window_shows(command: Command) -> None:
    """What reaches into the window is whole: `--help` says so."""
    assert "is shown whole" in " ".join(command("trace", "--help")[1].replace("│", " ").split())


def test_a_file_is_replaced_only_if_told(command: Command, whole: Path, tmp_path: Path) -> None:
    """A named file is kept without --overwrite; the run's own time line is replaced; "-" and folders are refused."""
    target = tmp_path / "t.json"
    target.write_text("mine")
    code, _, error = command("trace", whole, "-o", target)
    assert (code, error.count("\n")) == (2, 1)
    assert "--overwrite" in error
    assert target.read_text() == "mine"
    assert command("trace", whole, "-o", target, "--overwrite")[0] == 0
    assert target.read_text() != "mine"
    for _ in range(2):
        assert command("trace", whole) == (0, f"{whole / 'trace.json.gz'}\n", "")
    assert "is a folder" in command("trace", whole, "-o", tmp_path)[2]
    assert "is not a file" in command("trace", whole, "-o", "/dev/null", "--overwrite")[2]


@pytest.mark.parametrize("name", ["trace", "report"])
def test_a_dash_is_no_file(
    command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`-o -` is refused in one line, and no file called "-" appears."""
    monkeypatch.chdir(tmp_path)
    code, out, error = command(name, whole, "-o", "-")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "--out -" in error
    assert not list(tmp_path.iterdir())
