"""Memory that goes on being somebody's is lent clean and comes back clean, or does not leave at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lending_stage import Coordinator
from processes import eventually

from aquasim.runtime.arenas import Arena, ArenaError
from aquasim.runtime.arenas.reserve import Reserved
from aquasim.runtime.coordinator import LeaseError
from aquasim.runtime.donor import DonorClient
from aquasim.runtime.peers import PeerClient

MIB = 1 << 20


class Lender:
    """A range of two pieces, full of sevens, and a client that lends them."""

    def __init__(self, socket: Path) -> None:
        self.kept = Reserved("memfd", [MIB, MIB])
        self.row = self.kept.tensor()
        self.row.fill_(7)
        self.client = DonorClient(socket, "engine", extent_bytes=MIB)
        self.client.start()
        self.back: list[Arena] = []

    def lend(self) -> None:
        """Lend both."""
        self.client.lend([self.kept.leave(0), self.kept.leave(1)], self.back.append)


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    """Give a lender, connected."""
    coordinator = Coordinator(tmp_path)
    made = Lender(coordinator.socket)
    assert made.client.wait_connected(20)
    yield made
    made.client._link.stop(0.1)
    made.kept.close()
    coordinator.kill()


def test_nobody_sees_what_another_wrote(lender: Lender, tmp_path: Path) -> None:
    """Sevens are zeros for who leases them; the nines written there are zeros for who gets the memory back."""
    seen: list[Any] = []

    def write(mapped: Any) -> None:
        row = np.frombuffer(mapped.mapping.view(), np.uint8)
        seen.append(int(row.max()))
        row[:] = 9

    with PeerClient(tmp_path / "c.sock", "other", usable=write, probe_sizes=(4096,)) as other:
        other.want(2 * MIB)
        lender.lend()
        eventually(lambda: len(seen) == 2)
        assert seen == [0, 0]
        lender.client.reclaim(2 * MIB)
        eventually(lambda: len(lender.back) == 2)
    assert {id(arena) for arena in lender.back} == {id(arena) for arena in lender.kept.arenas}
    for index in (0, 1):
        lender.kept.come(index)
    assert not lender.row.any()
    assert lender.client.donated == 0


def test_who_leaves_has_everything_back(lender: Lender) -> None:
    """Closed with nobody holding anything, the client hands the memory back; afterwards nothing is lent any more."""
    lender.lend()
    eventually(lambda: lender.client.donated == 2 * MIB)
    lender.client.close()
    assert len(lender.back) == 2
    with pytest.raises(LeaseError, match="not running"):
        lender.client.lend(lender.back, lender.back.append)


def test_what_cannot_be_scrubbed_is_not_lent(lender: Lender) -> None:
    """An error while scrubbing: all of it comes back, the error is shown, and nobody could have leased it."""
    arenas = [lender.kept.leave(0), lender.kept.leave(1)]

    def fail(extent: object = None) -> None:
        raise ArenaError("no such memory")

    arenas[1].scrub = fail  # type: ignore[method-assign]
    lender.client.lend(arenas, lender.back.append)
    eventually(lambda: lender.client.failure == "no such memory")
    assert lender.back == arenas
    assert lender.client.donated == 0
