"""A server that makes processes, and a stage for each test that leaves nothing behind."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lease_stage import Stage  # noqa: E402


@pytest.fixture(scope="session")
def forge() -> Iterator[Path]:
    """Give the address of a server that makes processes."""
    folder = Path(tempfile.mkdtemp(prefix="aqf"))
    path = folder / "forge"
    server = subprocess.Popen(
        [sys.executable, str(HERE / "lease_forge.py"), str(path)], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield path
    server.kill()
    server.communicate()
    shutil.rmtree(folder)


@pytest.fixture
def stage(forge: Path) -> Iterator[Stage]:
    """Give a stage; afterwards everybody is killed, nobody is left, and no log shows a handle's text or an error."""
    folder = Path(tempfile.mkdtemp(prefix="aqs"))
    made = Stage(forge, folder)
    yield made
    logs = made.logs()
    for actor in made.actors:
        actor.end()
    print(
        "\n".join(line for line in logs.splitlines() if not line.startswith("DEBUG"))
    )  # for a test that fails
    assert not any(actor.alive for actor in made.actors)
    assert "aquasim.arena/" not in logs
    assert "Traceback" not in logs, logs
    shutil.rmtree(folder)
