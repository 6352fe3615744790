"""Paths, one thread of torch, and why GPU tests are skipped."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: small products gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say why."""
    from aquasim.runtime.arenas import available

    missing = available()["cuda-vmm"]
    for item in items:
        if item.get_closest_marker("gpu") and missing and item.path.parent == HERE:
            item.add_marker(pytest.mark.skip(reason=missing))
