"""Boundaries and verdicts: bisection finds what is there, and says when there is more than one."""

import math
from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.sweep.boundary import Scale, highest, lowest
from aquasim.sweep.slo import Verdict, judge
from aquasim.sweep.terms import Metrics, parse_constraint

GRID = [2.0**power for power in range(-3, 4)]


@given(st.floats(0.126, 7.9), st.sampled_from([0.001, 0.02, 0.2]))
def test_bisection_brackets_a_known_threshold(threshold: float, precision: float) -> None:
    """Of a monotone function the boundary lies between the two values named, as near as asked for."""
    asked: list[float] = []

    def meets(values: Sequence[float]) -> list[bool]:
        asked.extend(values)
        return [value <= threshold for value in values]

    found = highest(meets, GRID, Scale(precision=precision))
    assert found.value is not None
    assert found.beyond is not None
    assert found.value <= threshold < found.beyond
    assert found.beyond <= found.value * (1 + precision)
    assert found.strays == []
    assert len(asked) == len(set(asked)) <= len(GRID) + 2 + math.log2(math.log(2) / math.log(1 + precision))


@given(st.integers(1, 1024), st.booleans())
def test_whole_numbers_are_found_exactly(threshold: int, geometric: bool) -> None:
    """The lowest whole number that meets, and the one before it does not."""
    scale = Scale(geometric=geometric, integer=True, precision=0.0)
    values = [float(2**power) for power in range(11)]
    found = lowest(lambda each: [value >= threshold for value in each], values, scale)
    assert found.value == threshold
    assert found.beyond == (None if threshold == 1 else threshold - 1)


@given(st.floats(0, 80), st.sampled_from([0.25, 1.0]))
def test_a_linear_scale_starts_at_zero(threshold: float, precision: float) -> None:
    """The least size within a step; what holds at the lowest value says so."""
    scale = Scale(geometric=False, precision=precision)
    found = lowest(lambda each: [value >= threshold for value in each], scale.spread(0, 80, 9), scale)
    assert found.value is not None
    assert found.value >= threshold
    if threshold == 0:
        assert (found.value, found.beyond) == (0, None)
    elif found.beyond is not None:
        assert found.beyond < threshold
        assert found.value - found.beyond <= precision


def test_what_holds_nowhere_or_everywhere_is_said() -> None:
    """No value, or no value beyond."""
    nowhere = highest(lambda each: [False for _ in each], GRID, Scale())
    everywhere = highest(lambda each: [True for _ in each], GRID, Scale())
    assert (nowhere.value, nowhere.beyond) == (None, GRID[0])
    assert (everywhere.value, everywhere.beyond) == (GRID[-1], None)
    assert (lowest(lambda each: [False for _ in each], GRID, Scale()).value) is None


@given(st.lists(st.booleans(), min_size=7, max_size=7))
def test_what_is_not_monotone_is_not_hidden(pattern: list[bool]) -> None:
    """Whatever the grid shows, strays are exactly the values that contradict the boundary."""
    table = dict(zip(GRID, pattern, strict=True))

    def meets(values: Sequence[float]) -> list[bool]:
        return [table[max(v for v in GRID if v <= value)] for value in values]

    found = highest(meets, GRID, Scale())
    edge = -1.0 if found.value is None else found.value
    assert found.strays == [v for v in sorted(found.tried) if found.tried[v] != (v <= edge)]
    assert all(found.tried[v] for v in found.tried if v <= edge)
    assert bool(found.strays) == (pattern != sorted(pattern, reverse=True))


# --- verdicts ----------------------------------------------------------------------------------------------

BOUND = parse_constraint("ttft_p99 <= 1.0", Metrics(["ttft_p99"], []))


def verdict(*values: float, status: str = "ok", confidence: float = 0.95) -> Verdict:
    """Judge values of one metric, one per seed."""
    return judge(pd.DataFrame({"status": status, "error": "broke", "ttft_p99": values}), [BOUND], confidence)


@pytest.mark.parametrize(
    ("values", "meets", "passed"),
    [
        ((0.5, 0.9, 1.0), True, 3),
        ((0.1, 0.1, 0.1, 0.1, 1.01), False, 4),
        ((0.5,), True, 1),
        ((0.5, math.nan), False, 1),
    ],
)
def test_every_seed_has_to_meet_the_bound(values: tuple[float, ...], meets: bool, passed: int) -> None:
    """One that misses, or has no figure, is enough; the mean within the bound does not help."""
    found = verdict(*values)
    assert (found.meets, found.passed, found.n) == (meets, passed, len(values))


def test_a_seed_that_cannot_run_meets_nothing() -> None:
    """Its error is kept."""
    found = verdict(0.1, 0.2, status="failed")
    assert (found.meets, found.failed) == (False, "broke")


def test_strays_are_said_in_words() -> None:
    """What meets again beyond the limit is named, with its unit, in capitals."""
    from aquasim.sweep.boundary import Boundary
    from aquasim.sweep.knobs import Knob
    from aquasim.sweep.limits import Limit
    from aquasim.sweep.words import assured

    good, bad = verdict(0.5, 0.6), verdict(0.5, 1.6)
    tried = {1.0: True, 2.0: False, 4.0: True, 8.0: False}
    limit = Limit(
        "aqua",
        Knob("workload.arrivals.rate", "/s", 1.0, lambda rate: (("workload.arrivals.rate", rate),)),
        Boundary(1.0, 2.0, tried, "highest"),
        {value: good if met else bad for value, met in tried.items()},
    )
    text = assured(limit)
    assert text.startswith("1/s: all of 2 seeds meet it, ttft_p99 0.55 [")
    assert "; 2/s: 1 of 2 seeds meet it, ttft_p99 1.05 [" in text
    assert text.endswith("; NOT MONOTONE: met again at 4/s")
