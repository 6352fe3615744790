"""Numbers behind figures: step functions and bins against what they mean, one instant at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aquasim.figures.series import Steps, at, between, means, numbers, peaks, spread, thin, total

NS = 10**9
INTERVALS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=12
)
EDGES = np.linspace(0.0, 80.0, 9)


def parts(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, ends and amounts."""
    start, lasted, amount = np.array(rows, np.int64).T
    return start * NS, (start + lasted) * NS, amount


def there(rows: list[tuple[int, int, int]], time: float) -> int:
    """Return the sum of what is there at a time."""
    return sum(amount for start, lasted, amount in rows if start <= time < start + lasted)


@given(INTERVALS)
def test_a_step_function_is_the_sum_of_what_is_there(rows: list[tuple[int, int, int]]) -> None:
    """At every second and between, `between` gives the sum of the amounts whose interval holds that time."""
    times = np.arange(0, 80, 0.5)
    assert at(between(*parts(rows)), times).tolist() == [there(rows, time) for time in times]


@given(INTERVALS)
def test_means_and_peaks_are_those_of_every_second(rows: list[tuple[int, int, int]]) -> None:
    """A bin's mean is that over its seconds, its peak the greatest among them (changes fall on whole seconds)."""
    steps = between(*parts(rows))
    each = np.array([there(rows, second) for second in range(80)]).reshape(8, 10)
    assert np.allclose(means(steps, EDGES), each.mean(axis=1))
    assert (peaks(steps, EDGES) >= each.max(axis=1)).all()


@given(INTERVALS)
def test_spreading_loses_nothing(rows: list[tuple[int, int, int]]) -> None:
    """What bins hold sums to the amounts; each bin has the share of each interval that lies in it."""
    start, end, amount = parts(rows)
    found = spread(start, end, amount, EDGES)
    wanted = np.zeros(8)
    for first, lasted, size in rows:
        for second in range(first, first + lasted):
            wanted[second // 10] += size / lasted
    assert np.allclose(found, wanted, atol=1e-6)


@given(INTERVALS, INTERVALS)
def test_a_total_is_the_sum_at_every_time(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    """The total of two step functions has, at any time, the sum of their values."""
    times = np.arange(0, 80, 0.5)
    both = total([between(*parts(one)), between(*parts(other))])
    assert at(both, times).tolist() == [there(one, time) + there(other, time) for time in times]


@given(st.lists(st.integers(0, 3), min_size=1))
def test_thinning_keeps_the_line(values: list[int]) -> None:
    """A stepped line through the points that are left has the same value everywhere."""
    times = np.arange(len(values), dtype=np.float64)
    left = Steps(*thin(times, np.array(values, np.float64)))
    assert at(left, times).tolist() == values


def test_numbers_are_short_and_json() -> None:
    """Undefined values become None, whole ones integers, others so many digits."""
    assert numbers([1.0, float("nan"), float("inf"), 0.1234567, 1e12], 3) == [1, None, None, 0.123, 10**12]
