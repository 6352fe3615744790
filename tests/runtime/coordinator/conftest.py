"""A server that makes processes, and a stage for each test that leaves nothing behind."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lease_stage import Stage, check_logs, forging  # noqa: E402


@pytest.fixture(scope="session")
def forge() -> Iterator[Path]:
    """Give the address of a server that makes processes."""
    with forging(HERE / "lease_forge.py") as path:
        yield path


@pytest.fixture
def stage(forge: Path) -> Iterator[Stage]:
    """Give a stage; afterwards everybody is killed, nobody is left, and no log shows a handle's text or an error."""
    folder = Path(tempfile.mkdtemp(prefix="aqs"))
    made = Stage(forge, folder)
    yield made
    logs = made.logs()
    for actor in made.actors:
        actor.end()
    assert not any(actor.alive for actor in made.actors)
    check_logs(logs)
    shutil.rmtree(folder)
