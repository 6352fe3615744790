"""Pairs of consumers and donors: stable, within what there is, and no better in total than an optimal assignment."""

from itertools import permutations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from placements import GIB

from aquasim.place import Model, Problem, place
from aquasim.place.pair import Pair, Side, gale_shapley, most_lent, pair_up, ranks_of, wishes_of

AMOUNTS = st.integers(1, 6)
BANDWIDTHS = st.sampled_from([1.0, 2.0, float("inf")])


def sides(start: int) -> st.SearchStrategy[list[Side]]:
    """Up to five GPUs, numbered from `start`."""
    rows = st.lists(st.tuples(AMOUNTS, BANDWIDTHS), max_size=5)
    return rows.map(lambda found: [Side(start + i, *row) for i, row in enumerate(found)])


@st.composite
def preferences(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Random strict preferences of some proposers and some receivers."""
    proposers, receivers = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    wishes = [draw(st.permutations(range(receivers))) for _ in range(proposers)]
    ranks = [draw(st.permutations(range(proposers))) for _ in range(receivers)]
    return wishes, ranks


def blocking(wishes: Any, ranks: Any, matched: Any) -> list[tuple[int, int]]:
    """Return the pairs that both prefer to what they have."""
    holder = {receiver: proposer for proposer, receiver in enumerate(matched) if receiver is not None}
    found = []
    for proposer, order in enumerate(wishes):
        for receiver in order:
            if receiver == matched[proposer]:
                break
            if receiver not in holder or ranks[receiver][proposer] < ranks[receiver][holder[receiver]]:
                found.append((proposer, receiver))
    return found


@settings(deadline=None, max_examples=200)
@given(preferences())
def test_no_pair_blocks_a_stable_matching(case: tuple[list[list[int]], list[list[int]]]) -> None:
    """No proposer and receiver prefer each other to what they got, and nobody is left alone needlessly."""
    wishes, ranks = case
    matched = gale_shapley(wishes, ranks)
    assert blocking(wishes, ranks, matched) == []
    got = [receiver for receiver in matched if receiver is not None]
    assert len(got) == len(set(got)) == min(len(wishes), len(ranks))


@settings(deadline=None, max_examples=100)
@given(preferences())
def test_proposers_get_the_best_that_any_stable_matching_gives(
    case: tuple[list[list[int]], list[list[int]]],
) -> None:
    """Over all stable matchings of small cases none gives a proposer a receiver that it likes more."""
    wishes, ranks = case[0][:4], [[r for r in row if r < 4] for row in case[1]]
    ranks = [[sorted(row).index(r) for r in row] for row in ranks]
    matched = gale_shapley(wishes, ranks)
    slots = [*range(len(ranks)), *[None] * len(wishes)]
    for other in set(permutations(slots, len(wishes))) if len(ranks) <= 4 else ():
        if not blocking(wishes, ranks, other):
            for order, mine, theirs in zip(wishes, matched, other, strict=True):
                assert theirs is None or (mine is not None and order.index(mine) <= order.index(theirs))


@settings(deadline=None, max_examples=200)
@given(sides(0), sides(10))
def test_no_consumer_and_donor_would_rather_have_each_other(
    consumers: list[Side], donors: list[Side]
) -> None:
    """The pairs of a server are stable in the consumers' wishes and the donors' ranks."""
    place_of = {donor.gpu: i for i, donor in enumerate(donors)}
    found = {pair.consumer: place_of[pair.donor] for pair in pair_up(consumers, donors)}
    matched = [found.get(consumer.gpu) for consumer in consumers]
    wishes = [wishes_of(consumer, donors) for consumer in consumers]
    assert blocking(wishes, [ranks_of(donor, consumers) for donor in donors], matched) == []


@settings(deadline=None, max_examples=200)
@given(sides(0), sides(10), st.integers(1, 3))
def test_an_assignment_lends_at_least_as_much(consumers: list[Side], donors: list[Side], most: int) -> None:
    """What stable pairs lend in total never exceeds what an optimal assignment does."""
    pairs = pair_up(consumers, donors, most)
    assert sum(pair.bytes for pair in pairs) <= most_lent(consumers, donors, most)


@settings(deadline=None, max_examples=50)
@given(sides(0), sides(10))
def test_the_assignment_is_the_best_of_all(consumers: list[Side], donors: list[Side]) -> None:
    """Over all ways to give each consumer a donor of its own none lends more."""
    few, many = sorted((consumers, donors), key=len)
    totals = [
        sum(min(a.bytes, b.bytes) for a, b in zip(few, order, strict=True))
        for order in permutations(many, len(few))
    ]
    assert most_lent(consumers, donors) == max(totals)


def test_the_greatest_need_chooses_first() -> None:
    """Both consumers want the larger gift; the donor takes the one that needs more."""
    pairs = pair_up([Side(0, 10), Side(1, 30)], [Side(2, 30), Side(3, 5)])
    assert pairs == [Pair(0, 3, 5), Pair(1, 2, 30)]


def test_of_gifts_that_suffice_the_fastest_then_the_smallest_is_taken() -> None:
    """A consumer that needs 10 leaves the large gift to others, unless that is faster."""
    assert pair_up([Side(0, 10)], [Side(1, 40), Side(2, 15)]) == [Pair(0, 2, 10)]
    assert pair_up([Side(0, 10)], [Side(1, 40, 2e9), Side(2, 15, 1e9)]) == [Pair(0, 1, 10)]
    assert pair_up([Side(0, 10, 1e9)], [Side(1, 40, 2e9), Side(2, 15, 1e9)]) == [Pair(0, 2, 10)]


def test_more_donors_each_cover_what_one_cannot() -> None:
    """With two donors allowed, unmet need takes what others have left."""
    consumers, donors = [Side(0, 30), Side(1, 10)], [Side(2, 20), Side(3, 20)]
    assert pair_up(consumers, donors) == [Pair(0, 2, 20), Pair(1, 3, 10)]
    assert pair_up(consumers, donors, 2) == [Pair(0, 2, 20), Pair(0, 3, 10), Pair(1, 3, 10)]


def test_each_shard_has_a_donor_of_its_own() -> None:
    """A model on two GPUs gets two donors, as AQUA's Llama-70B with two producers does."""
    models = (Model("llama-70b", -20 * GIB, tp=2), Model("llama-8b", 30 * GIB, replicas=2))
    (server,) = place(Problem(1, models, gpus=4)).servers
    assert [job.gpus for job in server.jobs] == [(0, 1), (2,), (3,)]
    assert server.coordinator_map() == {"0": [{"gpu": 2, "gib": 20.0}], "1": [{"gpu": 3, "gib": 20.0}]}
