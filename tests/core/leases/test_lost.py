"""Whatever is lost is said again in answer to the next report: states are reported, not changes."""

from lease_net import C0, C1, D0, D1, SECOND, Net, consumer

from aquasim.core.leases import (
    COORDINATOR,
    Assign,
    Closed,
    ConsumerReport,
    Died,
    Donate,
    Drain,
    Emptied,
    Evacuate,
    Extent,
    Free,
    Granted,
    Lease,
    Reclaim,
    Regained,
    Scrub,
    State,
    Usable,
    Wake,
    Want,
)

E0 = Extent(D0, 0)


def leased() -> Net:
    """A donor's one extent, leased to C0."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.give(C0, Want(10))
    assert net.held(C0) == [E0]
    return net


def test_a_lost_offer_is_made_again_to_the_same_consumer() -> None:
    """The donor's next report shows that it never heard; no epoch is wasted."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.lost = Assign
    net.give(C0, Want(10))
    assert net.states() == [State.OFFERED]
    net.lost = None
    told = net.give(D0, Wake(), SECOND)
    assert told == [(C0, Usable(Lease(E0, 1, 10, C0, 11 * SECOND)))]


def test_a_lost_grant_is_made_again_to_a_consumer_that_does_not_list_it() -> None:
    """The consumer's next report is answered with every lease that is its own, listed or not."""
    net = Net()
    net.give(D0, Donate(((0, 10),)))
    net.lost = Granted
    net.give(C0, Want(10))
    assert (net.states(), net.held(C0)) == ([State.LEASED], [])
    net.lost = None
    assert net.give(C0, Wake(), SECOND) == [(C0, Usable(Lease(E0, 1, 10, C0, 11 * SECOND)))]


def test_a_lost_drain_is_said_again() -> None:
    """Each report of a consumer that should leave is answered with the order to leave."""
    net = leased()
    net.lost = Drain
    assert net.give(D0, Reclaim(10)) == []
    net.lost = None
    assert net.give(C0, Wake(), SECOND) == [(C0, Evacuate(E0, 1, "reclaim"))]


def test_a_lost_closing_word_is_asked_for_again() -> None:
    """The consumer closed and its word was lost: its next report is answered by the order, and it says so again."""
    net = leased()
    assert net.give(D0, Reclaim(10)) == [(C0, Evacuate(E0, 1, "reclaim"))]
    net.lost = Closed
    assert net.give(C0, Emptied(E0, 1)) == []
    net.lost = None
    assert net.give(C0, Wake(), SECOND) == [(D0, Regained(E0, 10))]


def test_a_lost_freeing_is_said_again() -> None:
    """The donor's next report still names the holder: it is told again, by word or by death."""
    net = leased()
    net.give(C0, Want(0))
    net.lost = Free
    net.give(C0, Emptied(E0, 1))
    assert net.states() == [State.CLOSED]
    net.lost = None
    net.give(D0, Wake(), SECOND)
    assert net.states() == [State.FREE]


def test_a_lost_freeing_of_a_dead_consumer_still_scrubs() -> None:
    """That the holder died is not forgotten when it is said again."""
    net = leased()
    net.machines.pop(C0)
    net.lost = Free
    assert net.give(COORDINATOR, Died(C0)) == []
    net.lost = None
    assert net.give(D0, Wake(), SECOND) == [(D0, Scrub(E0))]


def test_a_lost_want_does_not_ping_pong() -> None:
    """What a consumer refuses is not offered to it again before it reports; others may have it."""
    net = leased()
    net.lost = ConsumerReport
    net.give(C0, Want(0))
    assert net.give(C0, Emptied(E0, 1)) == [], "it would go round for ever"
    net.lost = None
    assert (net.states(), net.held(C0)) == ([State.FREE], [])
    net.give(C1, Want(10))
    assert net.held(C1) == [E0]


def test_the_other_donors_leases_are_renewed_meanwhile() -> None:
    """One donor's silence is its own: leases of another are renewed by the same report."""
    net = leased()
    net.give(D1, Donate(((0, 10),)))
    net.give(C0, Want(20))
    net.machines.pop(D1)
    for second in range(1, 25):
        net.give(D0, Wake(), second * SECOND)
        net.give(C0, Wake(), second * SECOND)
    assert net.states() == [State.LEASED, State.REVOKED]
    assert consumer(net, C0).may_write(25 * SECOND, E0, 1)
