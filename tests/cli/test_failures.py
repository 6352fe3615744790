"""What a command may end in: stdout that takes nothing, memory that does not suffice, Python's values."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aquasim
from aquasim.cli import simulate
from aquasim.errors import UserError

Command = Callable[..., tuple[int, str, str]]
SMALL = ("small-h100", "--set", "workload.requests=12", "-s", "fcfs")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "words", [("compare", *SMALL), ("compare", *SMALL, "--json"), ("scenarios",), ("--help",)]
)
def test_a_full_disk_is_one_line(words: tuple[str, ...], buffered: bool) -> None:
    """Where stdout cannot be written: exit code 2 and one line, also for what is only written at the end."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "aquasim", *words]
        env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
        done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stderr == "aquasim: stdout: cannot be written: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_left_is_no_error(buffered: str) -> None:
    """A closed pipe ends the command without a word."""
    command = f"{sys.executable} -m aquasim scenarios --json | head -c 1; echo ' ' ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONUNBUFFERED": buffered}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=env, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split()[-1] in ("0", "1", "141")


def test_other_errors_of_the_system_are_not_stdouts(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OSError that is not of stdout is not said to be."""

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(simulate, "load_scenario", broken)
    with pytest.raises(OSError, match="Input/output error"):
        command("run", *SMALL)


def test_too_little_memory_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError is a line and exit code 2."""

    def large(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(simulate, "load_scenario", large)
    code, out, error = command("run", *SMALL)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("aquasim: out of memory")


@pytest.mark.parametrize("count", [10**8 + 1, 10**10, 10**30])
def test_requests_are_bounded(command: Command, count: int) -> None:
    """More requests than memory could hold are refused before any is made."""
    code, out, error = command("run", "small-h100", "--set", f"workload.requests={count}")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "workload.requests" in error
    assert "less than or equal to 100000000" in error


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("small-h100",), {"changes": [5]}, "changes holds 5; a list of texts such as"),
    (("small-h100",), {"changes": {"seed": 7}}, "changes is {'seed': 7}; a list of texts such as"),
    (("small-h100",), {"changes": "seed=7"}, "changes is 'seed=7'; a list of texts such as"),
    (("small-h100",), {"changes": None}, "changes is None; a list of texts such as"),
    (("small-h100",), {"changes": b"seed=7"}, "changes is b'seed=7'; a list of texts such as"),
    ((None,), {}, "scenario is None; a shipped scenario's name"),
    ((5,), {}, "scenario is 5; a shipped scenario's name"),
    (("",), {}, "scenario is ''; a shipped scenario's name"),
    ((b"small-h100",), {}, "scenario is b'small-h100'; a shipped scenario's name"),
    (("small-h100", ["aqua"]), {}, "system is ['aqua']; a system's name"),
    (("small-h100", "aquaa"), {}, "unknown system 'aquaa'"),
]


@pytest.mark.parametrize(("words", "more", "says"), WRONG)
def test_pythons_users_get_one_line(words: tuple[Any, ...], more: dict[str, Any], says: str) -> None:
    """`simulate` names the argument and what is needed; nothing speaks of options of the command line."""
    with pytest.raises(UserError) as caught:
        aquasim.simulate(*words, **more)
    text = str(caught.value)
    assert text.startswith(says)
    assert "\n" not in text
    assert "--set" not in text


def test_changes_may_come_from_anywhere() -> None:
    """A generator is read once, a path is a path."""
    changes = (text for text in ["workload.requests=5"])
    assert aquasim.simulate("small-h100", "fcfs", changes=changes).count("requests") == 5
