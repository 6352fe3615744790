"""Messages that come late, again, or in another order."""

from lease_net import C0, C1, D0, LEASE, Net

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Assign,
    Closed,
    Consumer,
    ConsumerReport,
    Donate,
    Donor,
    DonorReport,
    Drain,
    Emptied,
    Extent,
    Free,
    Granted,
    Lease,
    Row,
    State,
    Usable,
    Want,
)


def test_a_closed_epoch_never_comes_back() -> None:
    """A delayed or repeated grant of a closed lease is refused, and the refusal is said; so is a drain unknown."""
    taker, extent = Consumer(C0), Extent(D0, 0)
    lease = Lease(extent, 3, 10, C0, LEASE)
    taker.handle(0, Want(10))
    assert taker.handle(0, Granted((lease,))) == [(LOCAL, Usable(lease))]
    assert taker.handle(0, Granted((lease,))) == []
    assert taker.handle(1, Emptied(extent, 3)) == [(COORDINATOR, Closed(C0, extent, 3))]
    assert taker.handle(1, Emptied(extent, 3)) == []
    assert taker.handle(2, Granted((lease,))) == [(COORDINATOR, Closed(C0, extent, 3))]
    assert taker.handle(3, Drain(((extent, 3),), "reclaim")) == [(COORDINATOR, Closed(C0, extent, 3))]
    later = lease._replace(epoch=4)
    assert taker.handle(4, Granted((later,))) == [(LOCAL, Usable(later))]


def test_a_drain_that_overtakes_its_grant_wins() -> None:
    """Reordered: the consumer never takes the lease up."""
    taker, extent = Consumer(C0), Extent(D0, 0)
    taker.handle(0, Want(10))
    taker.handle(0, Drain(((extent, 1),), "reclaim"))
    assert taker.handle(0, Granted((Lease(extent, 1, 10, C0, LEASE),))) == [
        (COORDINATOR, Closed(C0, extent, 1))
    ]
    assert not taker.holds


def test_a_late_renewal_does_not_undo_a_drain() -> None:
    """Draining is for good, and an earlier expiry never shortens a later one."""
    taker, extent = Consumer(C0), Extent(D0, 0)
    taker.handle(0, Want(20))
    taker.handle(0, Granted((Lease(extent, 1, 10, C0, LEASE),)))
    taker.handle(0, Granted((Lease(extent, 1, 10, C0, LEASE - 1),)))
    assert taker.holds[extent].expires == LEASE
    taker.handle(1, Drain(((extent, 1),), "reclaim"))
    taker.handle(2, Granted((Lease(extent, 1, 10, C0, 2 * LEASE),)))
    assert not taker.may_write(2, extent, 1)


def test_the_donor_refuses_stale_epochs_and_second_owners() -> None:
    """M4: an extent has one owner; only (epoch, owner) as written down frees it."""
    donor, extent = Donor(D0), Extent(D0, 0)
    donor.handle(0, Donate(((0, 10),)))
    donor.handle(0, Assign(C0, ((extent, 1),)))
    donor.handle(0, Assign(C1, ((extent, 1),)))
    donor.handle(0, Assign(C1, ((extent, 2),)))
    assert (donor.slabs[extent].owner, donor.slabs[extent].epoch) == (C0, 1)
    for wrong in (Free(extent, 1, C1, False), Free(extent, 2, C0, False), Free(Extent(D0, 9), 1, C0, False)):
        assert donor.handle(0, wrong) == []
    donor.handle(0, Free(extent, 1, C0, False))
    donor.handle(0, Assign(C1, ((extent, 1),)))
    assert donor.slabs[extent].owner is None


def test_old_reports_are_ignored() -> None:
    """A report that was overtaken by a newer one changes nothing."""
    net = Net()
    net.give(D0, Donate(((0, 10), (1, 10))))
    net.give(C0, Want(10))
    before = net.states()
    net.give(COORDINATOR, DonorReport(D0, 1, 0, (Row(Extent(D0, 1), 10, 0, None, True),)))
    net.give(COORDINATOR, ConsumerReport(C0, 1, 0, ()))
    assert net.states() == before == [State.LEASED, State.FREE]
