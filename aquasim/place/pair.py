"""Pairs consumers with donors within one server: stable matching, and the assignment that lends most.

A pair lends what the donor gives or the consumer needs, whichever is less, at the slower one's bandwidth.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment


class Side(NamedTuple):
    """A GPU that takes part: `bytes` it needs or gives, more than 0, and bytes per second (inf: the link's)."""

    gpu: int
    bytes: int
    bandwidth: float = inf


class Pair(NamedTuple):
    """GPU `consumer` may page `bytes` to GPU `donor`."""

    consumer: int
    donor: int
    bytes: int


def gale_shapley(wishes: Sequence[Sequence[int]], ranks: Sequence[Sequence[int]]) -> list[int | None]:
    """Match proposers with receivers so that no two prefer each other to what they got (Gale and Shapley, 1962).

    Args:
        wishes: for each proposer, all receivers, the best first.
        ranks: for each receiver, the rank of every proposer; less is better, no ties.

    Returns:
        For each proposer its receiver, the best it has in any stable matching, or None.
    """
    matched: list[int | None] = [None] * len(wishes)
    holder: list[int | None] = [None] * len(ranks)
    asked = [0] * len(wishes)
    free = list(reversed(range(len(wishes))))
    while free:
        proposer = free.pop()
        if asked[proposer] == len(wishes[proposer]):
            continue
        receiver = wishes[proposer][asked[proposer]]
        asked[proposer] += 1
        other = holder[receiver]
        if other is not None and ranks[receiver][other] < ranks[receiver][proposer]:
            free.append(proposer)
            continue
        holder[receiver], matched[proposer] = proposer, receiver
        if other is not None:
            matched[other] = None
            free.append(other)
    return matched


def wishes_of(consumer: Side, donors: Sequence[Side]) -> list[int]:
    """Order donors by what they lend it, then bandwidth, then the smaller gift (larger ones may serve others)."""

    def key(i: int) -> tuple[float, ...]:
        donor = donors[i]
        lent = min(consumer.bytes, donor.bytes)
        return -lent, -min(consumer.bandwidth, donor.bandwidth), donor.bytes, donor.gpu

    return sorted(range(len(donors)), key=key)


def ranks_of(donor: Side, consumers: Sequence[Side]) -> list[int]:
    """Rank consumers by need, then bandwidth; the greatest need has rank 0."""

    def key(i: int) -> tuple[float, ...]:
        consumer = consumers[i]
        return -consumer.bytes, -min(consumer.bandwidth, donor.bandwidth), consumer.gpu

    order = sorted(range(len(consumers)), key=key)
    return [order.index(i) for i in range(len(consumers))]


def pair_up(consumers: Sequence[Side], donors: Sequence[Side], most: int = 1) -> list[Pair]:
    """Match each consumer with at most `most` donors.

    The first round is one to one, as in AQUA; each further round matches unmet needs with memory not lent yet.
    """
    needs, gifts = list(consumers), list(donors)
    pairs: list[Pair] = []
    for _ in range(most):
        matched = gale_shapley(
            [wishes_of(need, gifts) for need in needs], [ranks_of(gift, needs) for gift in gifts]
        )
        found = [
            Pair(need.gpu, gifts[i].gpu, min(need.bytes, gifts[i].bytes))
            for need, i in zip(needs, matched, strict=True)
            if i is not None
        ]
        pairs += found
        needs = _left(needs, {pair.consumer: pair.bytes for pair in found})
        gifts = _left(gifts, {pair.donor: pair.bytes for pair in found})
    return sorted(pairs, key=lambda pair: pair.consumer)


def _left(sides: Sequence[Side], used: dict[int, int]) -> list[Side]:
    rest = (side._replace(bytes=side.bytes - used.get(side.gpu, 0)) for side in sides)
    return [side for side in rest if side.bytes]


def most_lent(consumers: Sequence[Side], donors: Sequence[Side], most: int = 1) -> int:
    """Return the bytes that the best pairing lends: an optimal assignment; all there is for more donors each."""
    if most > 1:
        return min(sum(side.bytes for side in consumers), sum(side.bytes for side in donors))
    lent = np.array([[min(c.bytes, d.bytes) for d in donors] for c in consumers], dtype=np.float64)
    if not lent.size:
        return 0
    rows, columns = linear_sum_assignment(lent, maximize=True)
    return int(lent[rows, columns].sum())
