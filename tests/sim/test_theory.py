"""The simulator against queueing theory: engines so simple that closed forms say how long requests wait.

Every iteration costs a fixed time per sequence in it, so the engine is a single server: first come first served
with one sequence at a time, shared equally with many, or least attained service first under time slices with
memory for one. Means must lie within four standard errors (20 batch means) of theory, plus the grain of an
iteration or slice, and the standard error must be small enough for that to mean something.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from aquasim.core import Limits, Scheduler, Transfer, make_policy
from aquasim.core.policies.base import Policy
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
from aquasim.sim.source import Source
from aquasim.workload import Workload

TOKEN = 1000
"""Nanoseconds of service per token."""
FOREVER = 1 << 40
Ints = NDArray[np.int64]


class PerSequence:
    """Every sequence in an iteration, decoding or prefilling one token, costs the same."""

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """Return a constant time per iteration."""
        return batch * TOKEN, 0, FOREVER

    def step(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> int:
        """Return the time of an iteration with prefills of one token."""
        return (batch + len(chunks)) * TOKEN

    def timed(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> tuple[int, float]:
        """Nothing is bound by compute."""
        return self.step(chunks, batch, context), 0.0


class Free:
    """Pages move in no time."""

    def __init__(self, env: Clock) -> None:
        self.env = env

    def carry(self, transfer: Transfer, done: Callable[[], None]) -> None:
        """Land at once."""
        self.env.at(self.env.ns, lambda _: done())

    def contended(self) -> bool:
        """Nothing is taken from the engine."""
        return False

    def stretch(self, nanoseconds: int, batch: int, context: int, tokens: int) -> int:
        """Nothing is stretched."""
        return nanoseconds

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""


def serve(limits: Limits, policy: Policy, load: float, tokens: Ints, seed: int) -> Run:
    """Serve Poisson arrivals of one-token prompts that take `tokens` tokens of service each."""
    rng = np.random.default_rng(seed)
    gap = tokens.mean() * TOKEN / load
    arrival = np.cumsum(rng.exponential(gap, len(tokens))).astype(np.int64)
    workload = Workload(arrival, np.ones(len(tokens), np.int64), tokens)
    env = Clock()
    tables = RunTables()
    source = Source(env, workload, limits.block_size, False)
    engine = Engine(env, Scheduler(limits, policy), PerSequence(), tables, Free(env), on_gone=source.gone)
    source.start(engine)
    env.play()
    return Run([("engine", tables)], {})


def times(run: Run, first: str, last: str) -> NDArray[np.float64]:
    """Return what passes between two moments of each request, in tokens of service, in order of arrival."""
    columns = run.columns("requests")
    order = np.argsort(columns["request"])
    return (columns[last] - columns[first])[order] / TOKEN


def agrees(sample: NDArray[np.float64], theory: float, grain: float = 0.0) -> None:
    """Assert that a mean is what theory says; the first tenth is warm-up."""
    kept = sample[len(sample) // 10 :]
    batches = kept[: len(kept) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = batches.std(ddof=1) / np.sqrt(20)
    assert error < 0.1 * theory, f"too few requests: {error / theory:.1%}"
    assert abs(batches.mean() - theory) <= 4 * error + grain, (batches.mean(), theory, error)


def geometric(mean: int, count: int, seed: int) -> Ints:
    """Return the discrete exponential."""
    return np.random.default_rng(seed + 1000).geometric(1 / mean, count).astype(np.int64)


def fixed(mean: int, count: int, seed: int) -> Ints:
    """Return no variation."""
    return np.full(count, mean, np.int64)


def two_sizes(mean: int, count: int, seed: int) -> Ints:
    """Return nine short ones in ten, five ninths of the mean, and one of five times the mean."""
    long = np.random.default_rng(seed + 1000).random(count) < 0.1
    return np.where(long, 5 * mean, max(1, round(mean * 5 / 9))).astype(np.int64)


SERVICES = {"exponential": geometric, "fixed": fixed, "two sizes": two_sizes}

ONE = Limits(blocks=1 << 20, block_size=16, max_num_seqs=1, max_num_batched_tokens=4096)
MANY = Limits(blocks=1 << 20, block_size=16, max_num_seqs=4096, max_num_batched_tokens=8192)
SLICED = Limits(blocks=2, block_size=256, max_num_seqs=4096, tiers=(("host", 1 << 20),))
"""Memory for one request and its headroom."""


@pytest.mark.parametrize(("service", "load"), [*((name, 0.6) for name in SERVICES), ("exponential", 0.3)])
def test_one_at_a_time_waits_as_pollaczek_and_khinchine_say(service: str, load: float) -> None:
    """M/M/1, M/D/1 and M/G/1: mean wait is lambda E[S^2] / 2 (1 - rho), from arrival to admission."""
    tokens = SERVICES[service](500, 12_000, seed=1)
    run = serve(ONE, make_policy("fcfs"), load, tokens, seed=2)
    rate = load / tokens.mean()
    wait = rate * (tokens.astype(float) ** 2).mean() / (2 * (1 - load))
    agrees(times(run, "arrival_ns", "admitted_ns"), wait)


def test_a_server_alone_serves_without_delay() -> None:
    """The work itself takes exactly its tokens, whatever happens around it."""
    tokens = geometric(100, 2000, seed=3)
    run = serve(ONE, make_policy("fcfs"), 0.7, tokens, seed=4)
    assert np.array_equal(times(run, "admitted_ns", "finished_ns"), tokens)


@pytest.mark.parametrize(("service", "load"), [*((name, 0.7) for name in SERVICES), ("exponential", 0.4)])
def test_a_shared_batch_is_processor_sharing(service: str, load: float) -> None:
    """M/G/1-PS: mean time in system is E[S] / (1 - rho), whatever the distribution of service.

    The grain: a newcomer waits for the iteration under way, of which there are 1 / (1 - rho) tokens on average.
    """
    tokens = SERVICES[service](400, 12_000, seed=5)
    run = serve(MANY, make_policy("fcfs"), load, tokens, seed=6)
    agrees(times(run, "arrival_ns", "finished_ns"), tokens.mean() / (1 - load), grain=1 / (1 - load))


def least_attained(tokens: Ints, load: float) -> float:
    """Return the mean time in system under least attained service first (foreground-background).

    T(x) = lambda E[min(S,x)^2] / 2 (1 - rho(x))^2 + x / (1 - rho(x)), rho(x) = lambda E[min(S,x)].
    """
    rate = load / tokens.mean()
    total = 0.0
    for size, count in zip(*np.unique(tokens, return_counts=True), strict=True):
        cut = np.minimum(tokens, size).astype(float)
        left = 1 - rate * cut.mean()
        total += count * (rate * (cut**2).mean() / (2 * left**2) + size / left)
    return total / len(tokens)


@pytest.mark.parametrize("service", SERVICES)
def test_slices_without_clamp_serve_the_least_attained_first(service: str) -> None:
    """`cfs` with memory for one and pages that move freely is foreground-background, within a slice or two.

    For exponential service that is the mean of processor sharing, for fixed service 1.5 times it.
    """
    tokens = SERVICES[service](40, 2500, seed=7).clip(max=250)
    run = serve(SLICED, make_policy("cfs", slice_length=3), 0.5, tokens, seed=8)
    theory = least_attained(tokens, 0.5)
    agrees(times(run, "arrival_ns", "finished_ns"), theory, grain=2 * 3)
    ratio = theory / (tokens.mean() / 0.5)
    assert ratio == pytest.approx({"exponential": 1.0, "fixed": 1.5}.get(service, ratio), rel=0.05)
