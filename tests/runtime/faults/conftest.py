"""A server that makes processes, with torch loaded once, and a world for each test that leaves nothing behind."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "coordinator"), str(HERE.parent)]

from fault_world import World  # noqa: E402


@pytest.fixture(scope="session")
def forge() -> Iterator[Path]:
    """Give the address of a server that makes processes."""
    folder = Path(tempfile.mkdtemp(prefix="aqf"))
    path = folder / "forge"
    program = str(HERE / "fault_forge.py")
    server = subprocess.Popen([sys.executable, program, str(path)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield path
    server.kill()
    server.communicate()
    shutil.rmtree(folder)


@pytest.fixture
def world(forge: Path) -> Iterator[World]:
    """Give a world; afterwards nobody and no descriptor is left, and no log shows a handle's text or an error."""
    folder = Path(tempfile.mkdtemp(prefix="aqw"))
    made = World(forge, folder)
    try:
        yield made
    finally:
        logs = made.logs()
        for actor in made.actors:
            actor.end()
    print("\n".join(line for line in logs.splitlines() if not line.startswith("DEBUG")))
    assert not any(actor.alive for actor in made.actors)
    assert len(os.listdir("/proc/self/fd")) == made.fds
    assert "aquasim.arena/" not in logs
    assert "Traceback" not in logs, logs
    shutil.rmtree(folder)
