"""Leases under crashes, silence, skewed clocks, and messages lost, repeated, delayed and reordered."""

from typing import Any

import pytest
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
from lease_checks import check_settled, check_writes
from lease_world import CONSUMERS, DONORS, MARGIN, SECOND, World

from aquasim.core.leases import (
    COORDINATOR,
    Assign,
    Closed,
    Consumer,
    ConsumerReport,
    Donor,
    DonorReport,
    Drain,
    Free,
    Granted,
    Process,
    Reclaim,
    Wake,
    Want,
)

SKEWS = st.sampled_from([0, MARGIN // 3, MARGIN])
TIMES = st.sampled_from([1, 10_000_000, SECOND, 4 * SECOND, 9_600_000_000, 11 * SECOND])
ANY = st.integers(0, 1_000_000)
KINDS = st.sampled_from([Assign, Closed, ConsumerReport, DonorReport, Drain, Free, Granted])
SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3)


class Faults(RuleBasedStateMachine):
    """Everything that can go wrong, in any order; afterwards the world heals and all memory comes back."""

    @initialize(
        mapped=st.booleans(),
        sizes=st.lists(SIZES, min_size=1, max_size=2),
        wants=st.lists(st.integers(1, 4), min_size=2, max_size=2),
        skews=st.lists(SKEWS, min_size=5, max_size=5),
        warm=st.booleans(),
    )
    def begin(
        self, mapped: bool, sizes: list[list[int]], wants: list[int], skews: list[int], warm: bool
    ) -> None:
        """Start everybody; one donor may be all there is."""
        self.world = world = World({"c0": ("d1",)} if mapped and len(sizes) == 2 else {})
        world.start_coordinator(skews[4])
        for name, each in zip(DONORS, sizes, strict=False):
            world.donate(world.start(name, skews.pop()), each)
        for name, want in zip(CONSUMERS, wants, strict=True):
            world.give(world.start(name, skews.pop()), Want(want))
        if warm:
            world.quieten()

    def pick(self, kind: type, which: int) -> Process | None:
        """Pick a live process of a kind."""
        found = [me for me, machine in self.world.live.items() if isinstance(machine, kind)]
        return found[which % len(found)] if found else None

    # --- what engines do -------------------------------------------------------------------------------------

    @rule(which=ANY, sizes=SIZES)
    def donate(self, which: int, sizes: list[int]) -> None:
        """Donate new extents."""
        me = self.pick(Donor, which)
        if me is not None:
            self.world.donate(me, sizes)

    @rule(which=ANY, size=st.integers(1, 5))
    def reclaim(self, which: int, size: int) -> None:
        """A donor wants bytes back."""
        me = self.pick(Donor, which)
        if me is not None:
            self.world.give(me, Reclaim(size))

    @rule(which=ANY, size=st.integers(0, 6), lost=st.booleans())
    def want(self, which: int, size: int, lost: bool) -> None:
        """A consumer wants more or less, and perhaps nobody hears it."""
        me = self.pick(Consumer, which)
        if me is not None:
            self.world.give(me, Want(size))
            if lost and self.world.net:
                self.world.net.pop()

    @rule(which=ANY)
    def release(self, which: int) -> None:
        """A consumer releases a lease, told to or not."""
        held = [(me, e, h.epoch) for me, m in self.world.consumers() for e, h in m.holds.items()]
        if held:
            self.world.empty(*held[which % len(held)])

    @precondition(lambda self: self.world.evacuating)
    @rule(which=ANY)
    def evacuate(self, which: int) -> None:
        """An evacuation ends, out of order."""
        self.world.evacuate(which % len(self.world.evacuating))

    @precondition(lambda self: self.world.scrubbing)
    @rule(which=ANY)
    def scrub(self, which: int) -> None:
        """A scrubbing ends, out of order."""
        self.world.scrub(which % len(self.world.scrubbing))

    # --- messages --------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 6))
    def flow(self, count: int) -> None:
        """Everything goes well for some steps."""
        for _ in range(count):
            self.world.step()

    @rule()
    def flow_out(self) -> None:
        """Everything under way arrives, in no time."""
        self.world.quieten()

    @rule()
    def flow_on(self) -> None:
        """Everything goes well for a second."""
        self.world.beat()
        self.world.quieten()

    @precondition(lambda self: self.world.net)
    @rule(which=ANY, repeat=st.booleans())
    def deliver_any(self, which: int, repeat: bool) -> None:
        """Deliver out of order, perhaps not for the last time."""
        index = which % len(self.world.net)
        to, message = self.world.net[index]
        if not repeat:
            del self.world.net[index]
        self.world.give(to, message)

    @rule(kind=KINDS, which=ANY)
    def echo(self, kind: type, which: int) -> None:
        """A message of any time ago turns up (again)."""
        found = [sent for sent in self.world.past if isinstance(sent[1], kind)]
        if found:
            self.world.give(*found[which % len(found)])

    @precondition(lambda self: self.world.net)
    @rule(which=ANY)
    def lose(self, which: int) -> None:
        """Lose a message, or delay it for long."""
        del self.world.net[which % len(self.world.net)]

    @rule(kind=KINDS, count=st.integers(1, 3))
    def cut(self, kind: type, count: int) -> None:
        """All messages of a kind are lost for some seconds."""
        self.world.cut.add(kind)
        for _ in range(count):
            self.flow_on()
        self.world.cut.clear()

    @rule(kind=KINDS)
    def begin_cut(self, kind: type) -> None:
        """All messages of a kind are lost from now on."""
        self.world.cut.add(kind)

    @rule()
    def end_cuts(self) -> None:
        """The network is whole again."""
        self.world.cut.clear()

    # --- time ------------------------------------------------------------------------------------------------

    @rule(time=TIMES)
    def stall(self, time: int) -> None:
        """Time passes; nobody wakes (stopped processes)."""
        self.world.now += time

    @precondition(lambda self: self.world.coordinator is not None)
    @rule(short=st.integers(0, 1))
    def stall_to_the_deadline(self, short: int) -> None:
        """Time passes until the coordinator wakes, or just not."""
        coordinator = self.world.coordinator
        assert coordinator is not None
        wake = coordinator.wake_at()
        if wake is not None:
            self.world.now += max(0, wake - self.world.time(COORDINATOR) - short)
            self.world.give(COORDINATOR, Wake())

    @rule(which=ANY)
    def wake(self, which: int) -> None:
        """One machine wakes."""
        everybody = [COORDINATOR, *self.world.live]
        self.world.give(everybody[which % len(everybody)], Wake())

    @rule(time=st.sampled_from([SECOND, 3 * SECOND, 8 * SECOND]))
    def beat(self, time: int) -> None:
        """Time passes and all wake."""
        self.world.beat(time)

    @rule(which=ANY, seconds=st.sampled_from([1, 4, 11]))
    def stop(self, which: int, seconds: int) -> None:
        """One process is stopped for a while, and all others go on."""
        everybody = [COORDINATOR, *self.world.live]
        self.world.stop(everybody[which % len(everybody)], seconds)

    @rule(which=ANY, skew=SKEWS)
    def drift(self, which: int, skew: int) -> None:
        """A clock drifts, within the bound."""
        everybody = [COORDINATOR, *self.world.live]
        self.world.skew[everybody[which % len(everybody)]] = skew

    # --- deaths ----------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 11))
    def crash(self, which: int) -> None:
        """A donor or consumer dies."""
        if which < len(self.world.live):  # seldom enough for leases to live a while
            self.world.kill(list(self.world.live)[which])

    @rule(name=st.sampled_from(DONORS + CONSUMERS), skew=SKEWS)
    def restart(self, name: str, skew: int) -> None:
        """A dead one starts again, knowing nothing."""
        if all(me.name != name for me in self.world.live):
            me = self.world.start(name, skew)
            if name in CONSUMERS:
                self.world.give(me, Want(2))

    @rule(dead=st.booleans(), skew=SKEWS)
    def crash_coordinator(self, dead: bool, skew: int) -> None:
        """The coordinator dies, or is replaced by one that knows nothing."""
        self.world.coordinator = None
        if not dead:
            self.world.start_coordinator(skew)

    # --- what must hold --------------------------------------------------------------------------------------

    @invariant()
    def nobody_writes_where_it_must_not(self) -> None:
        """See `check_writes`."""
        if hasattr(self, "world"):
            check_writes(self.world)

    def teardown(self) -> None:
        """Heal; a new coordinator loses no lease; then get every byte back."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.settle(3)
        check_settled(world)
        held = [(me, e, h.epoch) for me, m in world.consumers() for e, h in m.holds.items()]
        world.start_coordinator()
        world.settle(2)
        check_settled(world)
        assert [(me, e, h.epoch) for me, m in world.consumers() for e, h in m.holds.items()] == held
        for me, _ in world.donors():
            world.give(me, Reclaim(1 << 40))
        world.settle(2)
        for me, donor in world.donors():
            assert not donor.slabs, "a reclaim did not finish"
            assert world.model.back[me] == world.model.donated[me]
        assert not world.model.users


def run(**options: Any) -> None:
    """Run the machine, healthy if slow."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Faults, settings=settings(deadline=None, suppress_health_check=checks, **options)
    )


def test_nothing_is_leased_twice_and_all_memory_comes_back() -> None:
    """M4, M7, M10 under faults: one user per byte, no write after revocation, no deadlock, every byte back."""
    run(max_examples=600, stateful_step_count=50)


@pytest.mark.slow
def test_nothing_is_leased_twice_in_longer_lives() -> None:
    """The same, more of it."""
    run(max_examples=1000, stateful_step_count=80)
