"""AQUA's released coordinator, donor protocol and consumer policy, exactly."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core.leases.faithful import (
    COORDINATOR_ID,
    LOCAL_ID,
    AddMapping,
    Allocate,
    Allocated,
    Allocation,
    Consumer,
    Coordinator,
    Create,
    CreateStore,
    DeleteMapping,
    Done,
    Donor,
    DropStore,
    EndReclaim,
    FreeAllocation,
    Message,
    Move,
    Moved,
    MustLeave,
    Offer,
    Operation,
    Poll,
    ReclaimStatus,
    Refused,
    RequestReclaim,
    ResizeStore,
    Respond,
    Returned,
    StartReclaim,
    StoreStatus,
)

SECOND = 1_000_000_000
NULL = Allocated(None)


def ask(coordinator: Coordinator, operation: Operation) -> Message:
    """Carry an operation out and return the reply to its caller."""
    ((to, reply),) = coordinator.handle(0, operation)
    assert to == operation.source
    coordinator.check()
    return reply


def lending(size: int = 100) -> Coordinator:
    """A coordinator where GPU 2 lends `size` bytes to GPU 0."""
    coordinator = Coordinator({0: 2})
    assert ask(coordinator, CreateStore(2, 2, "cuda:2", size)) == Done()
    return coordinator


def test_m1_every_operation_as_released() -> None:
    """The eight operations and the mapping in one life of a store, every reply exact."""
    coordinator = lending(0)
    assert isinstance(ask(coordinator, CreateStore(2, 2, "cuda:2", 5)), Refused)
    assert ask(coordinator, ResizeStore(2, 2, 100)) == Done()
    first = Allocation(1, 2, "cuda:2", 60)
    assert ask(coordinator, Allocate(0, 60)) == Allocated(first)
    assert ask(coordinator, ReclaimStatus(2, 2)) == StoreStatus(100, 40, False)
    assert ask(coordinator, Respond(0, (1,))) == MustLeave(())
    assert ask(coordinator, RequestReclaim(2, 2)) == Done()
    assert ask(coordinator, Respond(0, (1, 7))) == MustLeave((1,))
    assert ask(coordinator, FreeAllocation(0, 1)) == Done()
    assert isinstance(ask(coordinator, FreeAllocation(0, 1)), Refused)
    assert ask(coordinator, ReclaimStatus(2, 2)) == StoreStatus(100, 100, True)
    assert ask(coordinator, EndReclaim(2, 2)) == Done()
    assert ask(coordinator, DropStore(2, 2)) == Done()
    assert isinstance(ask(coordinator, ReclaimStatus(2, 2)), Refused)
    assert isinstance(ask(coordinator, RequestReclaim(2, 2)), Refused)
    assert isinstance(ask(coordinator, DropStore(2, 2)), Refused)
    assert isinstance(ask(coordinator, ResizeStore(2, 2, 1)), Refused)


def test_m1_callers_are_known_by_gpu_and_served_from_their_mapped_donor_only() -> None:
    """Another store with room does not help; the mapping can be changed while running."""
    coordinator = lending()
    ask(coordinator, CreateStore(3, 3, "cuda:3", 100))
    assert ask(coordinator, Allocate(1, 10)) == NULL
    assert ask(coordinator, AddMapping(1, 3, 1)) == Done()
    assert ask(coordinator, Allocate(1, 10)) == Allocated(Allocation(1, 3, "cuda:3", 10))
    assert isinstance(ask(coordinator, DeleteMapping(1, 2, 1)), Refused)
    assert ask(coordinator, DeleteMapping(1, 3, 1)) == Done()
    assert ask(coordinator, Allocate(1, 10)) == NULL


def test_m2_refused_when_missing_too_small_or_under_reclaim_never_in_part() -> None:
    """Null, not a queue and not a part: no store, one byte too many, a reclaim under way."""
    assert ask(Coordinator({0: 2}), Allocate(0, 1)) == NULL
    coordinator = lending(100)
    assert ask(coordinator, Allocate(0, 101)) == NULL
    assert ask(coordinator, ReclaimStatus(2, 2)) == StoreStatus(100, 100, True)
    ask(coordinator, RequestReclaim(2, 2))
    assert ask(coordinator, Allocate(0, 1)) == NULL
    ask(coordinator, EndReclaim(2, 2))
    assert isinstance(ask(coordinator, Allocate(0, 100)), Allocated)
    assert ask(coordinator, Allocate(0, 1)) == NULL


OPERATIONS = st.one_of(
    st.builds(Allocate, st.integers(0, 1), st.integers(1, 60)),
    st.builds(FreeAllocation, st.just(0), st.integers(1, 8)),
    st.builds(ResizeStore, st.just(2), st.just(2), st.integers(-80, 80)),
    st.builds(RequestReclaim, st.just(2), st.just(2)),
    st.builds(EndReclaim, st.just(2), st.just(2)),
    st.builds(DropStore, st.just(2), st.just(2)),
    st.builds(CreateStore, st.just(2), st.just(2), st.just("cuda:2"), st.integers(0, 80)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=30))
def test_m3_m4_allocated_bytes_never_exceed_the_capacity(operations: list[Operation]) -> None:
    """Whatever is asked in whatever order: sums hold, and `can_reclaim` says that nothing is allocated."""
    coordinator = Coordinator({0: 2, 1: 2})
    for operation in operations:
        reply = ask(coordinator, operation)
        if isinstance(reply, Refused):
            assert reply.reason
        status = ask(coordinator, ReclaimStatus(2, 2))
        if isinstance(status, StoreStatus):
            used = sum(a.bytes for a in coordinator.allocations.values())
            assert status == StoreStatus(status.available + used, status.capacity - used, used == 0)


class Server:
    """One coordinator, donor 2, consumer 0; calls are answered at once, the engine's moves are kept."""

    def __init__(self) -> None:
        self.coordinator = Coordinator({0: 2})
        self.donor = Donor(2)
        self.consumer = Consumer(0)
        self.told: list[Message] = []

    def carry(self, me: int, sent: list[tuple[int, Message]]) -> list[Message]:
        """Carry calls and replies until silence; return what the engines were told."""
        self.told = []
        queue = [(me, to, message) for to, message in sent]
        while queue:
            me, to, message = queue.pop(0)
            if to == LOCAL_ID:
                self.told.append(message)
                continue
            machines: dict[int, Coordinator | Donor | Consumer]
            machines = {COORDINATOR_ID: self.coordinator, 2: self.donor, 0: self.consumer}
            queue += [(to, *answer) for answer in machines[to].handle(0, message)]  # type: ignore[arg-type]
            machines[to].check()
        return self.told

    def lend(self, message: Message) -> list[Message]:
        """Tell the donor."""
        return self.carry(2, self.donor.handle(0, message))

    def use(self, message: Message) -> list[Message]:
        """Tell the consumer."""
        return self.carry(0, self.consumer.handle(0, message))

    def respond(self, now: int) -> list[Message]:
        """End an iteration of the consumer."""
        return self.carry(0, self.consumer.respond(now))


