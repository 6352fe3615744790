"""Where patterns come from: all of them enumerated, or only those that a relaxation asks for."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from aquasim.place.patterns import Limits, all_patterns, how_many, uncovered
from aquasim.place.problem import Instance, Ints
from aquasim.place.programs import mix, most_worth, price

MOST_PATTERNS = 200_000
"""More are not enumerated: a relaxation over them would take seconds."""
SAMPLE = 500
"""Patterns beside the relaxation's own in the first integer program."""
MOST_COLUMNS = 5_000
"""An integer program over all useful patterns is tried up to here."""
STEP = 1e-3
"""Generated: surpluses are told apart down to this share of the objective."""
TRIES = 20_000
"""Generated: neighbours of patterns drawn, before those are dropped that are none or of no use."""
MOST_NEAR = 1_500
"""Generated: neighbours kept."""
STEPS = 4
ROUNDS = 2
SCATTERED = 60
SCATTER_S = 3.0
PROBE_S = 10.0
"""Generated: longest time for one relaxation."""
TINY = 1e-6


class Relaxed(NamedTuple):
    """Sets of patterns to build a placement from, in turn. None: `refuted`, or nothing is known."""

    sets: Iterable[Ints]
    refuted: bool = False
    complete: bool = False
    """The last set holds all useful patterns: if it gives no placement, there is none."""


class Levels(NamedTuple):
    """Surpluses to try, ascending; if the first i are refuted, none below `floors[i]` is possible."""

    surplus: Ints
    floors: Ints


class Source(Protocol):
    """Patterns of an instance."""

    name: str

    def levels(self, imbalance: int, least: int, most: int) -> Levels:
        """Return the surpluses from `least` to `most` that are worth telling apart."""

    def relax(self, limits: Limits, deadline: float) -> Relaxed:
        """Refute the limits, or return patterns that a placement within them is likely to use."""


def source_of(instance: Instance) -> Source:
    """Enumerate the patterns if they are few enough."""
    return Enumerated(instance) if how_many(instance) <= MOST_PATTERNS else Generated(instance)


class Enumerated:
    """All patterns: surpluses are exact, and so is the search."""

    name = "patterns"

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.jobs = all_patterns(instance)
        self.mib, self.lean = self.jobs @ instance.mib, self.jobs @ instance.lean
        self.uncovered = uncovered(instance, self.jobs)

    def levels(self, imbalance: int, least: int, most: int) -> Levels:
        """Return the surpluses that a server can have."""
        found = self.mib[(self.lean <= imbalance) & (self.mib >= least) & (self.mib <= most)]
        surplus = np.unique(found)
        return Levels(surplus, np.append(surplus, most + 1))

    def relax(self, limits: Limits, deadline: float) -> Relaxed:
        """Solve the linear program over all useful patterns; take its own and a sample of the others."""
        useful = limits.kept_by(self.jobs, self.instance)
        if not len(useful):
            return Relaxed((), refuted=True)
        found = mix(self.instance, self.jobs[useful], self.uncovered[useful], False, deadline)
        if found.servers is None:
            return Relaxed((), found.refuted)
        if len(useful) <= SAMPLE:
            return Relaxed((self.jobs[useful],), complete=True)
        others = np.random.default_rng(0).choice(useful, SAMPLE, replace=False)
        first = self.jobs[np.union1d(useful[found.servers > TINY], others)]
        if len(useful) > MOST_COLUMNS:
            return Relaxed((first,))
        return Relaxed((first, self.jobs[useful]), complete=True)


@dataclass
class Generated:
    """Patterns found one by one, each the one that helps the relaxation most (Gilmore and Gomory, 1961)."""

    instance: Instance
    name: str = field(default="columns", init=False)
    jobs: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = np.zeros((0, len(self.instance.tp)), np.int64)

    def levels(self, imbalance: int, least: int, most: int) -> Levels:
        """Return surpluses a thousandth of the objective apart, and none where that is all there is to gain."""
        step = max(1, round(STEP * abs(self.instance.weight * imbalance + most)))
        surplus = np.arange(least + step, most + 1, step)
        return Levels(surplus, np.append(least, surplus + 1))

    def relax(self, limits: Limits, deadline: float) -> Relaxed:
        """Add patterns until all jobs can be placed in fractions, or none can help enough."""
        deadline = min(deadline, time.monotonic() + PROBE_S)
        while True:
            jobs = self.jobs[limits.kept_by(self.jobs, self.instance)]
            prices = price(self.instance, jobs)
            if prices.missing < TINY:
                return Relaxed(self._around(jobs[prices.servers > TINY], limits, deadline))
            best = most_worth(self.instance, limits, prices.worth, deadline)
            # Over any placement the worths and costs of its servers sum to what is missing now.
            if self.instance.servers * (best.bound + prices.server) < prices.missing - TINY:
                return Relaxed((), refuted=True)
            if best.jobs is None or not self._add(best.jobs, limits) or time.monotonic() > deadline:
                return Relaxed(())

    def _add(self, jobs: Ints, limits: Limits) -> bool:
        """Keep a new pattern; whether it is new, and within limits in whole numbers."""
        if not len(limits.kept_by(jobs[None], self.instance)) or (self.jobs == jobs).all(axis=1).any():
            return False
        self.jobs = np.vstack([self.jobs, jobs])
        return True

    def _around(self, used: Ints, limits: Limits, deadline: float) -> Iterator[Ints]:
        """Give what is known, then more and more of what else keeps the limits."""
        rng = np.random.default_rng(0)
        yield self._known(limits)
        for _ in range(ROUNDS):
            self._scatter(limits, rng, min(deadline, time.monotonic() + SCATTER_S))
            known = self._known(limits)
            near = self._neighbours(np.vstack([used, known]), limits, rng)
            yield np.unique(np.vstack([known, near]), axis=0)

    def _known(self, limits: Limits) -> Ints:
        return self.jobs[limits.kept_by(self.jobs, self.instance)]

    def _scatter(self, limits: Limits, rng: np.random.Generator, deadline: float) -> None:
        """Add patterns that differ much: the best at random worths."""
        for _ in range(SCATTERED):
            best = most_worth(self.instance, limits, rng.standard_normal(len(self.instance.tp)), deadline)
            if best.jobs is not None:
                self._add(best.jobs, limits)
            if time.monotonic() > deadline:
                break

    def _neighbours(self, jobs: Ints, limits: Limits, rng: np.random.Generator) -> Ints:
        """Draw patterns that differ from some of `jobs` by a few jobs, more, less, or others."""
        kinds = jobs.shape[1]
        one = np.vstack([np.eye(kinds, dtype=np.int64), np.zeros((1, kinds), np.int64)])
        near = jobs[rng.integers(len(jobs), size=TRIES)]
        found = [jobs]
        for _ in range(STEPS):
            near = near + one[rng.integers(kinds + 1, size=TRIES)] - one[rng.integers(kinds + 1, size=TRIES)]
            valid = near[((near >= 0) & (near <= self.instance.count)).all(axis=1)]
            found.append(valid[limits.kept_by(valid, self.instance)])
        all_found = np.unique(np.vstack(found), axis=0)
        return all_found if len(all_found) <= MOST_NEAR else rng.choice(all_found, MOST_NEAR, replace=False)
