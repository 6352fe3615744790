"""Clocks under load, against the differential equation they follow."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.hardware.throttle import Heat, Throttle

MS = 1_000_000
THROTTLE = Throttle(gain=0.2, rest=0.35, tau_s=0.02)


def integrated(load: float, start: float, nanoseconds: int, steps: int = 20000) -> float:
    """Return the mean heat over an iteration by Euler's method."""
    heat, total = start, 0.0
    for _ in range(steps):
        total += heat / steps
        heat += (load - heat) * (nanoseconds * 1e-9 / steps) / THROTTLE.tau_s
    return total


@pytest.mark.parametrize("load", [0.3, 1.0])
@pytest.mark.parametrize("lasts", [2 * MS, 40 * MS, 200 * MS])
def test_the_mean_heat_is_that_of_the_equation(load: float, lasts: int) -> None:
    """A rested chip's iteration is stretched by the mean of heat' = (load - heat) / tau over its own time."""
    stretched = Heat(THROTTLE).stretch(0, lasts, load * lasts)
    mean = integrated(load, 0.0, lasts)
    assert stretched == pytest.approx(lasts * (1 + load * 0.2 * (mean - 0.35)), rel=1e-4)


def test_under_constant_load_time_grows_by_the_whole_gain() -> None:
    """After many time constants of compute a kernel lasts 1 + gain * (1 - rest) times as long as measured."""
    heat, now = Heat(THROTTLE), 0
    for _ in range(20):
        last = heat.stretch(now, 20 * MS, 20.0 * MS)
        now += last
    assert last / (20 * MS) == pytest.approx(1 + 0.2 * 0.65, abs=1e-4)


def test_rest_undoes_it() -> None:
    """After a rest of t, heat is exp(-t / tau) of what it was; after a long one iterations last as at first."""
    heat = Heat(THROTTLE)
    first = heat.stretch(0, 40 * MS, 40.0 * MS)
    hot = heat.heat
    heat.stretch(first + 20 * MS, 1, 1e-9)
    assert heat.heat == pytest.approx(hot * exp(-1), rel=1e-3)
    assert heat.stretch(10_000 * MS, 40 * MS, 40.0 * MS) == first


@given(
    lasts=st.lists(st.integers(1, 300 * MS), min_size=1, max_size=8),
    share=st.floats(0, 1),
    rest=st.integers(0, 100 * MS),
)
def test_heat_stays_between_rest_and_load(lasts: list[int], share: float, rest: int) -> None:
    """Heat is in [0, 1] and an iteration's time within the bounds that heats of 0 and 1 set."""
    heat, now = Heat(THROTTLE), 0
    for nanoseconds in lasts:
        compute = share * nanoseconds
        lasted = heat.stretch(now, nanoseconds, compute)
        assert 0 <= heat.heat <= 1
        assert nanoseconds - 0.07 * compute - 1 <= lasted <= nanoseconds + 0.13 * compute + 1
        now += lasted + rest
