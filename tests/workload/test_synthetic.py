"""Synthetic workloads and the independence of their random streams."""

from typing import Any

import numpy as np
import pytest

from aquasim.workload import (
    STREAMS,
    AtOnce,
    ClosedLoop,
    EmpiricalPairs,
    FixedLength,
    Gamma,
    Lognormal,
    Piecewise,
    Poisson,
    SharedPrefix,
    Uniform,
    Workload,
    stream,
    synthetic,
)


def columns(workload: Workload) -> list[Any]:
    """Return arrivals, lengths, priorities and prefixes, as lists."""
    arrays = (workload.arrival, workload.prompt, workload.output, workload.priority)
    block = None if workload.prefix is None else workload.prefix_block
    return [None if a is None else a.tolist() for a in arrays] + [workload.prefix, block]


def test_streams_are_the_children_of_one_seed() -> None:
    """Each named stream is the child that SeedSequence.spawn gives, and no two are alike."""
    children = np.random.SeedSequence(5).spawn(len(STREAMS))
    firsts = [stream(5, name).random() for name in STREAMS]

    assert firsts == [np.random.default_rng(child).random() for child in children]
    assert len(set(firsts)) == len(STREAMS)
    with pytest.raises(
        ValueError, match="stream 'lengths' is unknown, valid: arrivals, prompt, output, prefix"
    ):
        stream(5, "lengths")


def test_changing_one_distribution_moves_nothing_else() -> None:
    """Arrivals, prompts, outputs and prefixes come from streams of their own."""

    def make(arrivals: Any, prompt: Any, output: Any, groups: int) -> Workload:
        shared = SharedPrefix(groups, 64)
        return synthetic(arrivals, prompt, output, requests=200, seed=3, shared_prefix=shared)

    # Rejection sampling makes a Gamma draw a varying number of random numbers.
    laws: tuple[Any, ...] = (Poisson(1.0), Uniform(1, 100), Uniform(1, 100), 5)
    others: tuple[Any, ...] = (Gamma(1.0, 3.0), Lognormal(median=9, sigma=1), FixedLength(3), 7)
    base = columns(make(*laws))
    for changed in range(4):
        found = columns(make(*(others[i] if i == changed else laws[i] for i in range(4))))
        place = (0, 1, 2, 4)[changed]
        assert [c for c in range(6) if found[c] != base[c]] == [place]


def test_one_seed_gives_one_workload() -> None:
    """The same seed repeats everything, another seed changes it."""

    def make(seed: int) -> list[Any]:
        return columns(synthetic(Poisson(1.0), Uniform(1, 900), Uniform(1, 900), requests=50, seed=seed))

    assert make(1) == make(1)
    assert make(1) != make(2)


def test_shared_prefixes_come_before_the_prompt() -> None:
    """The prompt grows by the system prompt, whose full blocks have one chain per group."""
    shared = SharedPrefix(groups=3, tokens=40, block=16)
    workload = synthetic(
        AtOnce(), FixedLength(10), FixedLength(1), requests=100, seed=0, shared_prefix=shared
    )

    assert set(workload.prompt.tolist()) == {50}
    assert workload.prefix is not None
    assert set(workload.prefix) == {(0, 1), (2, 3), (4, 5)}
    assert workload.block_hashes(0, 8) == tuple(4 * (workload.prefix[0][0] // 2) + k for k in range(4))


def test_zipf_groups_have_falling_shares() -> None:
    """Group k has the share (k + 1)^-1 / H for zipf = 1; N = 20,000 gives an error below 5 x 0.0035."""
    drawn = SharedPrefix(groups=4, tokens=16, zipf=1.0).sample(20_000, np.random.default_rng(1))
    shares = np.bincount([chain[0] for chain in drawn]) / 20_000
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4

    assert shares == pytest.approx([1 / total / k for k in (1, 2, 3, 4)], abs=0.018)


def test_a_closed_loop_carries_its_cap_and_pairs_stay_together() -> None:
    """synthetic takes the cap from the arrivals, and both lengths from pairs."""
    pairs = EmpiricalPairs([10, 20], [1, 2])
    workload = synthetic(ClosedLoop(4), pairs, requests=30, seed=0)

    assert workload.cap == 4
    assert (workload.prompt == 10 * workload.output).all()


def test_synthetic_says_when_arrivals_end_early_and_refuses_what_does_not_fit() -> None:
    """Fewer requests than asked for are noted; none at all, and missing or double outputs, are errors."""
    ending = Piecewise([(100.0, 1.0), (0.0, 1.0)])
    workload = synthetic(ending, FixedLength(1), FixedLength(1), requests=1000, seed=0)
    assert workload.notes == (f"the arrival process ended after {len(workload)} of 1000 requests",)

    with pytest.raises(ValueError, match="no request arrives"):
        synthetic(Poisson(1e-9), FixedLength(1), FixedLength(1), duration=1.0, seed=0)
    with pytest.raises(ValueError, match="output is missing"):
        synthetic(Poisson(1.0), FixedLength(1), requests=1, seed=0)
    with pytest.raises(ValueError, match="output is given beside EmpiricalPairs"):
        synthetic(Poisson(1.0), EmpiricalPairs([1], [1]), FixedLength(1), requests=1, seed=0)
    with pytest.raises(ValueError, match="seed is -1, a whole number >= 0 is needed"):
        synthetic(Poisson(1.0), FixedLength(1), FixedLength(1), requests=1, seed=-1)
    with pytest.raises(ValueError, match=r"block is 16, a whole number in \[1, tokens = 8\] is needed"):
        SharedPrefix(groups=1, tokens=8)
