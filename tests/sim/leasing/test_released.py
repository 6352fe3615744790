"""AQUA's released protocol on simulated wires: K and V by one call each, all or nothing, polled."""

from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_tenants import MS, SECOND, Lender, Tenant, totals

from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.leasing import Released, Settings
from aquasim.sim.leasing.released import Borrowing

HALF = 50


class Rig:
    """GPU 0 lends to GPU 2, which would keep two tensors of 50 bytes there."""

    def __init__(self, delays: list[int]) -> None:
        self.env = Clock()
        self.market = Released(self.env, {2: (0,)}, Settings())
        self.lender = Lender(self.env, self.market, 0)
        self.tenant = Tenant(self.env, cycle(delays))
        self.tables = RunTables()
        self.borrowing = Borrowing(self.market, 2, [HALF, HALF], self.tenant, self.tables)

    def check(self) -> None:
        """What is used is allocated, and allocations were lent; who is at rest was told what it holds."""
        consumer, coordinator = self.borrowing.consumer, self.market.coordinator
        coordinator.check()
        consumer.check()
        held = sum(held.allocation.bytes for held in consumer.held.values())
        allocated = sum(allocation.bytes for allocation in coordinator.allocations.values())
        assert held <= allocated <= self.lender.lent
        assert self.tenant.used.get(0, 0) <= held
        if not self.tenant.busy and self.env.quiet() and not consumer.busy:
            assert self.tenant.told.get(0, 0) == held

    def play(self, until: float) -> "Rig":
        """Let time pass until so many seconds, and look after every event."""
        stop = [False]
        self.env.at(round(until * SECOND), lambda _: stop.append(True))
        while len(stop) == 1:
            self.env.play(1)
            self.check()
        return self

    def log(self) -> list[tuple[float, int]]:
        """(seconds, bytes) that the tenant was told."""
        return [(ns / SECOND, size) for ns, _, size in self.tenant.log]


def test_both_halves_one_after_the_other() -> None:
    """Memory is there from the start: K moves, then V; a call takes two messages, a move what the tenant needs."""
    rig = Rig([100 * MS])
    rig.lender.offer(100)
    rig.play(1)
    assert rig.log() == [(0.002, 50), (0.104, 100)]


@pytest.mark.parametrize("lent", [50, 99])
def test_one_half_may_stay_on_the_host(lent: int) -> None:
    """Room for K alone: V stays where it is, also when room comes, for nothing is promoted while anything is held."""
    rig = Rig([MS])
    rig.lender.offer(lent)
    rig.play(1)
    rig.lender.offer(100)
    rig.play(60)
    assert [size for _, size in rig.log()] == [50]
    assert (rig.borrowing.consumer.peer("tensor0"), rig.borrowing.consumer.peer("tensor1")) == (
        "cuda:0",
        None,
    )


def test_too_little_for_one_half_is_nothing() -> None:
    """49 bytes lent: no half fits, and later no whole; told nothing."""
    rig = Rig([MS])
    rig.lender.offer(49)
    rig.play(1)
    rig.lender.offer(50)
    assert rig.play(30).log() == []


def test_what_comes_later_is_taken_whole_at_the_next_period() -> None:
    """Nothing at the start, 100 bytes after 5 s: both halves by one call at 8 s."""
    rig = Rig([MS]).play(5)
    rig.lender.offer(100)
    assert rig.play(20).log() == [(8.002, 100)]


def test_a_recall_is_noticed_at_the_next_period_and_empties_all() -> None:
    """Asked at 5 s, told to leave at 8 s, all of it; regained at the poll after it has moved and freed."""
    rig = Rig([100 * MS])
    rig.lender.offer(120)
    rig.play(5)
    rig.lender.recall()
    rig.play(8.1)
    assert rig.log()[-1] == (8.002, 0)
    assert rig.lender.back == 0
    assert rig.play(8.31).lender.back == 120
    assert len(rig.play(30).log()) == 3, "nothing is lent: nothing is told"


def test_a_recall_of_what_nobody_uses_ends_at_the_next_poll() -> None:
    """Nobody fits: the donor has it back after a request, a poll and its reply."""
    rig = Rig([MS])
    rig.lender.offer(30)
    rig.play(1.05)
    rig.lender.recall()
    assert rig.play(1.103).lender.back == 30


ACTIONS = st.lists(
    st.tuples(st.integers(0, 9000), st.sampled_from(["offer", "recall"]), st.integers(1, 120)), max_size=12
)
DELAYS = st.lists(st.sampled_from([0, 1, MS, 300 * MS, 5 * SECOND]), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(ACTIONS, DELAYS)
def test_a_loan_comes_back_whole(actions: list[tuple[int, str, int]], delays: list[int]) -> None:
    """Random loans and recalls: told what is held, one word at a time, 4 s apart; exactly the loan comes back."""
    rig = Rig(delays)
    for wait, action, size in actions:
        rig.play(rig.env.ns / SECOND + wait / 1000)
        if action == "offer":
            rig.lender.offer(size)
        else:
            rig.lender.recall()
    rig.play(rig.env.ns / SECOND + 30)
    rig.lender.recall()
    rig.play(rig.env.ns / SECOND + 30)
    assert (rig.lender.lent, rig.lender.recalled) == (0, False)
    sums = totals(rig.lender.tables)
    assert sums["offered"] == sums["regained"] == sums["reclaim"] == rig.lender.offered == rig.lender.asked
    mine = totals(rig.tables)
    assert mine["granted"] == mine["revoked"]
    later = [time for time, _ in rig.log() if time > 2 * max(delays) / SECOND + 0.01]
    assert all(abs(time % 4 - 0.002) < 1e-6 for time in later), "only where the period begins"
