"""A long prompt in the memory of real processes: they stop, are killed, and the coordinator goes and comes back."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from long_model import CONFIG, COUNT, PADDED, PROMPT, WEIGHTS, Noted, ordinary
from processes import eventually

from aquasim.runtime.tensors import PeerPool

torch = pytest.importorskip("torch")

MIB = 1 << 20
LEASE_S = 2.0


class Lenders:
    """A coordinator and a donor of 1 MiB, as processes."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "c.sock"
        self.started: list[subprocess.Popen[bytes]] = []
        self.coordinator = self.coordinate()
        self.donor = self.donate("a")

    def coordinate(self) -> "subprocess.Popen[bytes]":
        """Start a coordinator."""
        self.coordinator = self._spawn("coordinator", "--lease-s", f"{LEASE_S}", "--drain-s", "2")
        eventually(self.socket.exists)
        return self.coordinator

    def donate(self, name: str) -> "subprocess.Popen[bytes]":
        """Start a donor."""
        return self._spawn("donate", "--gib", f"{1 / 1024}", "--extent-mib", "1", "--name", name)

    def _spawn(self, *words: str) -> "subprocess.Popen[bytes]":
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "aquasim", *words, "--socket", str(self.socket)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        )
        return self.started[-1]

    def end(self) -> None:
        """Kill everybody."""
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def lenders(tmp_path: Path) -> Iterator[Lenders]:
    """Give a coordinator and a donor."""
    made = Lenders(tmp_path)
    yield made
    made.end()


class Run:
    """A generation into lent memory, half of the heads: `during` is called after each token from the 10th on."""

    def __init__(self, lenders: Lenders, during: Callable[["Run"], object]) -> None:
        self.lenders, self.during = lenders, during
        self.sides: list[str] = []
        with PeerPool(lenders.socket, "long", MIB, 2 * MIB, period_s=0.1) as self.pool:
            eventually(lambda: self.pool.respond() and self.pool.room[0] > 0)
            with Noted(
                CONFIG, WEIGHTS, self.pool, tokens=128, share=0.5, segment=16, padded=PADDED
            ) as self.engine:
                self.told = self.engine.generate(PROMPT, COUNT, on_token=self._note)
                self.logits = self.engine.logits

    def _note(self, token: int) -> None:
        traffic = self.engine.iterations[-1].traffic
        self.sides.append("peer" if traffic.peer_read else "host")
        if len(self.sides) >= 10:
            self.during(self)

    def until(self, side: str) -> None:
        """Respond between two tokens until everything is on one side."""
        here = 0 if side == "peer" else 1
        eventually(lambda: self.pool.respond() and not self.engine.remote_bytes[1 - here])


def check(run: Run) -> None:
    """Tokens and logits are those of the runner whose cache is whole."""
    tokens, logits = ordinary(COUNT)
    assert run.told == tokens
    assert all(torch.equal(one, other) for one, other in zip(run.logits, logits, strict=True))


def test_a_donor_takes_its_memory_back_and_another_lends(lenders: Lenders) -> None:
    """SIGTERM after 10 tokens: to the host, and the donor ends; after 25 another one lends, and it is used."""

    def during(run: Run) -> None:
        if len(run.sides) == 10:
            lenders.donor.send_signal(signal.SIGTERM)
            run.until("host")
            eventually(lambda: lenders.donor.poll() is not None)
        if len(run.sides) == 25:
            lenders.donate("b")
            run.until("peer")

    run = Run(lenders, during)
    check(run)
    assert run.sides[1:] == ["peer"] * 9 + ["host"] * 15 + ["peer"] * 15
    assert lenders.donor.returncode == 0


def test_a_donor_is_killed(lenders: Lenders) -> None:
    """kill -9 in the middle: what lies there can still be read, moves to the host, and no token changes."""

    def during(run: Run) -> None:
        if len(run.sides) == 10:
            lenders.donor.kill()
        if len(run.sides) == 20:
            run.until("host")

    run = Run(lenders, during)
    check(run)
    assert run.sides[9] == "peer"
    assert set(run.sides[20:]) == {"host"}


def test_the_coordinator_is_killed_and_comes_back(lenders: Lenders) -> None:
    """Leases lapse: what is new goes to the host, what is there is read; a new coordinator, and all of it is lent."""

    def during(run: Run) -> None:
        if len(run.sides) == 10:
            lenders.coordinator.kill()
            lenders.coordinator.wait()
            eventually(lambda: run.pool.room[0] == 0)
        if len(run.sides) == 25:
            lenders.coordinate()
            run.until("peer")

    run = Run(lenders, during)
    check(run)
    lapsed = run.engine.iterations[20].traffic
    assert lapsed.host_read > 0
    assert run.sides[-1] == "peer"
    assert run.engine.iterations[-1].traffic.host_read == 0
