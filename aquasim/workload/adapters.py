"""Which adapter each request of a workload needs."""

import math
from dataclasses import dataclass, replace

import numpy as np

from aquasim.workload.streams import stream
from aquasim.workload.table import IntArray, Workload


@dataclass(frozen=True, slots=True)
class Adapters:
    """`count` adapters; adapter k (from 0) is needed with probability proportional to `(k + 1) ** -zipf`.

    `zipf` 0 is uniform. Raises ValueError for a count below 1 or an exponent that is not finite and >= 0.
    """

    count: int
    zipf: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}, a whole number >= 1 is needed")
        if not (math.isfinite(self.zipf) and self.zipf >= 0):
            raise ValueError(f"zipf is {self.zipf}, a finite number >= 0 is needed")

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return the adapters of `n` requests."""
        cumulative = np.cumsum(np.arange(1.0, self.count + 1) ** -self.zipf)
        drawn = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        chosen: IntArray = np.minimum(drawn, self.count - 1).astype(np.int64)
        return chosen

    def assign(self, workload: Workload, seed: int) -> Workload:
        """Return the workload with an adapter for each request, from the stream "adapter" of `seed`."""
        return replace(workload, adapter=self.sample(len(workload), stream(seed, "adapter")))
