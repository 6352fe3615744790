"""Peer tiers as large as the smallest rank's lease; the release's swap space, moved while the engine stands still."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.hardware.profile import load_profile
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.carrier import PageLayout
from aquasim.sim.clock import Clock
from aquasim.sim.fabric import Done
from aquasim.sim.tenants.borrow import SWAP, PeerTiers, SwapSpace, tier_donors
from aquasim.sim.topology import TOPOLOGIES, Server

MIB = 1 << 20
BLOCK = 10


@dataclass
class Engine:
    """Remembers sizes of tiers, and stands still when asked: at the end of the iteration under way."""

    env: Clock
    iteration_ns: int = 0
    sizes: list[tuple[str, int]] = field(default_factory=list)
    pauses: int = 0
    still: list[tuple[int, int]] = field(default_factory=list)
    """(ns, pauses in force) after each change."""

    def resize_tier(self, tier: str, blocks: int) -> None:
        """See `aquasim.sim.engine.Engine`."""
        self.sizes.append((tier, blocks))

    def pause(self, then: Done) -> None:
        """See `aquasim.sim.engine.Engine`."""
        self.env.at(self.env.ns + self.iteration_ns, lambda _: self._stand(then))

    def _stand(self, then: Done) -> None:
        self.pauses += 1
        self.still.append((self.env.ns, self.pauses))
        then()

    def resume(self) -> None:
        """See `aquasim.sim.engine.Engine`."""
        self.pauses -= 1
        self.still.append((self.env.ns, self.pauses))


class Tiers:
    """Peer tiers of an engine with some ranks; counts how often each word was settled."""

    def __init__(self, donors: dict[str, tuple[int, ...]]) -> None:
        self.engine = Engine(Clock())
        self.tables = RunTables()
        self.peers = PeerTiers(self.engine, donors, BLOCK, self.tables)  # type: ignore[arg-type]
        self.said = 0
        self.settled: list[int] = []

    def use(self, rank: int, donor: int, size: int) -> int:
        """Give one rank another size, and return the word's number."""
        number, self.said = self.said, self.said + 1
        self.peers.rank(rank).use_peer(donor, size, lambda: self.settled.append(number))
        return number


def test_a_tier_is_as_large_as_the_smallest_ranks_lease() -> None:
    """In whole blocks; the engine is told of changes only, and the records say the same."""
    tiers = Tiers({"peer": (4, 5)})
    for rank, donor, size in ((0, 4, 55), (1, 5, 29), (1, 5, 99), (0, 4, 59)):
        tiers.use(rank, donor, size)
    assert tiers.engine.sizes == [("peer", 2), ("peer", 5)]
    assert tiers.settled == [0, 1, 2, 3]
    assert Run([("e", tiers.tables)], {}).memory["bytes"].tolist() == [20, 50]


def test_a_shrink_is_settled_for_all_ranks_once_the_engine_has_left() -> None:
    """One rank's lease is called back, another's grows: both wait until no page is beyond the smaller tier."""
    tiers = Tiers({"peer": (4, 5)})
    tiers.use(0, 4, 50)
    tiers.use(1, 5, 50)
    shrink, grow = tiers.use(0, 4, 20), tiers.use(1, 5, 70)
    tiers.peers.released("peer", 5)
    assert not {shrink, grow} & set(tiers.settled), "an older word of the engine settles nothing"
    tiers.peers.released("peer", 2)
    assert {shrink, grow} <= set(tiers.settled)


def test_two_shrinks_are_settled_by_the_last() -> None:
    """Both ranks shrink before the engine has left: only the smaller size settles them."""
    tiers = Tiers({"peer": (4, 5)})
    tiers.use(0, 4, 50)
    tiers.use(1, 5, 50)
    first, second = tiers.use(0, 4, 30), tiers.use(1, 5, 10)
    tiers.peers.released("peer", 3)
    assert not {first, second} & set(tiers.settled)
    tiers.peers.released("peer", 1)
    assert {first, second} <= set(tiers.settled)


def test_tiers_do_not_disturb_each_other() -> None:
    """A second donor is another tier: its size and its waiting are its own."""
    tiers = Tiers({"peer0": (4,), "peer1": (5,)})
    tiers.use(0, 4, 40)
    tiers.use(0, 5, 40)
    shrink = tiers.use(0, 4, 0)
    grow = tiers.use(0, 5, 60)
    assert grow in tiers.settled
    tiers.peers.released("peer1", 0)
    assert shrink not in tiers.settled
    tiers.peers.released("peer0", 0)
    assert shrink in tiers.settled


WORDS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.booleans()), max_size=40)


