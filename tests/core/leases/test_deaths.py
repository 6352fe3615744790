"""Processes that die, and coordinators that start anew."""

from lease_net import C0, C1, D0, D1, LEASE, SECOND, Net, consumer

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Assign,
    ConsumerReport,
    Coordinator,
    Died,
    Donate,
    Donor,
    DonorReport,
    Drain,
    Emptied,
    Evacuate,
    Extent,
    Free,
    Granted,
    Lease,
    Overdue,
    Process,
    Reclaim,
    Regained,
    Row,
    Scrub,
    Scrubbed,
    State,
    Usable,
    Wake,
    Want,
)


def test_a_dead_consumer_is_scrubbed_before_the_next_lease() -> None:
    """Only proof of death returns the extent; then it is scrubbed, and only then lent again."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    net.machines.pop(C0)
    net.give(C1, Want(10))
    assert net.give(COORDINATOR, Died(C0)) == [(D0, Scrub(Extent(D0, 0)))]
    assert net.held(C1) == []
    net.give(C1, Wake(), SECOND)
    assert net.held(C1) == []
    told = net.give(D0, Scrubbed(Extent(D0, 0)), SECOND)
    assert told == [(C1, Usable(Lease(Extent(D0, 0), 2, 10, C1, SECOND + LEASE)))]


def test_a_dead_consumers_extent_goes_back_to_an_owed_donor_without_scrubbing() -> None:
    """What its donor wants back is not scrubbed first: nobody else will see it."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    net.machines.pop(C0)
    net.give(D0, Reclaim(10))
    assert net.give(COORDINATOR, Died(C0)) == [(D0, Regained(Extent(D0, 0), 10))]


def test_a_dead_donor_orphans_its_leases() -> None:
    """M7: the consumer stops writing, evacuates, closes; free extents of the donor vanish; others are untouched."""
    net = Net()
    net.give(D0, Donate(((0, 10), (1, 10))))
    net.give(D1, Donate(((0, 10),)))
    net.give(C0, Want(30))
    net.machines.pop(D0)
    told = net.give(COORDINATOR, Died(D0))
    assert told == [(C0, Evacuate(Extent(D0, n), 1, "orphaned")) for n in (0, 1)]
    assert net.states() == [State.ORPHANED, State.ORPHANED, State.LEASED]
    for number in (0, 1):
        net.give(C0, Emptied(Extent(D0, number), 1))
    assert net.states() == [State.LEASED]
    assert net.held(C0) == [Extent(D1, 0)]


def test_a_restarted_coordinator_relearns_from_reports() -> None:
    """Nothing is granted that its donor has not reported; afterwards the tables are as before; no byte twice."""
    net = Net()
    net.give(D0, Donate(((0, 10), (1, 10))))
    net.give(C0, Want(10))
    net.coordinator = Coordinator()
    net.give(C1, Want(20), SECOND)
    net.give(C0, Wake(), SECOND)
    assert net.states() == [State.CLAIMED]
    net.give(D0, Wake(), SECOND)
    assert net.states() == [State.LEASED, State.LEASED]
    assert (net.held(C0), net.held(C1)) == ([Extent(D0, 0)], [Extent(D0, 1)])
    assert consumer(net, C0).may_write(SECOND + 9 * SECOND, Extent(D0, 0), 1)


def test_a_donor_that_died_with_the_coordinator_still_orphans() -> None:
    """A consumer's claim alone is enough for a new coordinator to ask whether the donor lives."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    net.machines.pop(D0)
    net.coordinator = Coordinator()
    net.give(C0, Wake(), SECOND)
    assert net.give(COORDINATOR, Died(D0)) == [(C0, Evacuate(Extent(D0, 0), 1, "orphaned"))]


def test_a_dirty_extent_is_not_lent_whatever_the_epoch() -> None:
    """The donor itself refuses to write a lease down while a dead consumer's bytes are in the extent."""
    donor, extent = Donor(D0), Extent(D0, 0)
    donor.handle(0, Donate(((0, 10),)))
    donor.handle(0, Assign(C0, ((extent, 1),)))
    assert (LOCAL, Scrub(extent)) in donor.handle(0, Free(extent, 1, C0, True))
    donor.handle(0, Assign(C1, ((extent, 7),)))
    assert donor.slabs[extent].owner is None
    donor.handle(0, Scrubbed(extent))
    donor.handle(0, Assign(C1, ((extent, 7),)))
    assert donor.slabs[extent].owner == C1


