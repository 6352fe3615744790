"""Fixtures for tests that read files."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(params=["plain", "gzip"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a file, plain or packed; the name says nothing about which."""

    def put(text: str, name: str = "trace.txt") -> Path:
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if request.param == "gzip" else data)
        return path

    return put
