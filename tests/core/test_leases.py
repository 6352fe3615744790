"""The lease protocol, message by message."""

import pytest

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Assign,
    Closed,
    Consumer,
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
    Message,
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
    Watch,
)

SECOND = 1_000_000_000
LEASE = 10 * SECOND
D0, D1, C0, C1 = (Process(name) for name in ("d0", "d1", "c0", "c1"))


class Net:
    """A carrier that loses nothing: hands every message over at once, and keeps what engines are told."""

    def __init__(self, **options: object) -> None:
        self.coordinator = Coordinator(**options)  # type: ignore[arg-type]
        self.machines: dict[Process, Donor | Consumer] = {D0: Donor(D0), D1: Donor(D1)}
        self.machines |= {C0: Consumer(C0), C1: Consumer(C1)}
        self.told: list[tuple[Process, Message]] = []

    def give(self, to: Process, message: Message, now: int = 0) -> list[tuple[Process, Message]]:
        """Give one message and carry on until silence; return what engines were told meanwhile."""
        self.told = []
        queue = [(to, message)]
        while queue:
            to, message = queue.pop(0)
            machine = self.coordinator if to == COORDINATOR else self.machines.get(to)
            if machine is None:
                continue
            for target, answer in machine.handle(now, message):
                if target == LOCAL and not isinstance(answer, Watch):
                    self.told.append((to, answer))
                elif target != LOCAL:
                    queue.append((target, answer))
            machine.check()
        return self.told

    def held(self, me: Process) -> list[Extent]:
        """Extents that a consumer holds."""
        machine = self.machines[me]
        assert isinstance(machine, Consumer)
        return list(machine.holds)

    def states(self) -> list[State]:
        """States of all extents, in order."""
        return [self.coordinator.records[extent].state for extent in sorted(self.coordinator.records)]


def consumer(net: Net, me: Process) -> Consumer:
    """Return a consumer's machine."""
    machine = net.machines[me]
    assert isinstance(machine, Consumer)
    return machine


def test_a_grant_exactly() -> None:
    """Donor writes the lease down before the consumer hears of it; every message of a first grant, in order."""
    coordinator, donor, taker = Coordinator(), Donor(D0), Consumer(C0)
    extent = Extent(D0, 0)
    report = DonorReport(D0, 1, 0, (Row(extent, 64, 0, None, True),))
    assert donor.handle(0, Donate(((0, 64),))) == [(COORDINATOR, report)]
    assert coordinator.handle(1, report) == [(LOCAL, Watch(D0))]
    want = ConsumerReport(C0, 1, 50, ())
    assert taker.handle(2, Want(50)) == [(COORDINATOR, want)]
    assign = Assign(C0, ((extent, 1),))
    assert coordinator.handle(3, want) == [(LOCAL, Watch(C0)), (D0, assign)]
    written = DonorReport(D0, 2, 0, (Row(extent, 64, 1, C0, False),))
    assert donor.handle(4, assign) == [(COORDINATOR, written)]
    lease = Lease(extent, 1, 64, C0, 5 + LEASE)
    assert coordinator.handle(5, written) == [(C0, Granted((lease,)))]
    assert taker.handle(6, Granted((lease,))) == [(LOCAL, Usable(lease))]
    assert coordinator.wake_at() == 5 + LEASE
    assert (donor.wake_at(), taker.wake_at()) == (4 + SECOND, 2 + SECOND)


