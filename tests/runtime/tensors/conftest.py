"""Makes `faked` importable, and gives a pool with a fake client."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faked import Fake


@pytest.fixture
def fake() -> Iterator[Fake]:
    """Give a fake client and its pool, with 64 KiB of host memory."""
    made = Fake()
    yield made
    made.pool.close()
    assert not made.held
