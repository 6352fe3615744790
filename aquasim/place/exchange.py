"""Improves a placement by exchanging single jobs: for instances with too many kinds to enumerate patterns."""

import time

import numpy as np
from numpy.typing import NDArray

from aquasim.place.problem import Instance, Ints

FEW = 8
"""Servers tried first, the poorest: nearly always one of them is a good partner."""


def fill(instance: Instance, classes: Instance, packed: Ints) -> Ints:
    """Turn a placement of classes (shards, sign) into one of kinds, amounts dealt from large to small in turn."""
    placed = np.zeros((instance.servers, len(instance.tp)), np.int64)
    for i, (tp, sign) in enumerate(zip(classes.tp, classes.shard_mib, strict=True)):
        members = np.flatnonzero((instance.tp == tp) & (np.sign(instance.shard_mib) == sign))
        jobs = np.repeat(members, instance.count[members])
        turns = np.concatenate([np.arange(n) for n in packed[:, i].tolist()])
        servers = np.repeat(np.arange(instance.servers), packed[:, i])[np.argsort(turns, kind="stable")]
        np.add.at(placed, (servers, jobs), 1)
    return placed


def exchange(instance: Instance, placed: Ints, deadline: float) -> Ints:
    """Lower the richest server's surplus while some exchange does so and none raises the greatest imbalance."""
    placed = placed.copy()
    most = instance.score(placed).imbalance
    while time.monotonic() < deadline:
        order = np.argsort(placed @ instance.mib, kind="stable")
        rich, others = int(order[-1]), order[:-1]
        if not any(_swap(instance, placed, most, rich, some) for some in (others[:FEW], others[FEW:])):
            break
    return placed


def _swap(instance: Instance, placed: Ints, most: int, rich: int, others: Ints) -> bool:
    """Exchange what evens out `rich` and one of `others` best, a job for a job or for nothing; whether any did."""
    if not len(others):
        return False
    kinds = len(instance.tp)
    one = np.vstack([np.eye(kinds, dtype=np.int64), np.zeros((1, kinds), np.int64)])  # the last one: nothing
    there = placed[others]
    surplus, top = there @ instance.mib, int(placed[rich] @ instance.mib)
    mib = one @ instance.mib
    moved = (mib[:, None] - mib)[:, :, None]  # [given, taken, other]
    allowed = _allowed(instance, one, placed[rich], there, most)
    higher = np.where(allowed, np.maximum(top - moved, surplus + moved), top)
    given, taken, other = np.unravel_index(int(higher.argmin()), higher.shape)
    if higher[given, taken, other] >= top:
        return False
    placed[rich] += one[taken] - one[given]
    placed[others[other]] += one[given] - one[taken]
    return True


def _allowed(instance: Instance, one: Ints, here: Ints, there: Ints, most: int) -> NDArray[np.bool_]:
    """Return which exchanges [given, taken, other] keep shards within GPUs and imbalances within `most`."""
    owned = np.append(here > 0, True)[:, None, None]
    offered = np.column_stack([there > 0, np.ones(len(there), bool)]).T[None, :, :]
    allowed: NDArray[np.bool_] = owned & offered
    for weights, limit in ((instance.tp, instance.gpus), (instance.lean, most)):
        amount = one @ weights
        moved = (amount[:, None] - amount)[:, :, None]
        allowed &= (there @ weights + moved <= limit) & (int(here @ weights) - moved <= limit)
    return allowed