def test_partial_grants_come_from_several_donors_the_freest_first() -> None:
    """Without a map: freest donor first, then the other; what is missing is granted when more is donated."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(D1, Donate(((0, 10), (1, 10))))
    net.give(C0, Want(45))
    assert net.held(C0) == [Extent(D1, 0), Extent(D1, 1), Extent(D0, 0)]
    told = net.give(D0, Donate(((1, 10), (2, 10), (3, 10))))
    assert [message.lease.extent.number for _, message in told if isinstance(message, Usable)] == [1, 2]
    assert net.states() == [State.LEASED] * 3 + [State.FREE] + [State.LEASED] * 2


def test_m1_the_map_of_consumers_to_donors_is_honoured() -> None:
    """A mapped consumer leases from its donors alone, nearest first, however free others are."""
    net = Net(near={"c0": ("d1",), "c1": ("d1", "d0")})
    net.give(D0, Donate(((0, 10), (1, 10))))
    net.give(D1, Donate(((0, 10), (1, 10))))
    net.give(C1, Want(30))
    assert net.held(C1) == [Extent(D1, 0), Extent(D1, 1), Extent(D0, 0)]
    net.give(C0, Want(10))
    assert net.held(C0) == []


def test_the_least_served_consumer_is_served_first() -> None:
    """Who holds less gets the next free extent."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(30))
    net.give(C1, Want(30))
    net.give(D0, Donate(((1, 10),)))
    assert (net.held(C0), net.held(C1)) == ([Extent(D0, 0)], [Extent(D0, 1)])


def test_reclaim_takes_free_extents_first_and_then_drains() -> None:
    """M4, M10: free memory returns at once; leased memory only after the consumer has emptied it; rounded up."""
    net = Net()
    net.give(D0, Donate(((0, 10), (1, 10), (2, 10))))
    net.give(C0, Want(20))
    told = net.give(D0, Reclaim(15))
    assert told == [
        (D0, Regained(Extent(D0, 2), 10)),
        (C0, Evacuate(Extent(D0, 0), 1, "reclaim")),
    ]
    assert consumer(net, C0).may_read(Extent(D0, 0), 1)
    assert not consumer(net, C0).may_write(0, Extent(D0, 0), 1)
    assert consumer(net, C0).may_write(0, Extent(D0, 1), 1)
    assert net.give(C0, Emptied(Extent(D0, 0), 1)) == [(D0, Regained(Extent(D0, 0), 10))]
    donor = net.machines[D0]
    assert isinstance(donor, Donor)
    assert donor.owed == 0
    assert net.states() == [State.LEASED]


def test_m10_a_whole_reclaim_returns_every_byte() -> None:
    """All donated bytes come back, from several consumers, in as many steps as there are messages: no timer."""
    net = Net()
    net.give(D0, Donate(tuple((n, 10) for n in range(4))))
    net.give(C0, Want(20))
    net.give(C1, Want(10))
    told = net.give(D0, Reclaim(1 << 40))
    orders = [(to, m) for to, m in told if isinstance(m, Evacuate)]
    assert len(orders) == 3
    back = [m for _, m in told if isinstance(m, Regained)]
    for to, order in orders:
        back += [m for _, m in net.give(to, Emptied(order.extent, order.epoch)) if isinstance(m, Regained)]
    assert sum(m.bytes for m in back) == 40
    assert net.coordinator.records == {}


def test_reclaim_drains_no_more_than_is_missing() -> None:
    """A second report that still owes the same bytes drains nothing more; a greater debt drains the difference."""
    net = Net()
    net.give(D0, Donate(((0, 10), (1, 10), (2, 10))))
    net.give(C0, Want(30))
    net.give(D0, Reclaim(10))
    net.give(D0, Wake(), SECOND)
    assert net.states() == [State.DRAINING, State.LEASED, State.LEASED]
    net.give(D0, Reclaim(10), SECOND)
    assert net.states() == [State.DRAINING, State.DRAINING, State.LEASED]


def test_drained_pages_may_move_to_another_donor() -> None:
    """A consumer told to drain is offered other free memory at once, so that it can move its pages there."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    net.give(D1, Donate(((0, 10),)))
    told = net.give(D0, Reclaim(10))
    assert (C0, Evacuate(Extent(D0, 0), 1, "reclaim")) in told
    net.give(C0, Wake(), SECOND)
    assert net.held(C0) == [Extent(D0, 0), Extent(D1, 0)]


def test_renewal_extends_and_expiry_forbids_new_writes_only() -> None:
    """May write until margin before expiry, exactly; reads stay; the donor gets nothing back by time alone."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    taker, extent = consumer(net, C0), Extent(D0, 0)
    last = LEASE - taker.margin_ns
    assert taker.may_write(last - 1, extent, 1)
    assert not taker.may_write(last, extent, 1)
    net.give(D0, Wake(), 4 * SECOND)
    net.give(C0, Wake(), 5 * SECOND)
    assert taker.may_write(5 * SECOND + last - 1, extent, 1)
    net.machines.pop(C0)
    net.give(COORDINATOR, Wake(), 15 * SECOND - 1)
    assert net.states() == [State.LEASED]
    assert net.give(COORDINATOR, Wake(), 15 * SECOND) == []
    assert net.states() == [State.REVOKED]
    net.give(D0, Reclaim(10), 30 * SECOND)
    assert net.states() == [State.REVOKED]
    assert taker.may_read(extent, 1)


