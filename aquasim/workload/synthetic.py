"""Workloads from an arrival process and length distributions."""

import math
from dataclasses import dataclass

import numpy as np

from aquasim.workload.arrivals import Arrivals, ClosedLoop
from aquasim.workload.lengths import EmpiricalPairs, Lengths
from aquasim.workload.streams import stream
from aquasim.workload.table import IntArray, Workload


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """System prompts that requests have in common: `groups` of them, `tokens` long each.

    Each request begins with one of them: group k (from 0) with probability proportional to
    `(k + 1) ** -zipf`, so `zipf` 0 is uniform. One hash stands for `block` tokens; the engine's block size
    must divide it, and the `tokens % block` last tokens of a system prompt are not shared.
    """

    groups: int
    tokens: int
    zipf: float = 0.0
    block: int = 16

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups is {self.groups}, a whole number >= 1 is needed")
        if not 1 <= self.block <= self.tokens:
            raise ValueError(
                f"block is {self.block}, a whole number in [1, tokens = {self.tokens}] is needed"
            )
        if not (math.isfinite(self.zipf) and self.zipf >= 0):
            raise ValueError(f"zipf is {self.zipf}, a finite number >= 0 is needed")

    def sample(self, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Return the chain hashes of `n` requests."""
        cumulative = np.cumsum(np.arange(1.0, self.groups + 1) ** -self.zipf)
        drawn = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        blocks = self.tokens // self.block
        chains = [tuple(range(group * blocks, (group + 1) * blocks)) for group in range(self.groups)]
        return [chains[group] for group in np.minimum(drawn, self.groups - 1).tolist()]


def synthetic(
    arrivals: Arrivals,
    prompt: Lengths | EmpiricalPairs,
    output: Lengths | None = None,
    *,
    requests: int | None = None,
    seed: int,
    duration: float | None = None,
    shared_prefix: SharedPrefix | None = None,
    name: str = "synthetic",
) -> Workload:
    """Return a workload of at most `requests` requests arriving before `duration` seconds.

    Arrivals, prompts, outputs and prefixes come from four independent streams of `seed`: changing one
    distribution leaves the others' values as they are. `prompt` as `EmpiricalPairs` gives both lengths, and
    `output` is then left out. A shared prefix comes in front of the tokens that `prompt` draws.
    Raises ValueError when the arguments do not fit, or no request arrives.
    """
    times = arrivals.times(requests, stream(seed, "arrivals"), duration=duration)
    if not times.size:
        raise ValueError(f"no request arrives: {arrivals} with requests={requests}, duration={duration}")
    prompts, outputs = _lengths(prompt, output, len(times), seed)
    notes: tuple[str, ...] = ()
    if requests is not None and duration is None and len(times) < requests:
        notes = (f"the arrival process ended after {len(times)} of {requests} requests",)
    return Workload(
        times,
        prompts + (shared_prefix.tokens if shared_prefix else 0),
        outputs,
        prefix=shared_prefix.sample(len(times), stream(seed, "prefix")) if shared_prefix else None,
        prefix_block=shared_prefix.block if shared_prefix else 16,
        cap=arrivals.cap if isinstance(arrivals, ClosedLoop) else None,
        name=name,
        notes=notes,
    )


def _lengths(
    prompt: Lengths | EmpiricalPairs, output: Lengths | None, n: int, seed: int
) -> tuple[IntArray, IntArray]:
    if isinstance(prompt, EmpiricalPairs):
        if output is not None:
            raise ValueError("output is given beside EmpiricalPairs, which has the outputs already")
        return prompt.sample(n, stream(seed, "prompt"))
    if output is None:
        raise ValueError("output is missing, a length distribution is needed")
    return prompt.sample(n, stream(seed, "prompt")), output.sample(n, stream(seed, "output"))
