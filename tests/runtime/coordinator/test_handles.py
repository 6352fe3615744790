"""Who gets a handle, seen from each side: the test plays the coordinator, or both donor and consumer."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lease_stage import Stage, eventually
from lease_stranger import Stranger

from aquasim.core.leases import (
    Assign,
    Closed,
    ConsumerReport,
    DonorReport,
    Drain,
    Extent,
    Free,
    Granted,
    Lease,
    Process,
    Row,
)
from aquasim.runtime.arenas import create, encode
from aquasim.runtime.coordinator.identity import own
from aquasim.runtime.coordinator.wire import Ask, Handed, Hello, Share, Welcome
from aquasim.runtime.donor import DonorClient
from aquasim.runtime.peers import Mapped, PeerClient, client
from aquasim.runtime.peers.mapped import map_extent

MIB = 1 << 20
SECOND = 1_000_000_000
WELCOME = {"lease": SECOND, "drain": SECOND}


@pytest.fixture
def listener(stage: Stage) -> Iterator[socket.socket]:
    """Give a socket in the coordinator's place."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stage.path))
        sock.listen()
        sock.settimeout(5)
        yield sock


def welcome(stage: Stage, listener: socket.socket) -> Stranger:
    """Take the next connection as a coordinator does."""
    sock, _ = listener.accept()
    side = Stranger(stage, sock)
    assert isinstance(side.hear(), Hello)
    side.send(Welcome(1, time.monotonic_ns(), **WELCOME))
    return side


@contextmanager
def running(consumer: PeerClient) -> Iterator[None]:
    """Start a consumer, and close it without waiting for a coordinator to tell."""
    consumer.start()
    try:
        yield
    finally:
        consumer.close(timeout=0)


def test_a_donor_hands_over_only_what_its_table_says(stage: Stage, listener: socket.socket) -> None:
    """Asked for another consumer or another epoch, it is silent, whoever asks."""
    mine, other = own("c0"), own("c1")
    with DonorClient(stage.path, "d0", extent_bytes=MIB) as donor, welcome(stage, listener) as coordinator:
        donor.donate(MIB)
        extent = Extent(donor.me, 0)
        coordinator.send(Share(extent, 0, mine))
        coordinator.send(Assign(mine, ((extent, 1),)))
        for epoch, consumer in ((1, other), (0, mine), (2, mine)):
            coordinator.send(Share(extent, epoch, consumer))
        coordinator.send(Share(Extent(donor.me, 9), 1, mine))
        assert coordinator.quiet(Handed)
        coordinator.send(Share(extent, 1, mine))
        handed = coordinator.await_one(Handed)
        assert (handed.extent, handed.epoch, handed.consumer) == (extent, 1, mine)
        coordinator.send(b'{"type":"Nothing"}')
        assert coordinator.over()
        with welcome(stage, listener) as again:
            assert again.await_one(DonorReport).rows[0].owner == mine
            again.send(Free(extent, 1, mine, True))
            assert eventually(lambda: not donor.lent)


def grant(consumer: PeerClient, extent: Extent) -> Granted:
    """A lease of 1 MiB for some seconds."""
    return Granted((Lease(extent, 1, MIB, consumer.me, time.monotonic_ns() + 9 * SECOND),))


def test_a_consumer_asks_until_the_handle_comes(stage: Stage, listener: socket.socket) -> None:
    """Words may be lost: it repeats them with its heartbeats, and not once the lease is left."""
    extent = Extent(own("d0"), 0)
    consumer = PeerClient(stage.path, "c0")
    with running(consumer), welcome(stage, listener) as coordinator:
        consumer.want(MIB)
        coordinator.send(grant(consumer, extent))
        for _ in range(3):
            assert coordinator.await_one(Ask) == Ask(extent, 1)
        coordinator.send(Drain(((extent, 1),), "reclaim"))
        assert coordinator.await_one(Closed) == Closed(consumer.me, extent, 1)
        assert coordinator.quiet(Ask, 0.6)
    assert consumer.extents() == []


def test_an_extent_that_must_be_left_while_it_is_mapped_is_never_used(
    stage: Stage, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain comes during the probe: closed once that is done; the engine hears nothing of it."""

    def slowly(*words: Any) -> Mapped:
        time.sleep(0.2)
        return map_extent(*words)

    monkeypatch.setattr(client, "map_extent", slowly)
    extent, usable = Extent(own("d0"), 0), list[Mapped]()
    consumer = PeerClient(stage.path, "c0", usable=usable.append)
    lend = create("memfd", MIB)
    with lend as arena, arena.export() as handle, running(consumer), welcome(stage, listener) as coordinator:
        consumer.want(MIB)
        coordinator.send(grant(consumer, extent))
        coordinator.await_one(Ask)
        coordinator.send(Handed(extent, 1, consumer.me, encode(handle)[4:].decode()), handle.fd)
        coordinator.send(Drain(((extent, 1),), "reclaim"))
        assert coordinator.quiet(Closed, 0.1)
        assert coordinator.await_one(Closed) == Closed(consumer.me, extent, 1)
    assert (usable, consumer.extents(), consumer.failure) == ([], [], None)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "aquasim.arena/1"}'])
def test_a_broken_handle_is_told_and_leaks_nothing(text: str, stage: Stage, listener: socket.socket) -> None:
    """The lease is closed, the reason kept; a stray one is dropped."""
    extent = Extent(own("d0"), 0)
    consumer = PeerClient(stage.path, "c0")
    with running(consumer), welcome(stage, listener) as coordinator:
        consumer.want(MIB)
        coordinator.send(grant(consumer, extent))
        coordinator.await_one(Ask)
        before = len(os.listdir("/proc/self/fd"))
        file = os.memfd_create("test")
        coordinator.send(Handed(extent, 7, consumer.me, text), file)
        coordinator.send(Handed(extent, 1, consumer.me, text), file)
        os.close(file)
        assert coordinator.await_one(Closed).epoch == 1
        assert "handle" in str(consumer.failure)
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_coordinator_passes_nothing_on_to_who_holds_nothing(stage: Stage) -> None:
    """Neither a wish for another's extent nor a handle for somebody who has no lease; and it keeps no descriptor."""
    coordinator = stage.coordinator()
    donor, consumer = own("d0"), own("c0")
    extent = Extent(donor, 0)
    with Stranger(stage).enter("donor", donor) as lends, Stranger(stage).enter("consumer", consumer) as wants:
        lends.send(DonorReport(donor, 1, 0, (Row(extent, MIB, 3, None, True),)))
        wants.send(ConsumerReport(consumer, 1, 0, ()))
        assert eventually(lambda: stage.states() == ["free"])
        before = len(os.listdir(f"/proc/{coordinator.pid}/fd"))
        for epoch in (0, 3, 4):
            wants.send(Ask(extent, epoch))
            file = os.memfd_create("test")
            lends.send(Handed(extent, epoch, consumer, "x"), file)
            lends.send(Handed(extent, epoch, Process("nobody", 5), "x"), file)
            os.close(file)
        assert lends.quiet(Share)
        assert wants.quiet(Handed)
        assert len(os.listdir(f"/proc/{coordinator.pid}/fd")) <= before
        assert stage.status()["counts"]["handles"] == 0