def test_m3_m10_a_reclaim_ends_within_period_plus_move_plus_poll() -> None:
    """Request, up to 4 s until the consumer responds, its move, the next poll: then all capacity is back at once."""
    server = Server()
    server.lend(Offer(100))
    server.use(Create((("k", 40), ("v", 20))))
    server.use(Moved())
    assert server.respond(0) == []
    assert server.lend(StartReclaim()) == []
    assert server.lend(Poll()) == []
    assert server.respond(4 * SECOND - 1) == []
    assert server.respond(4 * SECOND) == [Move(("k", "v"), 60, "")]
    assert server.consumer.busy
    assert server.lend(Poll()) == [], "not before the consumer has moved and freed"
    server.use(Moved())
    assert server.lend(Poll()) == [Returned(100)]
    assert server.coordinator.stores[2].capacity == 0
    assert server.coordinator.reclaiming == set()
    assert (server.donor.leased, server.donor.reclaiming) == (0, False)
    server.lend(Offer(70))
    assert server.coordinator.stores[2].capacity == 70


def test_m3_taking_back_shrinks_before_it_unmarks() -> None:
    """Exactly these calls in this order, so that nobody can allocate in between."""
    donor = Donor(2)
    assert donor.handle(0, Offer(9)) == [(COORDINATOR_ID, CreateStore(2, 2, "cuda:2", 9))]
    assert donor.handle(0, StartReclaim()) == [(COORDINATOR_ID, RequestReclaim(2, 2))]
    assert donor.handle(0, Poll()) == [(COORDINATOR_ID, ReclaimStatus(2, 2))]
    assert donor.handle(0, Poll()) == [], "one call at a time"
    assert donor.handle(0, StoreStatus(9, 3, False)) == []
    assert donor.handle(0, Poll()) == [(COORDINATOR_ID, ReclaimStatus(2, 2))]
    assert donor.handle(0, StoreStatus(9, 9, True)) == [
        (COORDINATOR_ID, ResizeStore(2, 2, -9)),
        (COORDINATOR_ID, EndReclaim(2, 2)),
        (LOCAL_ID, Returned(9)),
    ]
    assert donor.handle(0, Poll()) == []


def test_m6_host_memory_without_a_lease_and_promotion_later() -> None:
    """No store: tensors stay in host memory; a lease appears: everything is promoted, in `respond` only."""
    server = Server()
    assert server.use(Create((("k", 40), ("v", 20)))) == []
    assert server.consumer.peer("k") is None
    assert server.respond(0) == []
    server.lend(Offer(100))
    assert server.consumer.peer("k") is None
    assert server.respond(4 * SECOND - 1) == []
    assert server.respond(4 * SECOND) == [Move(("k", "v"), 60, "cuda:2")]
    assert server.respond(9 * SECOND) == [], "the engine waits for the move"
    server.use(Moved())
    assert server.consumer.peer("v") == "cuda:2"


def test_m6_nothing_is_promoted_while_anything_is_held() -> None:
    """As released: half on the donor, half in host memory stays so, even when room appears."""
    server = Server()
    server.lend(Offer(50))
    assert server.use(Create((("k", 40),))) == [Move(("k",), 40, "cuda:2")]
    server.use(Moved())
    assert server.use(Create((("v", 40),))) == []
    server.lend(Offer(50))
    for second in range(0, 40, 4):
        assert server.respond(second * SECOND) == []
    assert (server.consumer.peer("k"), server.consumer.peer("v")) == ("cuda:2", None)


def test_m7_all_tensors_of_a_revoked_allocation_leave_before_it_is_freed() -> None:
    """Both allocations are demoted in one move; until it is complete, nothing is freed; next period: promotion."""
    server = Server()
    server.lend(Offer(100))
    for name in ("k", "v"):
        server.use(Create(((name, 40),)))
        server.use(Moved())
    server.lend(StartReclaim())
    assert server.respond(0) == [Move(("k", "v"), 80, "")]
    assert server.coordinator.stores[2].allocated == 80
    server.use(Moved())
    assert server.coordinator.stores[2].allocated == 0
    assert server.consumer.peer("k") is None
    assert server.lend(Poll()) == [Returned(100)]
    assert server.respond(4 * SECOND) == [], "no room: stays in host memory"
    server.lend(Offer(80))
    assert server.respond(8 * SECOND) == [Move(("k", "v"), 80, "cuda:2")]
