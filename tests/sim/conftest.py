"""Simulations that go round in circles at one instant fail instead of hanging."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

LIMIT_S = 60


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Fail a test that has run for a minute."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {LIMIT_S} s: does simulated time stand still?")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
