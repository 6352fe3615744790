"""Server patterns: multisets of kinds that fit one server, all of them where they are few enough.

Servers are alike, so a placement is how many servers follow each pattern. Numbering them would only add copies of the
same placement, which is what makes branch and bound slow on one variable per model and server.
"""

from dataclasses import dataclass

import numpy as np

from aquasim.place.problem import Instance, Ints


@dataclass(frozen=True)
class Limits:
    """What every server has to keep: MiB of surplus and GPUs of imbalance at most.

    A server far below a limit is of no use either, nor one with too many idle GPUs: the others cannot make up for it.
    """

    surplus: int
    imbalance: int

    def kept_by(self, jobs: Ints, instance: Instance) -> Ints:
        """Return the indices of the patterns `jobs` [patterns, kinds] that a placement within limits can use."""
        useful = np.ones(len(jobs), bool)
        for weights, least, most in self.rows(instance):
            sums = jobs @ weights
            useful &= (sums >= least) & (sums <= most)
        return np.flatnonzero(useful)

    def rows(self, instance: Instance) -> list[tuple[Ints, int, int]]:
        """Return the limits as (weights of kinds, least sum, most): GPUs, surplus, imbalance."""
        found = []
        for weights, most in (
            (instance.tp, instance.gpus),
            (instance.mib, self.surplus),
            (instance.lean, self.imbalance),
        ):
            to_spare = instance.servers * most - int(instance.count @ weights)
            found.append((weights, most - to_spare, most))
        return found


def how_many(instance: Instance) -> int:
    """Return how many patterns fit a server, those included that leave more GPUs idle than there are to spare."""
    ways = [1] + [0] * instance.gpus  # by GPUs used
    for tp, count in zip(instance.tp.tolist(), instance.count.tolist(), strict=True):
        more = ways.copy()
        for used in range(tp, len(ways)):
            more[used] += more[used - tp]
            if used >= (count + 1) * tp:
                more[used] -= ways[used - (count + 1) * tp]
        ways = more
    return sum(ways)


def all_patterns(instance: Instance) -> Ints:
    """Return all patterns, [patterns, kinds], but those that leave more GPUs idle than there are to spare."""
    jobs, used = np.zeros((1, 0), np.int64), np.zeros(1, np.int64)
    for tp, count in zip(instance.tp.tolist(), instance.count.tolist(), strict=True):
        most = min(count, instance.gpus // tp)
        fits = [np.flatnonzero(used + n * tp <= instance.gpus) for n in range(most + 1)]
        column = np.repeat(np.arange(most + 1), [len(rows) for rows in fits])
        before = np.concatenate(fits)
        jobs = np.column_stack([jobs[before], column])
        used = used[before] + column * tp
    return jobs[instance.gpus - used <= instance.idle]


def uncovered(instance: Instance, jobs: Ints) -> Ints:
    """Return the MiB of need per pattern that no donor of a server's own, one for each consumer, can lend.

    The largest need is paired with the largest gift and so on, which lends most.
    """
    needs = _shards(instance, jobs, -instance.shard_mib)
    gifts = _shards(instance, jobs, instance.shard_mib)
    left: Ints = (needs - np.minimum(needs, gifts)).sum(axis=1)
    return left


def _shards(instance: Instance, jobs: Ints, amount: Ints) -> Ints:
    """Return the positive amounts of each pattern's shards in descending order, [patterns, GPUs], then zeros."""
    order = np.argsort(-amount, kind="stable")
    order = order[amount[order] > 0]
    last = np.cumsum((jobs * instance.tp)[:, order], axis=1)
    out = np.zeros((len(jobs), instance.gpus), np.int64)
    slots = np.arange(instance.gpus)
    for position in reversed(
        range(len(order))
    ):  # a kind fills all slots before its last; larger ones overwrite
        np.copyto(out, amount[order[position]], where=slots < last[:, position, None])
    return out
