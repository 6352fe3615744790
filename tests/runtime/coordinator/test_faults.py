"""Deaths and stops of donors, consumers and coordinators: no write too late, nothing lost, all memory comes back."""

import struct
import time
from typing import Any

import pytest
from lease_stage import LEASE_S, Actor, Stage, eventually

MIB = 1 << 20


@pytest.fixture
def lent(stage: Stage) -> tuple[Stage, Actor, Actor, Actor]:
    """Give coordinator, donor and consumer with four extents leased; the consumer leaves only when asked to."""
    coordinator = stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer(obey=False)
    donor.ask("donate", 4 * MIB)
    consumer.ask("want", 4 * MIB)
    assert eventually(lambda: len(consumer.ask("extents")) == 4)
    return stage, coordinator, donor, consumer


Lent = tuple[Stage, Actor, Actor, Actor]


def writable(consumer: Actor) -> list[bool]:
    """Whether each extent may be written."""
    return [row[4] for row in consumer.ask("extents")]


def test_a_killed_donors_pages_are_readable_and_are_moved_away(lent: Lent) -> None:
    """kill -9 of a donor: no fault, every byte is still there, no new write; emptied, the extents are forgotten."""
    stage, _, donor, consumer = lent
    donor.kill()
    assert eventually(lambda: consumer.ask("causes") == ["orphaned"] * 4)
    assert consumer.ask("verify") == []
    assert writable(consumer) == [False] * 4
    assert consumer.ask("leave") == 4
    assert eventually(lambda: stage.status()["extents"] == [])
    assert consumer.ask("extents") == []


def test_a_killed_consumers_extents_come_back_scrubbed(lent: Lent) -> None:
    """kill -9 of a consumer: its bytes are overwritten before the extents are lent again."""
    stage, _, donor, consumer = lent
    assert donor.ask("peek", 0, 1000, 4) != [0] * 4
    consumer.kill()
    assert eventually(lambda: stage.states() == ["free"] * 4)
    for number in range(4):
        assert donor.ask("peek", number, 0, 4096) == [0] * 4096
        assert donor.ask("peek", number, MIB - 4096, 4096) == [0] * 4096
    second = stage.consumer("c1")
    second.ask("want", 4 * MIB)
    assert eventually(lambda: len(second.ask("extents")) == 4)
    assert second.ask("verify") == []
    assert {row[2] for row in second.ask("extents")} == {2}


def test_the_dead_come_back_under_their_name_as_others(lent: Lent) -> None:
    """A consumer restarted under its name inherits nothing and gets its share anew."""
    stage, _, _, consumer = lent
    consumer.kill()
    again = stage.consumer("c0")
    again.ask("want", 4 * MIB)
    assert eventually(lambda: len(again.ask("extents")) == 4)
    assert again.ask("verify") == []
    assert [c["pid"] for c in stage.status()["consumers"]] == [again.pid]


def test_a_stopped_consumer_writes_nothing_after_its_lease_and_its_memory_is_not_reused(lent: Lent) -> None:
    """SIGSTOP past the lease: extents are neither lent nor given back meanwhile; after SIGCONT no write happens."""
    stage, _, donor, consumer = lent
    consumer.ask("stamp")
    other = stage.consumer("c1")
    other.ask("want", 4 * MIB)
    time.sleep(0.05)
    consumer.stop()
    stopped = time.monotonic_ns()
    assert eventually(lambda: stage.states() == ["revoked"] * 4)
    donor.ask("reclaim", MIB)
    time.sleep(LEASE_S)
    assert other.ask("extents") == []
    assert donor.ask("regained") == 0
    assert eventually(lambda: all(extent["overdue"] for extent in stage.status()["extents"]))
    consumer.go()
    assert eventually(lambda: consumer.ask("causes") == ["revoked"] * 4)
    time.sleep(0.1)
    for number in range(4):
        (stamp,) = struct.unpack("!Q", bytes(donor.ask("peek", number, 0, 8)))
        assert 0 < stamp < stopped + 5_000_000
    consumer.ask("want", 0)
    assert consumer.ask("leave") == 4
    assert eventually(lambda: donor.ask("regained") == MIB)
    assert eventually(lambda: len(other.ask("extents")) == 3)
    assert other.ask("verify") == []


def test_a_stopped_donor_is_aged_out_and_nothing_breaks(lent: Lent) -> None:
    """SIGSTOP of a donor: its leases run out and are left in good order; after SIGCONT it lends again."""
    stage, _, donor, consumer = lent
    donor.stop()
    assert eventually(lambda: consumer.ask("causes") == ["revoked"] * 4)
    assert consumer.ask("verify") == []
    consumer.ask("leave")
    assert eventually(lambda: stage.states() == ["closed"] * 4)
    donor.go()
    assert eventually(lambda: len(consumer.ask("extents")) == 4)
    assert consumer.ask("verify") == []
    assert {row[2] for row in consumer.ask("extents")} == {2}


