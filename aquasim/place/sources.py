"""Patterns, and what they say about limits: all of them enumerated, or only those that a relaxation asks for."""

import time
from typing import NamedTuple, Protocol

import numpy as np

from aquasim.place.patterns import Limits, all_patterns, how_many, uncovered
from aquasim.place.problem import Instance, Ints
from aquasim.place.programs import Answer, best_pattern, build, number, price, relax

MOST_PATTERNS = 200_000
"""More are not enumerated: a relaxation over them would take seconds."""
SAMPLE = 500
"""Enumerated: patterns beside the relaxation's own in the first integer program."""
MOST_COLUMNS = 5_000
"""Enumerated: an integer program over all useful patterns is tried up to here."""
STEP = 1e-3
"""Generated: surpluses are told apart down to this share of the objective."""
RELAX_S = 10.0
"""Generated: longest time to refute limits."""
MOST_NUMBERED = 600
"""Generated: a program over numbered servers is tried up to this many variables."""
DRAWN, NEAR, STEPS = 20_000, 1_500, 4
"""Generated: neighbours of patterns drawn and kept, and how many exchanges away they are."""
TINY = 1e-6


class Levels(NamedTuple):
    """Surpluses to try, ascending; if the first i are refuted, none below `floors[i]` is possible."""

    surplus: Ints
    floors: Ints


class Source(Protocol):
    """Answers what limits allow."""

    exact: bool

    def levels(self, imbalance: int, least: int, most: int) -> Levels:
        """Return the surpluses from `least` to `most` that are worth telling apart."""

    def probe(self, limits: Limits, deadline: float) -> Answer:
        """Place all jobs with limits kept on every server, or refute the limits, or neither."""


def source_of(instance: Instance) -> Source:
    """Enumerate the patterns if they are few enough."""
    return Enumerated(instance) if how_many(instance) <= MOST_PATTERNS else Generated(instance)


class Enumerated:
    """All patterns: surpluses are exact, and so is the search."""

    exact = True

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

    def probe(self, limits: Limits, deadline: float) -> Answer:
        """Relax over all useful patterns; build from the relaxation's own and a sample, then from all."""
        useful = limits.kept_by(self.jobs, self.instance)
        if not len(useful):
            return Answer(None)
        shares = relax(self.instance, self.jobs[useful], self.uncovered[useful], deadline)
        if shares.servers is None:
            return Answer(None, shares.refuted)
        if len(useful) > SAMPLE:
            others = np.random.default_rng(0).choice(useful, SAMPLE, replace=False)
            answer = self._build(np.union1d(useful[shares.servers > TINY], others), deadline)
            if answer.placed is not None or len(useful) > MOST_COLUMNS:
                return Answer(answer.placed, sure=False)
        return self._build(useful, deadline)

    def _build(self, chosen: Ints, deadline: float) -> Answer:
        return build(self.instance, self.jobs[chosen], self.uncovered[chosen], deadline)


class Generated:
    """Patterns found one by one, each the one that helps the relaxation most (Gilmore and Gomory, 1961)."""

    exact = False

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.jobs: Ints = np.zeros((0, len(instance.tp)), np.int64)

    def levels(self, imbalance: int, least: int, most: int) -> Levels:
        """Return surpluses a thousandth of the objective apart, and none where that is all there is to gain."""
        step = max(1, round(STEP * abs(self.instance.weight * imbalance + most)))
        surplus = np.arange(least + step, most + 1, step)
        return Levels(surplus, np.append(least, surplus + 1))

    def probe(self, limits: Limits, deadline: float) -> Answer:
        """Relax; then build with numbered servers if they are few, else from the patterns and ones near them."""
        relaxed = self._relax(limits, min(deadline, time.monotonic() + RELAX_S))
        if relaxed is not None:
            return relaxed
        answer = Answer(None, sure=False)
        if self.instance.servers * len(self.instance.tp) <= MOST_NUMBERED:
            answer = number(self.instance, limits, deadline)
        if answer.placed is None and not answer.sure:
            jobs = self._near(limits)
            answer = build(self.instance, jobs, uncovered(self.instance, jobs), deadline)
            answer = Answer(answer.placed, sure=False)
        return answer

    def _relax(self, limits: Limits, deadline: float) -> Answer | None:
        """Add patterns until all jobs can be placed in fractions (None), or no pattern can help enough."""
        while True:
            prices = price(self.instance, self.jobs[limits.kept_by(self.jobs, self.instance)])
            if prices.missing < TINY:
                return None
            best = best_pattern(self.instance, limits, prices.worth, deadline)
            # Over any placement the worths and costs of its servers sum to what is missing now.
            if self.instance.servers * (best.bound + prices.server) < prices.missing - TINY:
                return Answer(None)
            if best.jobs is None or not self._add(best.jobs, limits) or time.monotonic() > deadline:
                return Answer(None, sure=False)

    def _add(self, jobs: Ints, limits: Limits) -> bool:
        """Keep a pattern; whether it is new, and within limits in whole numbers."""
        if not len(limits.kept_by(jobs[None], self.instance)) or (self.jobs == jobs).all(axis=1).any():
            return False
        self.jobs = np.vstack([self.jobs, jobs])
        return True

    def _near(self, limits: Limits) -> Ints:
        """Return the known patterns and some that differ from them by a few jobs, more, less, or others."""
        rng = np.random.default_rng(0)
        known = self.jobs[limits.kept_by(self.jobs, self.instance)]
        kinds = known.shape[1]
        one = np.vstack([np.eye(kinds, dtype=np.int64), np.zeros((1, kinds), np.int64)])
        near = known[rng.integers(len(known), size=DRAWN)]
        found = []
        for _ in range(STEPS):
            near = near + one[rng.integers(kinds + 1, size=DRAWN)] - one[rng.integers(kinds + 1, size=DRAWN)]
            valid = near[((near >= 0) & (near <= self.instance.count)).all(axis=1)]
            found.append(valid[limits.kept_by(valid, self.instance)])
        others = np.unique(np.vstack(found), axis=0)
        if len(others) > NEAR:
            others = rng.choice(others, NEAR, replace=False)
        return np.unique(np.vstack([known, others]), axis=0)
