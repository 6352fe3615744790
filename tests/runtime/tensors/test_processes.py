"""Tensors in the memory of real processes, which stop and are killed."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faked import KIB, MIB, data, same
from processes import eventually, spawn

from aquasim.runtime.tensors import PeerPool

torch = pytest.importorskip("torch")


@pytest.fixture
def donors(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], "subprocess.Popen[bytes]"]]]:
    """Give the socket of a coordinator, and a function that starts a donor of 1 MiB."""
    socket = tmp_path / "c.sock"
    started = [spawn("coordinator", "--socket", str(socket), "--lease-s", "2", "--drain-s", "2")]
    eventually(socket.exists)

    def donate(name: str) -> "subprocess.Popen[bytes]":
        size = ("--gib", f"{1 / 1024}", "--extent-mib", "1")
        started.append(spawn("donate", *size, "--name", name, "--socket", str(socket)))
        return started[-1]

    yield socket, donate
    for process in started:
        process.kill()
        process.wait()


def test_m07_a_donor_stops_and_another_comes(
    donors: tuple[Path, Callable[[str], "subprocess.Popen[bytes]"]],
) -> None:
    """Real processes: to the donor, on SIGTERM back to the host so that it ends, to the next one, which is killed."""
    socket, donate = donors
    with PeerPool(socket, "tensors", MIB, 2 * MIB, period_s=0.2) as pool:
        kept = [pool.put(data(200 * KIB + seed, seed)) for seed in range(4)]

        def all_on(where: str) -> bool:
            pool.respond()
            assert all(same(tensor.get(), data(tensor.nbytes, seed)) for seed, tensor in enumerate(kept))
            return all(tensor.where == where for tensor in kept)

        assert all_on("host")
        first = donate("a")
        eventually(lambda: all_on("peer"))
        first.send_signal(signal.SIGTERM)
        eventually(lambda: all_on("host"))
        eventually(lambda: first.poll() is not None)
        assert first.returncode == 0
        second = donate("b")
        eventually(lambda: all_on("peer"))
        second.kill()
        eventually(lambda: all_on("host"))
