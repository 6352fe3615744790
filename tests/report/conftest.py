"""Runs to make pages of: simulated once, small."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aquasim.api import simulate
from aquasim.cli.app import main
from aquasim.records.run import Run
from aquasim.records.store import save

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def burst() -> list[tuple[str, Run]]:
    """Two systems of the burst."""
    return [(name, simulate("burst-h100", name)) for name in ("fcfs", "aqua")]


@pytest.fixture(scope="session")
def folders(burst: list[tuple[str, Run]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as `aquasim compare --out` leaves them."""
    place = tmp_path_factory.mktemp("runs") / "burst"
    for name, run in burst:
        save(run, place / name)
    return place


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aquasim", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run
