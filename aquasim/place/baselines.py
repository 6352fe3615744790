"""Placements without a solver: random and greedy. What the optimum is compared with, and a start for it."""

from collections.abc import Callable

import numpy as np

from aquasim.place.problem import Instance, Ints

TRIES = 50
Chooser = Callable[[int, Ints, Ints], int]
"""Which server: from the job's kind, the servers with room, and what is placed."""


def random_placement(instance: Instance, seed: int) -> Ints | None:
    """Put every job on a random server with room, the widest first; None if that never comes out."""
    rng = np.random.default_rng(seed)
    jobs = np.repeat(np.arange(len(instance.tp)), instance.count)
    for _ in range(TRIES):
        jobs = rng.permutation(jobs)
        order = jobs[np.argsort(-instance.tp[jobs], kind="stable")]
        placed = _place_in_order(instance, order, lambda kind, room, placed: int(rng.choice(room)))
        if placed is not None:
            return placed
    return None


def greedy_placement(instance: Instance) -> Ints | None:
    """Put the widest and largest jobs first, a donor on the neediest server, a consumer on the richest."""
    jobs = np.repeat(np.arange(len(instance.tp)), instance.count)
    order = jobs[np.lexsort((-np.abs(instance.mib[jobs]), -instance.tp[jobs]))]
    value = instance.mib + instance.weight * instance.lean

    def choose(kind: int, room: Ints, placed: Ints) -> int:
        riches = (placed[room] @ value) * (1 if value[kind] > 0 else -1)
        return int(room[np.argmin(riches)])

    return _place_in_order(instance, order, choose)


def _place_in_order(instance: Instance, order: Ints, choose: Chooser) -> Ints | None:
    """Place job after job on the server chosen among those with room; None if a job finds none."""
    placed = np.zeros((instance.servers, len(instance.tp)), np.int64)
    free = np.full(instance.servers, instance.gpus)
    for kind in order.tolist():
        room = np.flatnonzero(free >= instance.tp[kind])
        if not len(room):
            return None
        server = choose(kind, room, placed)
        placed[server, kind] += 1
        free[server] -= instance.tp[kind]
    return placed
