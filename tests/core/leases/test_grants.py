"""Who is granted what, message by message."""

import pytest
from lease_net import C0, C1, D0, D1, LEASE, SECOND, Net

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Assign,
    Consumer,
    ConsumerReport,
    Coordinator,
    Donate,
    Donor,
    DonorReport,
    Emptied,
    Extent,
    Granted,
    Lease,
    Row,
    State,
    Usable,
    Want,
    Watch,
)


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
