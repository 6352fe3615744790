"""The least objective: limits on surplus and imbalance are refuted, or met by a placement, until they meet.

Whether all jobs can be placed within given limits is a small program over server patterns. Its relaxation refutes
limits that are too low, nearly always at once; an integer program over the patterns that the relaxation uses and some
others finds a placement. The search takes imbalance by imbalance and, in each, the least surplus by galloping and
bisection from the average up.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from aquasim.place.patterns import Limits
from aquasim.place.problem import Instance, Ints
from aquasim.place.sources import Source


@dataclass
class Search:
    """Looks for the least objective until `deadline` (of `time.monotonic`)."""

    instance: Instance
    source: Source
    deadline: float
    best: Ints | None = None
    ceiling: int = 0
    bound: int = field(init=False)
    """MiB: no placement has a smaller objective, if `least` was right."""

    def run(self, least: int, ceiling: int) -> None:
        """Find the best placement, of objective `ceiling` at most, given the least feasible imbalance."""
        instance = self.instance
        self.ceiling = ceiling
        left_open = [ceiling]
        for imbalance in range(least, instance.gpus + 1):
            lowest = instance.weight * imbalance + instance.least_surplus
            if lowest > self.ceiling:
                break
            if self._late():
                left_open.append(lowest)
                break
            left_open.append(self._at(imbalance))
        if self.best is not None:
            left_open.append(instance.score(self.best).objective)
        self.bound = min(left_open)

    def _late(self) -> bool:
        return time.monotonic() >= self.deadline

    def _at(self, imbalance: int) -> int:
        """Improve on the ceiling within one imbalance; returns the lowest objective left open."""
        above = self.instance.weight * imbalance
        levels = self.source.levels(imbalance, self.instance.least_surplus, self.ceiling - above)
        low, high, proven, stride = 0, len(levels.surplus), 0, 1
        found = False
        while low < high and not self._late():
            at = (low + high) // 2 if found else min(low + stride, high) - 1
            answer = self.source.probe(Limits(int(levels.surplus[at]), imbalance), self.deadline)
            if answer.placed is not None:
                found = True
                reached = self._keep(answer.placed)
                high = min(at, int(np.searchsorted(levels.surplus, reached)))
            else:
                low, stride = at + 1, 2 * stride
                proven = low if answer.sure else proven
        return above + int(levels.floors[proven])

    def _keep(self, placed: Ints) -> int:
        """Remember a placement if it is the best; returns its surplus."""
        score = self.instance.score(placed)
        if score.objective <= self.ceiling:
            self.best, self.ceiling = placed, score.objective - 1
        return score.surplus