def test_a_stopped_coordinator_costs_time_and_no_lease(lent: Lent) -> None:
    """SIGSTOP of the coordinator past all leases: writes pause; after SIGCONT every lease goes on as it was."""
    stage, coordinator, _, consumer = lent
    before = [row[:3] for row in consumer.ask("extents")]
    coordinator.stop()
    assert eventually(lambda: writable(consumer) == [False] * 4)
    time.sleep(LEASE_S)
    assert consumer.ask("verify") == []
    coordinator.go()
    assert eventually(lambda: writable(consumer) == [True] * 4)
    assert [row[:3] for row in consumer.ask("extents")] == before
    assert consumer.ask("causes") == []
    assert "asking everybody anew" in stage.logs()


def test_a_coordinator_that_is_killed_and_restarted_keeps_every_lease(lent: Lent) -> None:
    """kill -9 and a new coordinator: the same extents, epochs and bytes, renewed; then a reclaim works as ever."""
    stage, coordinator, donor, consumer = lent
    before = [row[:3] for row in consumer.ask("extents")]
    coordinator.kill()
    assert eventually(lambda: not donor.ask("connected"))
    stage.coordinator()
    assert eventually(lambda: stage.path.exists() and stage.states() == ["leased"] * 4)
    time.sleep(1.5 * LEASE_S)
    assert [row[:3] for row in consumer.ask("extents")] == before
    assert writable(consumer) == [True] * 4
    assert consumer.ask("verify") == []
    donor.ask("reclaim", 4 * MIB)
    assert eventually(lambda: consumer.ask("causes") == ["reclaim"] * 4)
    consumer.ask("leave")
    assert eventually(lambda: donor.ask("regained") == 4 * MIB)


def test_without_a_coordinator_leases_run_out_and_no_memory_moves(lent: Lent) -> None:
    """kill -9 and no new coordinator: writes end with the lease, reading goes on, nothing is given back."""
    _, coordinator, donor, consumer = lent
    donor.ask("reclaim", MIB)
    assert eventually(lambda: consumer.ask("causes"))
    coordinator.kill()
    assert eventually(lambda: writable(consumer) == [False] * 4)
    time.sleep(LEASE_S)
    assert consumer.ask("verify") == []
    assert donor.ask("regained") == 0
    assert not donor.ask("dead")
    consumer.kill()
    assert donor.ask("dead")


@pytest.mark.parametrize("victim", ["donor", "consumer"])
def test_who_died_while_there_was_no_coordinator_is_found_dead(lent: Lent, victim: str) -> None:
    """A new coordinator proves deaths of processes that it never met: by PID and start time."""
    stage, coordinator, donor, consumer = lent
    coordinator.kill()
    (donor if victim == "donor" else consumer).kill()
    stage.coordinator()
    if victim == "consumer":
        assert eventually(lambda: stage.states() == ["free"] * 4)
        assert donor.ask("peek", 0, 0, 8) == [0] * 8
    else:
        assert eventually(lambda: consumer.ask("causes") == ["orphaned"] * 4)
        assert consumer.ask("verify") == []
        consumer.ask("leave")
        assert eventually(lambda: stage.status()["extents"] == [])


def test_a_coordinator_killed_between_grant_and_handle_costs_nothing(stage: Stage) -> None:
    """Handles that were asked for and did not come are asked for again, from the next coordinator."""
    coordinator = stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    consumer.ask("want", 4 * MIB)
    assert eventually(lambda: [c["want_bytes"] for c in stage.status()["consumers"]] == [4 * MIB])
    donor.ask("donate", 4 * MIB)
    coordinator.kill()
    stage.coordinator()
    assert eventually(lambda: len(consumer.ask("extents")) == 4)
    assert consumer.ask("verify") == []


def test_a_donor_stopped_before_it_hands_over_costs_nothing_either(stage: Stage) -> None:
    """A lease without memory is asked for until its donor goes on, or given up when it has to be left."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    donor.ask("donate", 2 * MIB)
    assert eventually(lambda: stage.states() == ["free"] * 2)
    donor.stop()
    consumer.ask("want", 2 * MIB)
    assert eventually(lambda: "offered" in stage.states())
    time.sleep(1.5 * LEASE_S)
    assert consumer.ask("extents") == []
    donor.go()
    assert eventually(lambda: len(consumer.ask("extents")) == 2)
    assert consumer.ask("verify") == []


def test_silence_is_no_death(lent: Lent) -> None:
    """A consumer that is stopped for many leases is never taken for dead: its extents are never free."""
    stage, _, _, consumer = lent
    consumer.stop()
    limit = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < limit:
        assert "free" not in stage.states()
        time.sleep(0.05)
    consumer.go()


def test_a_hung_up_connection_is_no_death(lent: Lent) -> None:
    """A coordinator that restarts many times makes everybody connect anew; every lease survives."""
    stage, coordinator, _, consumer = lent
    before: Any = [row[:3] for row in consumer.ask("extents")]
    for _ in range(4):
        coordinator.kill()
        coordinator = stage.coordinator()
        assert eventually(lambda: stage.states() == ["leased"] * 4)
    assert [row[:3] for row in consumer.ask("extents")] == before
    assert consumer.ask("verify") == []
