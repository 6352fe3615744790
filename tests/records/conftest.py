"""Records whose truth is known: from a toy scheduler that does anything allowed, and from the real engine."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from truths import Made, Toy, Truth, simulate


@pytest.fixture(scope="session")
def toy() -> Made:
    """Return a function from a seed to the truth about a random run."""
    return lambda seed, **options: Toy(seed, **options).play()


@pytest.fixture(scope="session")
def engine() -> Made:
    """Return a function that simulates with the real scheduler and engine."""
    return simulate


@pytest.fixture(scope="session")
def paged(engine: Made) -> Truth:
    """Return a run under memory pressure that pages to a peer, with a rejected request."""
    return engine("aqua", tiers=(("peer", 500),), slice_length=8, reject=True)
