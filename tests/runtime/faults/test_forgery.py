"""A process of our own user that lies to the coordinator gets at nobody's pages, and disturbs no engine."""

import os
import time
from contextlib import suppress

from fault_model import MIB
from fault_world import World
from lease_stage import eventually
from lease_stranger import Stranger

from aquasim.core.leases import Closed, ConsumerReport, Extent, Process
from aquasim.runtime.arenas import create, encode
from aquasim.runtime.coordinator.channel import HEADER, LIMIT
from aquasim.runtime.coordinator.identity import own
from aquasim.runtime.coordinator.wire import Ask, Handed

Lease = tuple[Extent, int]


def leased(world: World) -> list[Lease]:
    """Return what the engine leases, as a liar may learn it from the status page."""
    rows = world.status()["extents"]
    return [(Extent(Process(row["donor"], row["donor_run"]), row["number"]), row["epoch"]) for row in rows]


def lie(thief: Stranger, me: Process, leases: list[Lease], serial: int) -> None:
    """Claim leases, ask for their memory, say that they are over."""
    thief.send(ConsumerReport(me, serial, 0, tuple((extent, epoch, MIB) for extent, epoch in leases)))
    for extent, epoch in leases:
        for guess in range(epoch + 2):
            thief.send(Ask(extent, guess))
            thief.send(Closed(me, extent, guess))


def test_a_consumer_that_claims_anothers_leases_gets_nothing(world: World) -> None:
    """Extents and epochs are right, the claimant is not: no handle comes, and the engine's leases and pages stay."""
    world.open()
    world.submit()
    leases, me = leased(world), own("thief")
    before = world.engine.ask("leases")
    with Stranger(world) as thief:
        thief.enter("consumer", me)
        for serial in range(1, 4):
            lie(thief, me, leases, serial)
        assert thief.quiet(Handed, 0.5)
    assert world.finish()["repaired"] == 0
    assert world.engine.ask("leases") == before
    world.leave()


def test_nor_from_a_coordinator_that_knows_nothing_yet(world: World) -> None:
    """A new coordinator is told lies before donors and engine have told it the truth: the donor's table decides."""
    world.open()
    world.submit()
    leases, me = leased(world), own("thief")
    for donor in world.donors.values():
        donor.stop()
    world.lead.kill()
    world.lead = world.coordinator()
    with Stranger(world) as thief:
        thief.enter("consumer", me)
        lie(thief, me, leases, 1)
        for donor in world.donors.values():
            donor.go()
        for serial in range(2, 8):
            lie(thief, me, leases, serial)
            assert thief.quiet(Handed, 0.1)
        assert eventually(lambda: len(world.engine.ask("leases")) == 2)
        lie(thief, me, leased(world), 9)
        assert thief.quiet(Handed, 0.3)
    assert world.finish()["repaired"] == 0
    world.leave()


def test_frames_that_are_none_disturb_no_engine(world: World) -> None:
    """Oversized, broken and endless frames while it serves: each ends its own connection and nothing else."""
    world.open()
    world.submit()
    before = world.engine.ask("leases")
    for data in (HEADER.pack(LIMIT + 1), HEADER.pack(3) + b"{[}", os.urandom(4096) + b"\xff" * 4096):
        with Stranger(world) as stranger:
            with suppress(OSError):  # cut off in the middle already
                stranger.sock.sendall(data)
            assert stranger.over()
    with Stranger(world) as slow:
        slow.sock.sendall(HEADER.pack(LIMIT))
        time.sleep(0.1)
        assert world.finish()["repaired"] == 0
    assert world.engine.ask("leases") == before
    world.leave()


def test_what_logs_are_searched_for_is_in_every_handle(world: World) -> None:
    """Logs down to the least hold no handle's text (see `world`): this is the text, and there are logs."""
    with create("memfd", 4096) as arena, arena.export() as handle:
        assert b"aquasim.arena/" in encode(handle)
    world.open()
    world.submit(2)
    world.finish()
    world.leave()
    logs = world.logs()
    assert "engine" in logs
    assert "consumer" in logs
