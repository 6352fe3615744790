"""Leases under crashes, silence, skewed clocks, and messages lost, repeated, delayed and reordered."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Consumer,
    Coordinator,
    Died,
    Donate,
    Donor,
    Emptied,
    Evacuate,
    Extent,
    Message,
    Process,
    Reclaim,
    Regained,
    Scrub,
    Scrubbed,
    Sent,
    State,
    Usable,
    Wake,
    Want,
    Watch,
)

SECOND = 1_000_000_000
MARGIN = 500_000_000
DONORS = ("d0", "d1")
CONSUMERS = ("c0", "c1")
Machine = Coordinator | Donor | Consumer


@dataclass
class World:
    """Processes, a network without manners, engines that obey when asked to, and a naive model of who uses what."""

    near: dict[str, tuple[str, ...]]
    now: int = 0
    live: dict[Process, Donor | Consumer] = field(default_factory=dict)
    skew: dict[Process, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    coordinator: Coordinator | None = None
    net: list[tuple[Process, Message]] = field(default_factory=list)
    watched: set[Process] = field(default_factory=set)
    facts: list[Process] = field(default_factory=list)
    evacuating: list[tuple[Process, Evacuate]] = field(default_factory=list)
    scrubbing: list[tuple[Process, Scrub]] = field(default_factory=list)
    # The naive model: extent -> user; what a dead user left behind; what its donor has back; bytes in and out.
    users: dict[Extent, Process] = field(default_factory=dict)
    dirty: set[Extent] = field(default_factory=set)
    regained: set[Extent] = field(default_factory=set)
    told: set[tuple[Process, Extent, int]] = field(default_factory=set)
    revoked: set[tuple[Process | None, Extent, int]] = field(default_factory=set)
    donated: dict[Process, int] = field(default_factory=dict)
    back: dict[Process, int] = field(default_factory=dict)

    def start_coordinator(self, skew: int) -> None:
        """Start an empty coordinator."""
        self.coordinator = Coordinator(near=self.near)
        self.skew[COORDINATOR] = skew
        self.watched, self.facts, self.revoked = set(), [], set()

    def start(self, name: str, skew: int) -> Process:
        """Start a donor or consumer under a name whose last run is dead."""
        self.runs[name] = self.runs.get(name, -1) + 1
        me = Process(name, self.runs[name])
        self.live[me] = Donor(me) if name in DONORS else Consumer(me, margin_ns=MARGIN)
        self.skew[me] = skew
        self.donated[me] = self.back[me] = 0
        return me

    def kill(self, me: Process) -> None:
        """Kill a process; what it used is dirty."""
        del self.live[me]
        for extent in [e for e, user in self.users.items() if user == me]:
            del self.users[extent]
            self.dirty.add(extent)
        if me in self.watched:
            self.facts.append(me)

    def give(self, to: Process, message: Message) -> None:
        """Hand a message to a machine, if it lives, and let its engine and the network have the answers."""
        machine: Machine | None = self.coordinator if to == COORDINATOR else self.live.get(to)
        if machine is None:
            return
        sent = machine.handle(self.now + self.skew[to], message)
        machine.check()
        if isinstance(machine, Coordinator):
            kept = machine.records.items()
            self.revoked |= {(r.owner, e, r.epoch) for e, r in kept if r.state is State.REVOKED}
        self.take(to, sent)

    def take(self, me: Process, sent: Sent) -> None:
        """Sort answers into network and engine."""
        for to, message in sent:
            if to == LOCAL:
                self.local(me, message)
            else:
                self.net.append((to, message))

    def local(self, me: Process, message: Message) -> None:
        """What engines and operating system are told; the model objects to what must not be."""
        match message:
            case Watch(process=process):
                self.watched.add(process)
                if process not in self.live:
                    self.facts.append(process)
            case Usable(lease=lease):
                assert lease.owner == me
                assert lease.extent not in self.users, "leased twice"
                assert lease.extent not in self.dirty, "leased before it was scrubbed"
                assert lease.extent not in self.regained, "leased after its donor had it back"
                self.users[lease.extent] = me
            case Evacuate(extent=extent, epoch=epoch):
                assert self.users[extent] == me
                self.told.add((me, extent, epoch))
                self.evacuating.append((me, message))
            case Scrub():
                self.scrubbing.append((me, message))
            case Regained(extent=extent, bytes=size):
                assert extent not in self.users, "back while a live consumer uses it"
                self.regained.add(extent)
                self.back[me] += size

    def evacuate(self, index: int) -> None:
        """Let an engine finish an evacuation."""
        me, order = self.evacuating.pop(index)
        self.empty(me, order.extent, order.epoch)

    def empty(self, me: Process, extent: Extent, epoch: int) -> None:
        """An engine has nothing in an extent any more."""
        machine = self.live.get(me)
        if isinstance(machine, Consumer) and machine.may_read(extent, epoch):  # else it was released before
            del self.users[extent]
            self.give(me, Emptied(extent, epoch))

    def scrub(self, index: int) -> None:
        """Let a donor's engine finish scrubbing."""
        me, order = self.scrubbing.pop(index)
        if me in self.live:
            self.dirty.discard(order.extent)
            self.give(me, Scrubbed(order.extent))

    def settle(self, seconds: int) -> None:
        """Heal: deliver everything in order, wake everybody on time, let engines obey; assert that it quietens."""
        if self.coordinator is None:
            self.start_coordinator(0)
        for _ in range(seconds):
            self.now += SECOND
            for me in [COORDINATOR, *self.live]:
                self.give(me, Wake())
            steps = 0
            while self.net or self.facts or self.evacuating or self.scrubbing:
                self.step()
                steps += 1
                assert steps < 1_000, "messages without end"

    def step(self) -> None:
        """Do the oldest thing that is under way."""
        if self.facts:
            self.give(COORDINATOR, Died(self.facts.pop(0)))
        elif self.net:
            self.give(*self.net.pop(0))
        elif self.evacuating:
            self.evacuate(0)
        elif self.scrubbing:
            self.scrub(0)

    def consumers(self) -> list[tuple[Process, Consumer]]:
        """Live consumers."""
        return [(me, m) for me, m in self.live.items() if isinstance(m, Consumer)]

    def donors(self) -> list[tuple[Process, Donor]]:
        """Live donors."""
        return [(me, m) for me, m in self.live.items() if isinstance(m, Donor)]