def test_late_words_of_the_dead_are_ignored() -> None:
    """Reports that were under way when proof of death came bring nobody back, and nothing is lent on them."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(COORDINATOR, Died(D0))
    net.give(COORDINATOR, Died(C0))
    net.give(COORDINATOR, DonorReport(D0, 9, 0, (Row(Extent(D0, 1), 10, 0, None, True),)))
    net.give(COORDINATOR, ConsumerReport(C0, 9, 10, ((Extent(D1, 0), 1, 10),)))
    assert net.coordinator.records == {}
    assert not net.coordinator.donors
    assert not net.coordinator.consumers


def test_a_claim_of_an_earlier_epoch_is_not_believed() -> None:
    """Two consumers claim one extent of a donor unheard: the later epoch stands, the other is told to leave."""
    for order in ((1, 2), (2, 1)):
        net = Net()
        net.machines = {}
        for epoch in order:
            report = ConsumerReport(Process(f"c{epoch}"), 1, 10, ((Extent(D0, 0), epoch, 10),))
            sent = net.coordinator.handle(0, report)
        record = net.coordinator.records[Extent(D0, 0)]
        assert (record.epoch, record.owner, record.state) == (2, Process("c2"), State.CLAIMED)
        drained = (Process("c1"), Drain(((Extent(D0, 0), 1),), "revoked"))
        assert (drained in sent) is (order == (2, 1))


def test_a_lease_that_is_overdue_and_then_orphaned_is_overdue_once() -> None:
    """The deadline counts from the first order to leave, whatever reason is given later."""
    net = Net(drain_ns=5 * SECOND)
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    net.give(D0, Reclaim(10))
    assert net.give(COORDINATOR, Wake(), 5 * SECOND) == [(COORDINATOR, Overdue(Extent(D0, 0), 1, C0))]
    assert net.give(COORDINATOR, Died(D0), 6 * SECOND) == []
    assert net.states() == [State.ORPHANED]
    assert net.coordinator.wake_at() is None
    assert net.give(COORDINATOR, Wake(), 60 * SECOND) == []


def test_a_donors_word_stands_against_a_claim() -> None:
    """Once a donor has reported, a consumer that lists another epoch of its extents is told to leave."""
    coordinator, extent = Coordinator(), Extent(D0, 0)
    coordinator.handle(0, DonorReport(D0, 1, 0, (Row(extent, 10, 0, None, True),)))
    sent = coordinator.handle(0, ConsumerReport(C0, 1, 0, ((extent, 1, 10),)))
    assert (C0, Drain(((extent, 1),), "revoked")) in sent
    assert coordinator.records[extent].state is State.FREE


def test_one_epoch_offered_by_two_coordinators_is_its_donors_choice() -> None:
    """Both offer epoch 1, to different consumers; one of them dies; the donor's word is who holds it."""
    coordinator, extent = Coordinator(), Extent(D0, 0)
    coordinator.handle(0, ConsumerReport(C1, 1, 10, ()))
    offered = coordinator.handle(0, DonorReport(D0, 1, 0, (Row(extent, 10, 0, None, True),)))
    assert (D0, Assign(C1, ((extent, 1),))) in offered
    coordinator.handle(0, Died(C1))
    sent = coordinator.handle(0, DonorReport(D0, 2, 0, (Row(extent, 10, 1, C0, False),)))
    assert [message for to, message in sent if to == C0] == [Granted((Lease(extent, 1, 10, C0, LEASE),))]
