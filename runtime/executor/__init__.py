"""Runs a scheduler's decisions for real: a runner computes, a pager moves pages, records are those of a simulation.

    executor = Executor(scheduler, runner, pager)
    executor.submit(1, prompt, max_tokens=64)
    while executor.busy:
        executor.turn()

Tensor-parallel ranks, each with its own process, cache and leases, are one engine by `executor.ranks`.

Torch comes with the runner; importing this needs numpy only.
"""

from aquasim.runtime.executor.executor import Executor
from aquasim.runtime.executor.sequence import Sequence

__all__ = ["Executor", "Sequence"]
