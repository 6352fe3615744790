"""A server that makes processes, with torch loaded once, and a world for each test that leaves nothing behind."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "coordinator"), str(HERE.parent)]

from fault_world import World  # noqa: E402
from lease_stage import check_logs, forging  # noqa: E402


@pytest.fixture(scope="session")
def forge() -> Iterator[Path]:
    """Give the address of a server that makes processes."""
    with forging(HERE / "fault_forge.py") as path:
        yield path


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
    assert not any(actor.alive for actor in made.actors)
    assert len(os.listdir("/proc/self/fd")) == made.fds
    check_logs(logs)
    shutil.rmtree(folder)
