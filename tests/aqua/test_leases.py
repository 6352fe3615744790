"""AQUA's requirements M1 to M4: the coordinator, as released (`faithful`) and as `aquasim.core.leases` does it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core import leases as ours
from aquasim.core.leases import faithful as theirs
from aquasim.core.leases.faithful import (
    AddMapping,
    Allocate,
    Allocated,
    Allocation,
    CreateStore,
    DeleteMapping,
    Done,
    DropStore,
    EndReclaim,
    FreeAllocation,
    MustLeave,
    ReclaimStatus,
    Refused,
    RequestReclaim,
    ResizeStore,
    Respond,
    StoreStatus,
)

DONOR, USER, OTHER = 2, 0, 1
"""Physical GPUs. The mapping sends USER to DONOR."""
NULL = Allocated(None)


class Release:
    """The released coordinator, asked one operation after the other."""

    def __init__(self, size: int | None = None) -> None:
        self.coordinator = theirs.Coordinator({USER: DONOR})
        if size is not None:
            assert self.ask(CreateStore(DONOR, DONOR, "cuda:2", size)) == Done()

    def ask(self, operation: theirs.Operation) -> theirs.Message:
        """Return the reply, which goes to the GPU that asked."""
        ((to, reply),) = self.coordinator.handle(0, operation)
        assert to == operation.source
        self.coordinator.check()
        return reply

    def status(self) -> theirs.Message:
        """Return the donor's reclaim status."""
        return self.ask(ReclaimStatus(DONOR, DONOR))


class Ours:
    """Our coordinator with donors d0, d1 and consumers c0, c1 on a network without delay."""

    def __init__(self, near: dict[str, tuple[str, ...]] | None = None) -> None:
        self.coordinator = ours.Coordinator(near=near or {})
        self.donors = {n: ours.Donor(ours.Process(n)) for n in ("d0", "d1")}
        self.consumers = {n: ours.Consumer(ours.Process(n)) for n in ("c0", "c1")}
        self.regained = 0
        self.leaving: list[tuple[str, ours.Evacuate]] = []

    def tell(self, name: str, message: ours.Message) -> None:
        """Give a machine a message and carry on until silence."""
        machine = (self.donors | self.consumers).get(name, self.coordinator)
        for to, answer in machine.handle(0, message):
            if isinstance(answer, ours.Regained):
                self.regained += answer.bytes
            elif isinstance(answer, ours.Evacuate):
                self.leaving.append((name, answer))
            elif to != ours.LOCAL:
                self.tell(to.name, answer)
        machine.check()

    def leave(self) -> None:
        """Let a consumer finish the oldest evacuation."""
        name, order = self.leaving.pop(0)
        self.tell(name, ours.Emptied(order.extent, order.epoch))

    def held(self, name: str) -> list[str]:
        """Names of the donors of each extent that a consumer holds."""
        return [extent.donor.name for extent in self.consumers[name].holds]

    def lend(self, name: str, *sizes: int) -> None:
        """Donate extents."""
        donor = self.donors[name]
        first = 1 + max((extent.number for extent in donor.slabs), default=self.regained)
        self.tell(name, ours.Donate(tuple(enumerate(sizes, first))))


# --- M1 ------------------------------------------------------------------------------------------------------


def test_m01_the_eight_operations_as_released() -> None:
    """Lease, resize, unlease, allocate, free, respond, reclaim request and status: each with its effect and reply."""
    release = Release()
    assert release.ask(CreateStore(DONOR, DONOR, "cuda:2", 0)) == Done()
    assert release.ask(ResizeStore(DONOR, DONOR, 100)) == Done()
    assert release.ask(Allocate(USER, 60)) == Allocated(Allocation(1, DONOR, "cuda:2", 60))
    assert release.ask(Respond(USER, (1,))) == MustLeave(())
    assert release.status() == StoreStatus(100, 40, False)
    assert release.ask(RequestReclaim(DONOR, DONOR)) == Done()
    assert release.ask(Respond(USER, (1,))) == MustLeave((1,))
    assert release.ask(FreeAllocation(USER, 1)) == Done()
    assert release.status() == StoreStatus(100, 100, True)
    assert release.ask(ResizeStore(DONOR, DONOR, -100)) == Done()
    assert release.ask(EndReclaim(DONOR, DONOR)) == Done()
    assert release.ask(DropStore(DONOR, DONOR)) == Done()


