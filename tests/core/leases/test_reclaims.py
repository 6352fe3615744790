"""How a donor gets its memory back, message by message."""

from lease_net import C0, C1, D0, D1, SECOND, Net, consumer

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Assign,
    ConsumerReport,
    Coordinator,
    Donate,
    Donor,
    DonorReport,
    Emptied,
    Evacuate,
    Extent,
    Overdue,
    Reclaim,
    Regained,
    Row,
    State,
    Wake,
    Want,
    Watch,
)


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


def test_a_donor_that_is_owed_lends_nothing() -> None:
    """However much of its memory is free: what it is owed is never offered."""
    coordinator = Coordinator()
    coordinator.handle(0, ConsumerReport(C0, 1, 10, ()))
    row = Row(Extent(D0, 0), 10, 0, None, True)
    assert coordinator.handle(0, DonorReport(D0, 1, 5, (row,))) == [(LOCAL, Watch(D0))]
    assert coordinator.handle(0, DonorReport(D0, 2, 0, (row,))) == [(D0, Assign(C0, ((row.extent, 1),)))]
