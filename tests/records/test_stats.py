"""Percentiles of progressions against what they stand for, written out."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.records.stats import Progressions, jain, percentiles

Row = tuple[int, int, int, int]
"""First, growth, count, weight."""
PERCENTS = (0, 1, 50, 90, 99, 100)
RUNS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 40), st.integers(0, 9)), min_size=1
)


def _nearest_rank(values: list[int], percent: float) -> int:
    return sorted(values)[max(1, ceil(len(values) * percent / 100)) - 1]


def _build(runs: list[Row]) -> Progressions:
    return Progressions.of_runs(*(np.array(column, np.int64) for column in zip(*runs, strict=True)))


def _expand(runs: list[Row]) -> list[int]:
    return [first + growth * j for first, growth, n, w in runs for j in range(n) for _ in range(w)]


@given(RUNS)
def test_progressions_equal_their_expansion(runs: list[Row]) -> None:
    """Total, percentiles, largest and mean are those of all values written out."""
    values, entries = _expand(runs), _build(runs)

    assert entries.total() == len(values)
    if values:
        assert entries.percentiles(PERCENTS) == [_nearest_rank(values, q) for q in PERCENTS]
        assert entries.max() == max(values)
        assert entries.mean() == pytest.approx(np.mean(values))


@given(RUNS)
def test_falling_progressions_are_turned_round(runs: list[Row]) -> None:
    """A progression from the end with the growth negated is the same values."""
    values = _expand(runs)
    turned = _build([(first + growth * max(n - 1, 0), -growth, n, w) for first, growth, n, w in runs])

    if values:
        assert turned.percentiles(PERCENTS) == [_nearest_rank(values, q) for q in PERCENTS]


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 5)), min_size=1), st.integers(0, 100))
def test_weights_are_repetitions(pairs: list[tuple[int, int]], percent: int) -> None:
    """A weight is a number of copies."""
    values = [value for value, weight in pairs for _ in range(weight)]
    repeated, weights = (np.array(column, np.int64) for column in zip(*pairs, strict=True))

    if values:
        found = Progressions.of_values(repeated, weights).percentiles([percent])
        assert found == [_nearest_rank(values, percent)]


def test_many_entries_with_one_value_far_out() -> None:
    """The search is exact where nearly all values are alike and one is huge."""
    values = np.append(np.full(100_000, 20_000_001), 10**15)
    weights = np.ones_like(values)

    assert Progressions.of_values(values, weights).percentiles([50, 100]) == [20_000_001, 10**15]


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_percentiles_are_nearest_rank(values: list[int]) -> None:
    """Plain percentiles follow the same definition."""
    assert percentiles(np.array(values), PERCENTS) == [_nearest_rank(values, q) for q in PERCENTS]


def test_jain_bounds() -> None:
    """Equal shares give 1, one that has everything gives 1/n."""
    assert jain(np.full(5, 3.0)) == pytest.approx(1)
    assert jain(np.array([1.0, 0, 0, 0])) == pytest.approx(1 / 4)