@pytest.mark.parametrize(
    "operation",
    [
        CreateStore(DONOR, DONOR, "cuda:2", 5),
        ResizeStore(DONOR, 9, 1),
        ResizeStore(DONOR, DONOR, -41),
        DropStore(DONOR, 9),
        DropStore(DONOR, DONOR),
        FreeAllocation(USER, 7),
        RequestReclaim(DONOR, 9),
        ReclaimStatus(DONOR, 9),
        DeleteMapping(DONOR, 9, USER),
    ],
)
def test_m01_wrong_operations_change_nothing(operation: theirs.Operation) -> None:
    """What exists is not created, what does not exist is not changed, what is allocated is not taken away."""
    release = Release(100)
    release.ask(Allocate(USER, 60))
    assert isinstance(release.ask(operation), Refused)
    assert release.status() == StoreStatus(100, 40, False)


def test_m01_callers_are_gpus_and_the_map_is_honoured() -> None:
    """Who is mapped nowhere gets nothing; who is mapped gets its own donor's memory, by its physical id."""
    release = Release(100)
    release.ask(CreateStore(3, 3, "cuda:3", 100))
    assert release.ask(Allocate(OTHER, 10)) == NULL
    assert release.ask(AddMapping(DONOR, 3, OTHER)) == Done()
    assert release.ask(Allocate(OTHER, 10)) == Allocated(Allocation(1, 3, "cuda:3", 10))
    assert release.ask(Allocate(USER, 10)) == Allocated(Allocation(2, DONOR, "cuda:2", 10))
    assert release.ask(DeleteMapping(DONOR, 3, OTHER)) == Done()
    assert release.ask(Allocate(OTHER, 10)) == NULL


def test_m01_our_map_is_honoured() -> None:
    """A mapped consumer leases from its donors alone, however free others are; others from any."""
    server = Ours({"c0": ("d1",)})
    server.lend("d0", 10, 10, 10)
    server.lend("d1", 10)
    server.tell("c0", ours.Want(40))
    server.tell("c1", ours.Want(40))
    assert server.held("c0") == ["d1"]
    assert server.held("c1") == ["d0"] * 3


# --- M2 ------------------------------------------------------------------------------------------------------


def test_m02_refused_without_a_store_with_too_little_and_under_reclaim() -> None:
    """Null at once, all or nothing, and nothing is queued: what appears later is not given unasked."""
    assert Release().ask(Allocate(USER, 1)) == NULL
    release = Release(100)
    assert release.ask(Allocate(USER, 101)) == NULL
    assert release.status() == StoreStatus(100, 100, True)
    release.ask(RequestReclaim(DONOR, DONOR))
    assert release.ask(Allocate(USER, 1)) == NULL
    release.ask(EndReclaim(DONOR, DONOR))
    release.ask(ResizeStore(DONOR, DONOR, 100))
    assert release.coordinator.allocations == {}
    assert release.ask(Allocate(USER, 200)) == Allocated(Allocation(1, DONOR, "cuda:2", 200))


def test_m02_ours_lends_nothing_under_reclaim() -> None:
    """No extent of a donor that wants memory back is leased, whoever asks, until it has all it wants."""
    server = Ours()
    server.lend("d0", 10, 10)
    server.tell("c0", ours.Want(20))
    server.tell("d0", ours.Reclaim(20))
    server.tell("c1", ours.Want(20))
    server.leave()
    assert (server.held("c1"), server.regained) == ([], 10)
    server.leave()
    server.lend("d0", 10)
    assert server.regained == 20
    assert len(server.held("c0") + server.held("c1")) == 1


