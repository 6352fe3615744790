"""What time alone does to a lease, and what it does not."""

from lease_net import C0, C1, D0, LEASE, SECOND, Net, consumer

from aquasim.core.leases import (
    COORDINATOR,
    Donate,
    Emptied,
    Evacuate,
    Extent,
    Reclaim,
    State,
    Usable,
    Wake,
    Want,
)


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


def test_a_silent_donors_leases_age_out() -> None:
    """A donor unheard for a lease's length is not renewed against: its consumers leave in good order."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    for second in range(1, 20):
        net.give(C0, Wake(), second * SECOND)
    assert net.states() == [State.REVOKED]


def test_revoked_bytes_count_in_a_reclaim() -> None:
    """What a silent consumer must leave covers the debt: nobody else is sent away for it."""
    net = Net()
    net.give(D0, Donate(((0, 10), (1, 10))))
    net.give(C0, Want(10))
    net.give(C1, Want(10))
    net.machines.pop(C0)
    for second in range(1, 12):
        net.give(D0, Wake(), second * SECOND)
        net.give(C1, Wake(), second * SECOND)
    assert net.states() == [State.REVOKED, State.LEASED]
    assert net.give(D0, Reclaim(10), 12 * SECOND) == []
    assert net.states() == [State.REVOKED, State.LEASED]


def test_nothing_is_offered_to_the_silent() -> None:
    """A consumer unheard for a lease's length gets no new memory until it reports again."""
    net = Net()
    net.give(C0, Want(10))
    net.give(D0, Donate(((0, 10),)), LEASE)
    assert net.states() == [State.FREE]
    told = net.give(C0, Wake(), LEASE)
    assert [type(message) for _, message in told] == [Usable]
