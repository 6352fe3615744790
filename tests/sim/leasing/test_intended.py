"""The protocol of `aquasim.core.leases` on simulated wires: tenants are told what is leased, no more and no less."""

from itertools import cycle

from hypothesis import given, settings
from hypothesis import strategies as st
from lease_tenants import MS, SECOND, Lender, Tenant, totals

from aquasim.core.leases import Drain, Extent, Granted, Lease
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.leasing import Intended, Settings
from aquasim.sim.leasing.intended import Borrowing, process

SETTINGS = Settings(extent_bytes=10)
LENDERS, BORROWERS = (0, 1), (2, 3)


class Rig:
    """Two lenders, two borrowers, each with both lenders as donors, nearest first."""

    def __init__(self, delays: list[int], want: int) -> None:
        self.env = Clock()
        self.market = Intended(self.env, {2: (0, 1), 3: (1, 0)}, SETTINGS)
        self.lenders = {gpu: Lender(self.env, self.market, gpu) for gpu in LENDERS}
        turns = cycle(delays)
        self.tenants = {gpu: Tenant(self.env, turns) for gpu in BORROWERS}
        self.tables = {gpu: RunTables() for gpu in BORROWERS}
        self.borrowing = {
            gpu: Borrowing(self.market, gpu, self.tenants[gpu], self.tables[gpu]) for gpu in BORROWERS
        }
        for borrowing in self.borrowing.values():
            borrowing.want(want)

    def holds(self, gpu: int, donor: int, *, leaving: bool) -> int:
        """Bytes of a donor that a consumer holds; those it must leave count if `leaving`."""
        found = self.borrowing[gpu].consumer.holds
        mine = [hold for extent, hold in found.items() if extent.donor == process(donor)]
        return sum(hold.bytes for hold in mine if leaving or not hold.draining)

    def check(self) -> None:
        """No byte is used that is not leased; what is leased was lent; who is at rest was told all that is leased."""
        for donor in LENDERS:
            used = 0
            for gpu, tenant in self.tenants.items():
                assert tenant.used.get(donor, 0) <= self.holds(gpu, donor, leaving=True)
                used += tenant.used.get(donor, 0)
                if donor not in tenant.busy and self.env.quiet():
                    assert tenant.told.get(donor, 0) == self.holds(gpu, donor, leaving=False)
                    assert self.holds(gpu, donor, leaving=True) == self.holds(gpu, donor, leaving=False)
            assert used <= self.lenders[donor].lent

    def play(self, until: int) -> None:
        """Let time pass, and look after every event."""
        stop = [False]
        self.env.at(until, lambda _: stop.append(True))
        while len(stop) == 1:
            self.env.play(1)
            self.check()


ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 3000),
        st.sampled_from(["offer", "recall"]),
        st.sampled_from(LENDERS),
        st.integers(1, 55),
    ),
    max_size=12,
)
DELAYS = st.lists(st.sampled_from([0, 1, MS, 300 * MS, 3 * SECOND]), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, DELAYS, st.integers(1, 80))
def test_what_tenants_are_told_is_what_is_leased(
    actions: list[tuple[int, str, int, int]], delays: list[int], want: int
) -> None:
    """Random loans and recalls, tenants that settle late: told what is leased, one word at a time; all comes back."""
    rig = Rig(delays, want)
    for wait, action, gpu, size in actions:
        rig.play(rig.env.ns + wait * MS + 1)
        if action == "offer":
            rig.lenders[gpu].offer(size)
        else:
            rig.lenders[gpu].recall()
    rig.play(rig.env.ns + 15 * SECOND)
    for lender in rig.lenders.values():
        lender.recall()
    rig.play(rig.env.ns + 30 * SECOND)
    for lender in rig.lenders.values():
        assert (lender.lent, lender.recalled) == (0, False)
        sums = totals(lender.tables)
        assert sums["offered"] == sums["regained"] == sums["reclaim"] == lender.offered == lender.asked
    for gpu in BORROWERS:
        sums = totals(rig.tables[gpu])
        assert sums["granted"] == sums["revoked"]
        assert set(rig.tenants[gpu].told.values()) <= {0}


def test_one_word_per_instant_for_any_number_of_extents() -> None:
    """55 bytes in extents of 10: one message's worth of leases is one call, and one more when the rest is revoked."""
    rig = Rig([MS], 55)
    rig.lenders[0].offer(55)
    rig.play(2 * SECOND)
    assert [(donor, size) for _, donor, size in rig.tenants[2].log] == [(0, 55)]
    rig.lenders[0].recall()
    rig.play(4 * SECOND)
    assert [(donor, size) for _, donor, size in rig.tenants[2].log] == [(0, 55), (0, 0)]
    assert rig.lenders[0].lent == 0


def test_a_recall_takes_messages_and_the_move_and_nothing_else() -> None:
    """Free extents are back at once; the others after three messages, the move, and two messages."""
    rig = Rig([300 * MS], 20)
    rig.lenders[0].offer(50)
    rig.play(SECOND)
    lender, asked = rig.lenders[0], rig.env.ns
    lender.recall()
    assert lender.back == 10
    rig.play(asked + 304 * MS - 1)
    assert lender.back == 10
    rig.play(asked + 304 * MS + 1)
    assert lender.back == 50


def test_what_must_be_left_has_left_before_new_memory_is_used() -> None:
    """While the tenant settles, one extent is revoked and one granted: first less, then more, not both at once."""
    env = Clock()
    market = Intended(env, {2: (0,)}, SETTINGS)
    Lender(env, market, 0)
    tenant = Tenant(env, cycle([SECOND]))
    borrowing = Borrowing(market, 2, tenant, RunTables())
    borrowing.want(30)
    me, donor = process(2), process(0)

    def hear(second: float, message: Granted | Drain) -> None:
        env.at(round(second * SECOND), lambda _: market.nodes[me].tell(message))

    def granted(number: int) -> Granted:
        return Granted((Lease(Extent(donor, number), 1, 10, me, 1 << 60),))

    hear(1, granted(0))
    hear(3, granted(1))
    hear(3.2, Drain(((Extent(donor, 0), 1),), "reclaim"))
    hear(3.4, granted(2))
    while env.ns < 8 * SECOND:
        env.play(1)
    assert [size for _, _, size in tenant.log] == [10, 20, 10, 20]
