"""What must hold at every moment, and what must hold when all is quiet."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lease_model import Heard

from aquasim.core.leases import (
    Coordinator,
    DonorReport,
    Extent,
    Process,
    Record,
    State,
)
from aquasim.core.leases.records import ConsumerView, DonorView

if TYPE_CHECKING:
    from lease_world import World

HELD = (State.LEASED, State.DRAINING, State.REVOKED, State.CLOSED)
LEAVING = (State.DRAINING, State.REVOKED, State.CLOSED)


def check_coordinator(coordinator: Coordinator, heard: Heard) -> None:
    """Its views are the newest reports of those not proven dead; its records of held extents what donors said."""
    views: dict[Process, DonorView | ConsumerView] = {**coordinator.donors, **coordinator.consumers}
    assert views.keys() == heard.reports.keys()
    for me, report in heard.reports.items():
        assert (views[me].serial, views[me].heard) == (report.serial, heard.when[me])
        if isinstance(report, DonorReport):
            assert coordinator.donors[me].owed == report.owed
            for row in report.rows:
                if row.owner is not None:
                    record = coordinator.records[row.extent]
                    assert (record.epoch, record.owner) == (row.epoch, row.owner)
                    assert record.state in HELD
        else:
            assert coordinator.consumers[me].want == report.want
    for extent, record in coordinator.records.items():
        check_times(coordinator, heard, extent, record)
    assert coordinator.wake_at() == next_time(coordinator)


def check_times(coordinator: Coordinator, heard: Heard, extent: Extent, record: Record) -> None:
    """A lease lives as long as both sides are heard, ends when its time has come, and never comes back."""
    term = (record.owner, extent, record.epoch)
    now, lease = coordinator.now, coordinator.lease_ns
    assert record.deadline is None or record.deadline > now, "nobody was told"
    if record.state is State.LEASED:
        began = heard.began.setdefault(term, now)
        assert now < record.expires, "not revoked"
        assert record.owner is not None
        assert record.expires <= max(began, heard.when.get(record.owner, 0)) + lease, "renewed unheard"
        assert record.expires < max(began, heard.when[extent.donor] + lease) + lease + 1, (
            "its donor is silent"
        )
        assert term not in heard.leaving, "came back"
    elif record.state in (State.DRAINING, State.REVOKED):
        heard.leaving.add(term)
        if record.state is State.REVOKED:
            heard.revoked.add(term)


def next_time(coordinator: Coordinator) -> int | None:
    """When the first lease expires or the first drain is overdue, by looking at all."""
    records = coordinator.records.values()
    times = [record.expires for record in records if record.state is State.LEASED]
    return min(times + [r.deadline for r in records if r.deadline is not None], default=None)


def check_reclaim(
    coordinator: Coordinator, heard: Heard, donor: Process, before: Mapping[Extent, State]
) -> None:
    """After a donor's report: enough is leaving to cover what is owed, and nothing was called back beyond that."""
    if donor not in heard.reports:
        return
    own = {extent: record for extent, record in coordinator.records.items() if extent.donor == donor}
    leaving = sum(record.bytes for record in own.values() if record.state in LEAVING)
    owed = coordinator.donors[donor].owed
    assert leaving >= owed or all(record.state is not State.LEASED for record in own.values())
    called = [
        record.bytes
        for extent, record in own.items()
        if record.state is State.DRAINING and before.get(extent) is not State.DRAINING
    ]
    assert not called or leaving - max(called) < owed, "called back more than is owed"


def check_writes(world: "World") -> None:
    """Who may write, by its own clock, is the only user of the extent, untold, unrevoked, and written down."""
    for me, machine in world.consumers():
        for extent, hold in machine.holds.items():
            term = (me, extent, hold.epoch)
            assert world.model.users[extent] == term
            if machine.may_write(world.time(me), extent, hold.epoch):
                assert extent not in world.model.regained
                assert term not in world.model.told
                assert term not in world.heard.revoked
            if extent.donor in world.live:
                assert world.model.current[extent] == (hold.epoch, me)


def check_settled(world: "World") -> None:
    """Nothing is under way; the three tables agree; nobody is owed; nobody wants what is there for them."""
    coordinator = world.coordinator
    assert coordinator is not None
    held = {(e, h.epoch, me) for me, m in world.consumers() for e, h in m.holds.items() if not h.draining}
    table = {(e, s.epoch, s.owner) for _, m in world.donors() for e, s in m.slabs.items() if s.owner}
    records = coordinator.records
    assert {r.state for r in records.values()} <= {State.FREE, State.LEASED}
    assert held == table == {(e, r.epoch, r.owner) for e, r in records.items() if r.owner}
    assert sum(len(m.holds) for _, m in world.consumers()) == len(held)
    assert all(m.owed == 0 for _, m in world.donors())
    assert records.keys() == {e for _, m in world.donors() for e in m.slabs}
    assert not world.model.dirty.keys() & records.keys(), "never scrubbed"
    check_satisfied(world, {e.donor.name for e, r in records.items() if r.state is State.FREE})


def check_satisfied(world: "World", free: set[str]) -> None:
    """Nobody wants what is free for them, holds more than that needs, or holds what is not for them."""
    for me, machine in world.consumers():
        near = set(world.near.get(me.name, ("d0", "d1")))
        assert machine.leased >= machine.want or not free & near, "wants what is free"
        assert all(e.donor.name in near for e in machine.holds)
