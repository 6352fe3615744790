"""The workload table, its files, and synthetic workloads."""

import dataclasses
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aquasim.workload as public
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
    read_trace,
    save,
    stream,
    synthetic,
)


def table(**changes: Any) -> Workload:
    """Return a small workload, `changes` apart."""
    columns: dict[str, Any] = {
        "arrival": np.array([0, 10, 20]),
        "prompt": np.array([100, 1000, 50]),
        "output": np.array([1, 2, 3]),
    }
    return Workload(**{**columns, **changes})


def columns(workload: Workload) -> list[Any]:
    """Return everything a file keeps, as lists."""
    arrays = (workload.arrival, workload.prompt, workload.output, workload.priority)
    block = None if workload.prefix is None else workload.prefix_block
    return [None if a is None else a.tolist() for a in arrays] + [workload.prefix, block]


def test_unsorted_arrivals_are_sorted_stably_with_their_rows() -> None:
    """Rows move together, and rows of one instant keep their order."""
    found = table(arrival=np.array([5, 0, 5]), priority=np.array([7, 8, 9]), prefix=[(1,), (2,), (3,)])

    assert columns(found) == [[0, 5, 5], [1000, 100, 50], [2, 1, 3], [8, 7, 9], [(2,), (1,), (3,)], 16]


def test_columns_are_read_only_copies() -> None:
    """Neither the caller's array nor the workload's can change the other."""
    mine = np.array([0, 10, 20])
    workload = table(arrival=mine)
    mine[0] = 5

    assert workload.arrival[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        workload.arrival[0] = 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"arrival": np.array([0, -1, 2])}, "arrival[1] is -1, a whole number in [0, 2**62] is needed"),
        ({"arrival": np.array([0, math.nan, 2])}, "arrival[1] is nan, a whole number in [0, 2**62] is needed"),
        ({"prompt": np.array([1, 2, 0])}, "prompt[2] is 0, a whole number in [1, 2**62] is needed"),
        ({"output": np.array([1.5, 2, 3])}, "output[0] is 1.5, a whole number in [1, 2**62] is needed"),
        ({"output": np.array([math.inf, 2, 3])}, "output[0] is inf, a whole number in [1, 2**62] is needed"),
        ({"prompt": np.array(["a", "b", "c"])}, "prompt has type <U1, whole numbers are needed"),
        ({"arrival": np.array([])}, "arrival has shape (0,), a column of at least one request is needed"),
        ({"output": np.array([1])}, "columns differ in length: arrival 3, prompt 3, output 1"),
        ({"prefix": [()]}, "columns differ in length: arrival 3, prompt 3, output 3, prefix 1"),
        ({"prefix": [(), (), (1, 2, 3, 4, 5)]}, "prefix[2] has 5 hashes of 16 tokens, more than its 50 prompt"),
        ({"cap": 0}, "cap is 0, a whole number >= 1 is needed"),
        ({"prefix_block": 0}, "prefix_block is 0, a whole number >= 1 is needed"),
    ],
)
def test_bad_columns_are_refused_in_one_line(changes: dict[str, Any], text: str) -> None:
    """The first wrong entry is named with its value and what is valid."""
    with pytest.raises(ValueError, match="^") as caught:
        table(**changes)

    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_block_hashes_expand_a_hash_into_engine_blocks() -> None:
    """Each hash gives prefix_block / block_size integers; the prompt's partial last block has none."""
    workload = table(prompt=np.array([100, 1000, 50]), prefix=[(3, 4), (3,), ()], prefix_block=64)

    # 100 tokens are six full blocks of 16: four of hash 3, two of hash 4.
    assert workload.block_hashes(0, 16) == (12, 13, 14, 15, 16, 17)
    assert workload.block_hashes(1, 16) == (12, 13, 14, 15)
    assert workload.block_hashes(2, 16) == ()
    assert workload.block_hashes(0, 64) == (3,)
    assert table().block_hashes(0, 7) == ()


@pytest.mark.parametrize("block_size", [0, -16, 48, 128])
def test_a_block_size_that_does_not_divide_is_refused(block_size: int) -> None:
    """The error names both sizes."""
    workload = table(prefix=[(3,), (), ()], prefix_block=64)

    with pytest.raises(ValueError, match=rf"block_size is {block_size}, a divisor of prefix_block = 64 is needed"):
        workload.block_hashes(0, block_size)


@given(st.lists(st.lists(st.integers(-50, 50), max_size=4, unique=True), min_size=1, max_size=6))
def test_block_hashes_are_equal_exactly_when_the_hashes_are(prefixes: list[list[int]]) -> None:
    """Engine blocks of two requests coincide where their hashes do, and nowhere else."""
    n = len(prefixes)
    ones = np.ones(n, np.int64)
    workload = Workload(ones, 256 * ones, ones, prefix=[tuple(p) for p in prefixes], prefix_block=64)

    for i in range(n):
        blocks = workload.block_hashes(i, 16)
        assert len(blocks) == 4 * len(prefixes[i]) == len(set(blocks))
        for k in range(n):
            shared = set(blocks) & set(workload.block_hashes(k, 16))
            assert len(shared) == 4 * len(set(prefixes[i]) & set(prefixes[k]))


