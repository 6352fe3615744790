"""Paths, and one thread of torch."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session", autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all tests of this folder."""