def check_settled(world: World) -> None:
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
    free = {e.donor.name for e, r in records.items() if r.state is State.FREE}
    for me, machine in world.consumers():
        near = set(world.near.get(me.name, DONORS))
        assert machine.leased >= machine.want or not free & near, "wants what is free"
        assert all(e.donor.name in near for e in machine.holds)


def check_writes(world: World) -> None:
    """Who may write, by its own clock, is the only user of donated memory, untold and unrevoked."""
    for me, machine in world.consumers():
        for extent, hold in machine.holds.items():
            if machine.may_write(world.now + world.skew[me], extent, hold.epoch):
                assert world.users[extent] == me
                assert extent not in world.regained
                assert (me, extent, hold.epoch) not in world.told
                assert (me, extent, hold.epoch) not in world.revoked
            donor = world.live.get(extent.donor)
            if isinstance(donor, Donor):  # its table says the same of everyone who holds anything
                assert donor.slabs[extent].owner == me
                assert donor.slabs[extent].epoch == hold.epoch


SKEWS = st.sampled_from([0, MARGIN // 3, MARGIN])
TIMES = st.sampled_from([1, 10_000_000, SECOND, 4 * SECOND, 9_600_000_000, 11 * SECOND])
ANY = st.integers(0, 1_000_000)


class Faults(RuleBasedStateMachine):
    """Everything that can go wrong, in any order; afterwards the world heals and all memory comes back."""

    @initialize(
        mapped=st.booleans(), skews=st.lists(SKEWS, min_size=5, max_size=5), warm=st.sampled_from([0, 9, 20])
    )
    def begin(self, mapped: bool, skews: list[int], warm: int) -> None:
        """Start everybody, and let a few messages through."""
        self.world = World({"c0": ("d1",)} if mapped else {})
        self.world.start_coordinator(skews[4])
        for name, skew in zip(DONORS + CONSUMERS, skews, strict=False):
            me = self.world.start(name, skew)
            self.world.give(me, Donate(((1, 2), (2, 1), (3, 1))) if name in DONORS else Want(3))
            self.world.donated[me] = 4 if name in DONORS else 0
        for _ in range(warm):
            self.world.step()

    def pick(self, kind: type, which: int) -> Process | None:
        """Pick a live process of a kind."""
        found = [me for me, machine in self.world.live.items() if isinstance(machine, kind)]
        return found[which % len(found)] if found else None

    @rule(which=ANY, sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def donate(self, which: int, sizes: list[int]) -> None:
        """Donate new extents."""
        me = self.pick(Donor, which)
        if me is not None:
            first = 1 + max(
                (e.number for e in [*self.world.regained, *self.slabs(me)] if e.donor == me), default=0
            )
            self.world.donated[me] += sum(sizes)
            self.world.give(me, Donate(tuple(enumerate(sizes, first))))

    def slabs(self, me: Process) -> list[Extent]:
        """Extents in the table of a donor."""
        donor = self.world.live[me]
        assert isinstance(donor, Donor)
        return list(donor.slabs)

    @rule(which=ANY, size=st.integers(1, 5))
    def reclaim(self, which: int, size: int) -> None:
        """A donor wants bytes back."""
        me = self.pick(Donor, which)
        if me is not None:
            self.world.give(me, Reclaim(size))

    @rule(which=ANY, size=st.integers(0, 6))
    def want(self, which: int, size: int) -> None:
        """A consumer wants more or less."""
        me = self.pick(Consumer, which)
        if me is not None:
            self.world.give(me, Want(size))

    @rule(which=ANY)
    def release(self, which: int) -> None:
        """A consumer releases a lease, told to or not."""
        held = [(me, e, h.epoch) for me, m in self.world.consumers() for e, h in m.holds.items()]
        if held:
            self.world.empty(*held[which % len(held)])

    @rule(count=st.integers(1, 12))
    def flow(self, count: int) -> None:
        """Everything goes well for some steps."""
        for _ in range(count):
            self.world.step()

    @rule(count=st.integers(10, 40))
    def flow_on(self, count: int) -> None:
        """Everything goes well for longer."""
        self.flow(count)

    @precondition(lambda self: self.world.net)
    @rule(which=ANY, repeat=st.booleans())
    def deliver_any(self, which: int, repeat: bool) -> None:
        """Deliver out of order, perhaps not for the last time."""
        index = which % len(self.world.net)
        to, message = self.world.net[index]
        if not repeat:
            del self.world.net[index]
        self.world.give(to, message)

    @precondition(lambda self: self.world.net)
    @rule(which=ANY)
    def lose(self, which: int) -> None:
        """Lose a message."""
        del self.world.net[which % len(self.world.net)]

    @precondition(lambda self: self.world.evacuating)
    @rule(which=ANY)
    def evacuate(self, which: int) -> None:
        """An evacuation ends, out of order."""
        self.world.evacuate(which % len(self.world.evacuating))

    @rule(time=TIMES)
    def stall(self, time: int) -> None:
        """Time passes; nobody wakes (stopped processes)."""
        self.world.now += time

    @rule(which=ANY)
    def wake(self, which: int) -> None:
        """One machine wakes."""
        everybody = [COORDINATOR, *self.world.live]
        self.world.give(everybody[which % len(everybody)], Wake())

    @rule(time=st.sampled_from([SECOND, 3 * SECOND]))
    def beat(self, time: int) -> None:
        """Time passes and all wake."""
        self.world.now += time
        for me in [COORDINATOR, *self.world.live]:
            self.world.give(me, Wake())

    @rule(which=st.integers(0, 23))
    def crash(self, which: int) -> None:
        """A donor or consumer dies."""
        if which < len(self.world.live):  # seldom enough for leases to live a while
            self.world.kill(list(self.world.live)[which])

    @rule(name=st.sampled_from(DONORS + CONSUMERS), skew=SKEWS)
    def restart(self, name: str, skew: int) -> None:
        """A dead one starts again, knowing nothing."""
        if all(me.name != name for me in self.world.live):
            self.world.start(name, skew)

    @rule(seldom=st.integers(0, 3), skew=SKEWS)
    def crash_coordinator(self, seldom: int, skew: int) -> None:
        """The coordinator dies, or is replaced by one that knows nothing."""
        if seldom == 0:
            self.world.coordinator = None
        elif seldom == 1:
            self.world.start_coordinator(skew)

    @invariant()
    def nobody_writes_where_it_must_not(self) -> None:
        """See `check_writes`."""
        if hasattr(self, "world"):
            check_writes(self.world)

    def teardown(self) -> None:
        """Heal, and get every byte back."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.settle(25)
        check_settled(world)
        for me, _ in world.donors():
            world.give(me, Reclaim(1 << 40))
        world.settle(3)
        for me, donor in world.donors():
            assert not donor.slabs, "a reclaim did not finish"
            assert world.back[me] == world.donated[me]
        assert not world.users


def test_nothing_is_leased_twice_and_all_memory_comes_back() -> None:
    """M4, M7, M10 under faults: one user per byte, no write after revocation, no deadlock, every byte back."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Faults,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