def test_head_between_and_scaled_select_rows() -> None:
    """head keeps the first, between moves its start to 0, scaled divides the times."""
    workload = table(arrival=np.array([0, 10**9, 3 * 10**9]), priority=np.array([1, 2, 3]))

    assert columns(workload.head(2))[:4] == [[0, 10**9], [100, 1000], [1, 2], [1, 2]]
    assert len(workload.head(99)) == 3
    assert workload.between(1, 2).arrival.tolist() == [0]
    assert workload.between(1).arrival.tolist() == [0, 2 * 10**9]
    assert workload.scaled(rate=2.0).arrival.tolist() == [0, 5 * 10**8, 15 * 10**8]
    with pytest.raises(ValueError, match=r"no request in \[5, 6\) s, arrivals run from 0 to 3 s"):
        workload.between(5, 1)
    with pytest.raises(ValueError, match="rate is nan, a finite number > 0 is needed"):
        workload.scaled(rate=math.nan)
    with pytest.raises(ValueError, match="n is 0, a whole number >= 1 is needed"):
        workload.head(0)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Draw a small valid workload with or without priorities and prefixes."""
    n = draw(st.integers(1, 8))
    block = draw(st.sampled_from([16, 512]))

    def column(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), np.int64)

    prompt = column(1, 5000)
    prefix = None
    if draw(st.booleans()):
        # 2**51 bounds chain hashes only to keep examples readable.
        hashes = st.integers(-(2**51), 2**51)
        prefix = [tuple(draw(st.lists(hashes, max_size=min(4, -(-int(p) // block))))) for p in prompt]
    # Up to 26 days: what a double holds to the nanosecond.
    return Workload(
        column(0, 2**51),
        prompt,
        column(1, 10**6),
        column(-9, 9) if draw(st.booleans()) else None,
        prefix,
        block,
    )


@given(workloads(), st.sampled_from([".csv", ".csv.gz", ".parquet"]))
@settings(max_examples=60, deadline=None)
def test_a_saved_workload_reads_back_the_same(workload: Workload, suffix: str) -> None:
    """Every column survives the file to the nanosecond."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"mine{suffix}"
        save(workload, path)

        assert columns(read_trace(path)) == columns(workload)
        assert read_trace(path).name == "mine"


def test_saving_refuses_what_the_file_cannot_hold(tmp_path: Path) -> None:
    """An unknown suffix lists the valid ones; a closed loop is not silently opened."""
    with pytest.raises(ValueError, match=r"x\.txt: unknown suffix, valid: \.csv, \.csv\.gz, \.parquet"):
        save(table(), tmp_path / "x.txt")
    with pytest.raises(ValueError, match="a workload with cap 3 cannot be saved"):
        save(table(cap=3), tmp_path / "x.csv")


def test_streams_are_the_children_of_one_seed() -> None:
    """Each named stream is the child that SeedSequence.spawn gives, and no two are alike."""
    children = np.random.SeedSequence(5).spawn(len(STREAMS))
    firsts = [stream(5, name).random() for name in STREAMS]

    assert firsts == [np.random.default_rng(child).random() for child in children]
    assert len(set(firsts)) == len(STREAMS)
    with pytest.raises(ValueError, match="stream 'lengths' is unknown, valid: arrivals, prompt, output, prefix"):
        stream(5, "lengths")


def test_changing_one_distribution_moves_nothing_else() -> None:
    """Arrivals, prompts, outputs and prefixes come from streams of their own."""

    def make(arrivals: Any, prompt: Any, output: Any, groups: int) -> Workload:
        shared = SharedPrefix(groups, 64)
        return synthetic(arrivals, prompt, output, requests=200, seed=3, shared_prefix=shared)

    # Rejection sampling makes a Gamma draw a varying number of random numbers.
    laws = (Poisson(1.0), Uniform(1, 100), Uniform(1, 100), 5)
    others = (Gamma(1.0, 3.0), Lognormal(median=9, sigma=1), FixedLength(3), 7)
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
    workload = synthetic(AtOnce(), FixedLength(10), FixedLength(1), requests=100, seed=0, shared_prefix=shared)

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


def test_replace_checks_again() -> None:
    """A workload made from another by dataclasses.replace is validated like any other."""
    with pytest.raises(ValueError, match=r"prompt\[0\] is 0"):
        dataclasses.replace(table(), prompt=np.array([0, 1, 1]))


def test_public_names_are_sorted_and_there() -> None:
    """__all__ lists constants, classes and functions in ruff's order, and each exists."""
    assert all(hasattr(public, name) for name in public.__all__)
    assert len(set(public.__all__)) == len(public.__all__)
