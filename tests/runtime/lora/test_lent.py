"""Adapters in the memory of real processes, which stop and are killed while requests use them."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lora_files import nothing, save
from lora_jobs import NAMES, fetches, jobs, submit
from lora_model import ADAPTERS, LAYOUT, engine
from processes import eventually, spawn

from aquasim.runtime.executor import Executor
from aquasim.runtime.lora import FileHome, Home, HostHome, LoraCache, LoraSlots, PeerHome
from aquasim.runtime.tensors import PeerPool

MIB = 1 << 20
Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def lenders(tmp_path: Path) -> Iterator[tuple[Path, Start]]:
    """Give a coordinator's socket, and a function that starts a donor of 1 MiB."""
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


def told_by(home: Home, count: int = 12) -> tuple[Executor, list[list[int]]]:
    """Return an executor that has served some requests with 2 slots, and their tokens."""
    slots = LoraSlots(LAYOUT, 2)
    executor = engine(slots)
    executor.loras = LoraCache(slots, home, NAMES)
    told = submit(executor, jobs(1, count), 3)
    executor.run()
    return executor, [told[id] for id in range(count)]


def test_adapters_in_lent_memory(lenders: tuple[Path, Start]) -> None:
    """From the host, from a donor's memory, from the host again once it has stopped, and after another was killed:

    the same tokens each time, loaded from where they are; a donor that stops ends, for its memory is given back.
    """
    socket, donate = lenders
    with PeerPool(socket, "adapters", MIB, MIB, period_s=0.1) as pool:
        home = PeerHome(pool, LAYOUT, torch.float32)
        for adapter in ADAPTERS:
            home.add(adapter)

        def all_in(where: str) -> bool:
            pool.respond()
            return all(tensor.where == where for (tensor,) in home.kept.values())

        def serve(source: int) -> list[list[int]]:
            executor, told = told_by(home)
            assert set(fetches(executor, "source")) == {source}
            return told

        assert all_in("host")
        expected = serve(1)
        first = donate("a")
        eventually(lambda: all_in("peer"))
        assert serve(0) == expected
        first.send_signal(signal.SIGTERM)
        eventually(lambda: all_in("host"))
        assert serve(1) == expected
        eventually(lambda: first.poll() is not None)
        assert first.returncode == 0
        second = donate("b")
        eventually(lambda: all_in("peer"))
        second.kill()
        _, told = told_by(home)  # its memory is still there while they leave it
        assert told == expected
        eventually(lambda: all_in("host"))
        assert serve(1) == expected


def test_files_are_a_home_too(tmp_path: Path) -> None:
    """Read anew for each miss: the same tokens as from host memory, and the records say so."""
    folders = [save(tmp_path / adapter.name, adapter, nothing) for adapter in ADAPTERS]
    home = FileHome(LAYOUT, torch.float32, folders)
    executor, told = told_by(home)
    assert set(fetches(executor, "source")) == {2}
    kept = HostHome(LAYOUT, torch.float32)
    for adapter in ADAPTERS:
        kept.add(adapter)
    assert told_by(kept)[1] == told
    kept.close()
    home.close()
