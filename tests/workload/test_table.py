"""The workload table and its files."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aquasim.workload as public
from aquasim.workload import (
    Workload,
    read_trace,
    save,
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
        (
            {"arrival": np.array([0, math.nan, 2])},
            "arrival[1] is nan, a whole number in [0, 2**62] is needed",
        ),
        ({"prompt": np.array([1, 2, 0])}, "prompt[2] is 0, a whole number in [1, 2**62] is needed"),
        ({"output": np.array([1.5, 2, 3])}, "output[0] is 1.5, a whole number in [1, 2**62] is needed"),
        ({"output": np.array([math.inf, 2, 3])}, "output[0] is inf, a whole number in [1, 2**62] is needed"),
        ({"prompt": np.array(["a", "b", "c"])}, "prompt has type <U1, whole numbers are needed"),
        ({"arrival": np.array([])}, "arrival has shape (0,), a column of at least one request is needed"),
        ({"output": np.array([1])}, "columns differ in length: arrival 3, prompt 3, output 1"),
        ({"prefix": [()]}, "columns differ in length: arrival 3, prompt 3, output 3, prefix 1"),
        (
            {"prefix": [(), (), (1, 2, 3, 4, 5)]},
            "prefix[2] has 5 hashes of 16 tokens, more than its 50 prompt",
        ),
        ({"cap": 0}, "cap is 0, a whole number >= 1 is needed"),
        ({"prefix_block": 0}, "prefix_block is 0, a whole number >= 1 is needed"),
    ],
)
def test_bad_columns_are_refused_in_one_line(changes: dict[str, Any], text: str) -> None:
    """The first wrong entry is named with its value and what is valid."""
    with pytest.raises(ValueError, match=r"^") as caught:
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

    with pytest.raises(
        ValueError, match=rf"block_size is {block_size}, a divisor of prefix_block = 64 is needed"
    ):
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


def test_replace_checks_again() -> None:
    """A workload made from another by dataclasses.replace is validated like any other."""
    with pytest.raises(ValueError, match=r"prompt\[0\] is 0"):
        dataclasses.replace(table(), prompt=np.array([0, 1, 1]))


def test_importing_loads_numpy_and_nothing_heavier() -> None:
    """Parquet, tokenizers and data frames are loaded by the functions that need them, if at all."""
    heavy = "{'pyarrow', 'tokenizers', 'pandas', 'scipy'}"
    code = f"import sys, aquasim.workload; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_public_names_are_sorted_and_there() -> None:
    """__all__ lists each name once, constants, classes, functions, and each exists."""
    assert all(hasattr(public, name) for name in public.__all__)
    kinds = [(not name.isupper(), not name[0].isupper(), name) for name in public.__all__]
    assert kinds == sorted(set(kinds))