def test_a_revoked_consumer_that_comes_back_must_drain_and_gets_a_new_epoch() -> None:
    """M7: silent past its lease, then back: told to leave, never renewed; the next lease is of a later epoch."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    taker = net.machines.pop(C0)
    net.give(COORDINATOR, Wake(), 20 * SECOND)
    net.machines[C0] = taker
    net.give(D0, Wake(), 20 * SECOND)
    told = net.give(C0, Wake(), 20 * SECOND)
    assert told == [(C0, Evacuate(Extent(D0, 0), 1, "revoked"))]
    net.give(C0, Emptied(Extent(D0, 0), 1), 20 * SECOND)
    net.give(C0, Wake(), 21 * SECOND)
    assert consumer(net, C0).may_write(21 * SECOND, Extent(D0, 0), 2)
    assert not consumer(net, C0).may_write(21 * SECOND, Extent(D0, 0), 1)


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


def test_a_lost_drain_is_said_again_at_the_next_report() -> None:
    """Level, not edge: each report of a consumer that should leave is answered with the order to leave."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    taker = net.machines.pop(C0)
    net.give(D0, Reclaim(10))
    net.machines[C0] = taker
    assert net.give(C0, Wake(), SECOND) == [(C0, Evacuate(Extent(D0, 0), 1, "reclaim"))]


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


def test_a_silent_donors_leases_age_out() -> None:
    """A donor unheard for a lease's length is not renewed against: its consumers leave in good order."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    for second in range(1, 20):
        net.give(C0, Wake(), second * SECOND)
    assert net.states() == [State.REVOKED]


def test_an_overdue_drain_is_said_once() -> None:
    """A live consumer that does not leave by the deadline is reported to the operator, and keeps the memory."""
    net = Net(drain_ns=5 * SECOND)
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    net.give(D0, Reclaim(10))
    assert net.coordinator.wake_at() == 5 * SECOND
    overdue = [(COORDINATOR, Overdue(Extent(D0, 0), 1, C0))]
    assert net.give(COORDINATOR, Wake(), 5 * SECOND) == overdue
    assert net.give(COORDINATOR, Wake(), 6 * SECOND) == []
    assert net.coordinator.wake_at() is None
    assert net.held(C0) == [Extent(D0, 0)]


def test_a_voluntary_release_goes_to_others_and_does_not_ping_pong() -> None:
    """Released memory is free for others; the releaser is offered nothing before its next report."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    assert net.give(C0, Emptied(Extent(D0, 0), 1)) == []
    assert net.states() == [State.FREE]
    net.give(C0, Want(0))
    net.give(C1, Want(10))
    assert net.held(C1) == [Extent(D0, 0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Donor(D0, heartbeat_ns=0), "heartbeat_ns is 0"),
        (lambda: Consumer(C0, margin_ns=-1), "margin_ns -1"),
        (lambda: Coordinator(lease_ns=0), "lease_ns is 0"),
    ],
)
def test_wrong_times_are_refused(make: object, message: str) -> None:
    """A ValueError names the value and what is expected."""
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_a_lost_closing_word_is_asked_for_again() -> None:
    """The consumer closed and its word was lost: its next report is answered by the order, and it says so again."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    told = net.give(D0, Reclaim(10))
    assert told == [(C0, Evacuate(Extent(D0, 0), 1, "reclaim"))]
    net.machines[C0].handle(0, Emptied(Extent(D0, 0), 1))
    assert net.give(C0, Wake(), SECOND) == [(D0, Regained(Extent(D0, 0), 10))]