# --- M3 ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.data())
def test_m03_can_reclaim_if_and_only_if_nothing_is_allocated(sizes: list[int], data: st.DataObject) -> None:
    """Freed in any order: false up to the last free, true after it; then all capacity goes and the mark with it."""
    release = Release(sum(sizes))
    for size in sizes:
        release.ask(Allocate(USER, size))
    release.ask(RequestReclaim(DONOR, DONOR))
    order = data.draw(st.permutations(range(1, len(sizes) + 1)))
    for id in order:
        assert release.status() == StoreStatus(
            sum(sizes), sum(sizes[i - 1] for i in order[: order.index(id)]), False
        )
        release.ask(FreeAllocation(USER, id))
    assert release.status() == StoreStatus(sum(sizes), sum(sizes), True)
    donor = theirs.Donor(DONOR)
    donor.leased, donor.created, donor.reclaiming = sum(sizes), True, True
    for to, message in donor.handle(0, StoreStatus(sum(sizes), sum(sizes), True)):
        if to == theirs.COORDINATOR_ID:
            assert release.ask(message) == Done()  # type: ignore[arg-type]
    assert release.status() == StoreStatus(0, 0, True)
    assert release.coordinator.reclaiming == set()


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 200))
def test_m03_ours_regains_an_extent_if_and_only_if_nobody_holds_it(sizes: list[int], debt: int) -> None:
    """Back comes exactly what nobody holds, until the debt is covered in whole extents; then it is forgotten."""
    server = Ours()
    server.lend("d0", *sizes)
    server.tell("c0", ours.Want(sum(sizes)))
    server.tell("d0", ours.Reclaim(debt))
    assert server.regained == 0
    while server.leaving:
        before = server.regained
        size = sizes[server.leaving[0][1].extent.number - 1]
        server.leave()
        assert server.regained == before + size
    donor = server.donors["d0"]
    assert donor.owed == 0
    assert server.regained + sum(slab.bytes for slab in donor.slabs.values()) == sum(sizes)
    assert min(debt, sum(sizes)) <= server.regained < debt + max(sizes)


# --- M4 ------------------------------------------------------------------------------------------------------

CALLS = st.one_of(
    st.builds(Allocate, st.sampled_from([USER, OTHER]), st.integers(1, 60)),
    st.builds(FreeAllocation, st.just(USER), st.integers(1, 8)),
    st.builds(ResizeStore, st.just(DONOR), st.just(DONOR), st.integers(-80, 80)),
    st.builds(RequestReclaim, st.just(DONOR), st.just(DONOR)),
    st.builds(EndReclaim, st.just(DONOR), st.just(DONOR)),
)


@settings(deadline=None)
@given(st.lists(CALLS, max_size=40))
def test_m04_allocations_never_exceed_the_capacity(calls: list[theirs.Operation]) -> None:
    """Calls of a donor and two consumers in any order: what is allocated is counted once, and fits."""
    release = Release(100)
    release.ask(AddMapping(DONOR, DONOR, OTHER))
    for call in calls:
        release.ask(call)
        used = sum(allocation.bytes for allocation in release.coordinator.allocations.values())
        status = release.status()
        assert isinstance(status, StoreStatus)
        assert 0 <= used <= status.capacity
        assert status.available == status.capacity - used


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["lend", "want", "reclaim", "leave"]), st.integers(0, 1), st.integers(0, 20)),
    max_size=40,
)


@settings(deadline=None)
@given(ACTIONS)
def test_m04_ours_leases_no_byte_that_was_not_donated(actions: list[tuple[str, int, int]]) -> None:
    """Donors and consumers in any order: every extent has one holder, and was donated and not regained."""
    server = Ours()
    donated = 0
    for action, which, size in actions:
        if action == "lend":
            numbers = [e.number for e in server.donors[f"d{which}"].slabs] + [
                server.donors[f"d{which}"]._used
            ]
            server.tell(f"d{which}", ours.Donate(((max(numbers) + 1, size + 1),)))
            donated += size + 1
        elif action == "want":
            server.tell(f"c{which}", ours.Want(size))
        elif action == "reclaim":
            server.tell(f"d{which}", ours.Reclaim(size))
        elif server.leaving:
            server.leave()
        holds = [each for consumer in server.consumers.values() for each in consumer.holds.items()]
        assert len({extent for extent, _ in holds}) == len(holds), "leased twice"
        slabs = {e: s for donor in server.donors.values() for e, s in donor.slabs.items()}
        assert all(slabs[extent].epoch == hold.epoch for extent, hold in holds)
        assert sum(slab.bytes for slab in slabs.values()) == donated - server.regained
