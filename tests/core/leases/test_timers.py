"""The coordinator's heap of times, against a plain dictionary."""

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from lease_net import D0, LEASE, SECOND

from aquasim.core.leases import (
    Closed,
    Consumer,
    Coordinator,
    Donate,
    Donor,
    Extent,
    Process,
    Record,
    State,
    Want,
)
from aquasim.core.leases.timers import Timers

KEYS = st.builds(Extent, st.just(D0), st.integers(0, 4))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, st.integers(1, 30), st.booleans()), max_size=60))
def test_the_first_time_is_the_least_whatever_is_put_off(changes: list[tuple[Extent, int, bool]]) -> None:
    """Times that begin, fall, grow unsaid and vanish unsaid: first and passed are as in a plain dictionary."""
    times: dict[Extent, int] = {}
    records: dict[Extent, Record] = {}
    timers = Timers(records)
    for now, (extent, wait, vanish) in enumerate(changes):
        if vanish:
            times.pop(extent, None)
            records.pop(extent, None)
        else:
            grew = extent in times and times[extent] <= now + wait
            times[extent] = now + wait
            records[extent] = Record(1, 1, State.LEASED, expires=now + wait)
            if not grew:
                timers.begin(extent, now + wait)
        timers.check(extent)
        assert timers.first() == min(times.values(), default=None)
        passed = {extent for extent, when in times.items() if when <= now}
        assert timers.passed(now) == passed
        for extent in passed:
            del times[extent], records[extent]


def lent(extents: int) -> tuple[Coordinator, Consumer]:
    """A coordinator with so many leases of one consumer, and that consumer."""
    coordinator, donor, consumer = Coordinator(), Donor(D0), Consumer(Process("c0"))
    sent = donor.handle(0, Donate(tuple((n, 1) for n in range(extents)))) + consumer.handle(0, Want(extents))
    while sent:
        to, message = sent.pop()
        machine: Any = {D0: donor, consumer.me: consumer}.get(to, coordinator)
        sent += [answer for answer in machine.handle(0, message) if answer[0].name != "local"]
    assert all(record.state is State.LEASED for record in coordinator.records.values())
    return coordinator, consumer


def test_messages_cost_no_look_at_every_extent() -> None:
    """With 20 times the leases, a message about one costs about the same, the look at the clock included."""

    def cost(extents: int) -> float:
        coordinator, consumer = lent(extents)
        message = Closed(consumer.me, Extent(D0, 0), 9)  # of no lease
        began = time.process_time()
        for _ in range(3000):
            coordinator.handle(SECOND, message)
            assert coordinator.wake_at() == LEASE
        return time.process_time() - began

    few, many = (min(cost(extents) for _ in range(3)) for extents in (50, 1000))
    assert many < 5 * few


def test_renewals_leave_nothing_behind() -> None:
    """After a thousand renewals of every lease the heap holds no more entries than there are leases."""
    coordinator, consumer = lent(20)
    for second in range(1, 1000):
        now = second * SECOND
        coordinator.donors[D0].heard = now
        for _, message in consumer.handle(now, Want(20)):
            coordinator.handle(now, message)
    assert coordinator.wake_at() == 999 * SECOND + LEASE
    assert len(coordinator._timers._heap) == 20