@settings(max_examples=150, deadline=None)
@given(WORDS)
def test_every_word_is_settled_once_and_never_early(words: list[tuple[int, int, bool]]) -> None:
    """Three ranks at random, each after its last word settled, an engine that leaves late: none settles before it."""
    tiers = Tiers({"peer": (4, 5, 6)})
    sizes, open_words, used = [0, 0, 0], {0: -1, 1: -1, 2: -1}, 0
    for rank, size, leave in words:
        if open_words[rank] in (-1, *tiers.settled):
            sizes[rank] = size
            open_words[rank] = tiers.use(rank, 4 + rank, size)
        target = tiers.engine.sizes[-1][1] if tiers.engine.sizes else 0
        used = max(used, target)
        if leave:
            used = target
            tiers.peers.released("peer", target)
        assert target == min(sizes) // BLOCK
        for each, word in open_words.items():
            assert word not in tiers.settled or used * BLOCK <= sizes[each]
    if tiers.engine.sizes:
        tiers.peers.released("peer", tiers.engine.sizes[-1][1])
    assert sorted(tiers.settled) == list(range(tiers.said))


@pytest.mark.parametrize(
    ("donors", "tp", "tiers"),
    [
        ((), 1, {}),
        ((4,), 1, {"peer": (4,)}),
        ((4, 5), 2, {"peer": (4, 5)}),
        ((4, 5, 6, 7), 2, {"peer0": (4, 5), "peer1": (6, 7)}),
    ],
)
def test_donors_are_dealt_out_to_ranks(donors: tuple[int, ...], tp: int, tiers: dict[str, Any]) -> None:
    """One donor per rank makes a tier; as many tiers as that gives, nearest first."""
    assert tier_donors(donors, tp) == tiers


class Swap:
    """The swap space of two ranks of an engine on GPUs 0 and 1, with donors 2 and 3; iterations last 1 ms."""

    def __init__(self) -> None:
        self.env = Clock()
        self.engine = Engine(self.env, 1_000_000)
        self.server = Server(self.env, TOPOLOGIES["8xH100"], load_profile("h100"))
        self.carrier = SimpleNamespace(shares={SWAP: [(0, 0.0), (1, 0.0)]})
        self.tables = RunTables()
        layout = PageLayout("column", 2 * MIB, 32)
        self.ranks = [
            SwapSpace(self.server, self.engine, self.carrier, layout, rank, 512 * MIB, self.tables)  # type: ignore[arg-type]
            for rank in (0, 1)
        ]
        self.settled: list[int] = []

    def use(self, rank: int, size: int) -> None:
        """Tell a rank how much of its donor it may use."""
        self.ranks[rank].use_peer(2 + rank, size, lambda: self.settled.append(self.env.ns))


def test_the_engine_stands_still_from_its_iterations_end_until_all_is_there() -> None:
    """1 ms to the boundary, then the copy over the donor's host link at its rate; settled, the engine goes on."""
    swap = Swap()
    swap.use(0, 256 * MIB)
    swap.env.play()
    link, _ = swap.server.from_host(2)
    seconds = 256 * link.seconds(MIB, 1)
    (begin, _), (end, left) = swap.engine.still
    assert begin == 1_000_000
    assert end - begin == pytest.approx(seconds * 1e9, rel=1e-6)
    assert (left, swap.settled) == (0, [end])
    assert swap.carrier.shares[SWAP] == [(2, 0.5), (1, 0.0)]
    assert swap.server.fabric.ports["gpu2.h2d"].carried == 256 * MIB
    assert swap.server.fabric.ports["gpu0.h2d"].carried == 0


def test_both_halves_and_back() -> None:
    """The second half adds to the first; back goes all, over the link to the host; shares follow."""
    swap = Swap()
    for size, share in ((256 * MIB, 0.5), (512 * MIB, 1.0), (0, 0.0)):
        swap.use(0, size)
        swap.env.play()
        assert swap.carrier.shares[SWAP][0] == (2, share)
    ports = swap.server.fabric.ports
    assert (ports["gpu2.h2d"].carried, ports["gpu2.d2h"].carried) == (512 * MIB, 512 * MIB)
    assert Run([("e", swap.tables)], {}).memory["bytes"].tolist() == [256 * MIB, 512 * MIB, 0]


def test_ranks_move_at_the_same_time_and_the_engine_waits_for_both() -> None:
    """Pauses nest: it goes on when the slower rank is there."""
    swap = Swap()
    swap.use(0, 128 * MIB)
    swap.use(1, 512 * MIB)
    swap.env.play()
    assert [pauses for _, pauses in swap.engine.still] == [1, 2, 1, 0]
    assert swap.settled == [time for time, _ in swap.engine.still[2:]]
