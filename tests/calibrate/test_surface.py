"""Fitted surfaces and links on samples with a known answer."""

import numpy as np
import pytest

from aquasim.calibrate.operators import LinkTime, OperatorTime
from aquasim.calibrate.samples import Samples
from aquasim.calibrate.surface import Surface
from aquasim.hardware.grid import Grid

KNOTS = ((1.0, 4.0, 16.0, 64.0), (1.0, 8.0, 64.0))


def points(count: int) -> np.ndarray:
    """Coordinates spread evenly, in logarithms, over the range of KNOTS."""
    generator = np.random.default_rng(1)
    return np.exp2(generator.uniform(0, 6, (count, 2)))


def test_a_power_law_is_met_exactly() -> None:
    """A surface that is linear in logarithms is found without error, also between the samples."""
    x = points(400)
    seconds = 1e-6 * x[:, 0] ** 0.5 * x[:, 1]
    surface = Surface(KNOTS, smooth=0.01, rising=(0, 1)).fit(x, seconds)
    fresh = np.array([[3.0, 5.0], [40.0, 60.0]])
    assert surface.predict(fresh) == pytest.approx(1e-6 * fresh[:, 0] ** 0.5 * fresh[:, 1], rel=1e-4)


def test_the_fit_rises_where_noisy_samples_do_not() -> None:
    """Whatever the noise, time never falls along the axes named, and stays near the samples."""
    x = points(300)
    noise = np.random.default_rng(2).lognormal(0, 0.3, 300)
    surface = Surface(KNOTS, smooth=0.001, rising=(0, 1)).fit(x, 1e-6 * noise)
    assert (np.diff(surface.table_, axis=0) >= 0).all()
    assert (np.diff(surface.table_, axis=1) >= 0).all()
    assert surface.predict(x) == pytest.approx(1e-6, rel=0.5)


def test_one_hiccup_bends_nothing() -> None:
    """A sample that is off a hundredfold moves the fit by a few percent only."""
    x = points(400)
    seconds = 1e-6 * x[:, 0]
    seconds[7] *= 100
    surface = Surface(KNOTS, smooth=0.01, rising=(0,)).fit(x, seconds)
    assert surface.predict(x[7:8]) == pytest.approx(1e-6 * x[7, 0], rel=0.05)


def test_the_profile_evaluates_as_the_fit_does() -> None:
    """What is written to a profile gives, read back, the fit's prediction to its rounding."""
    x = points(400)
    operator = OperatorTime(Surface(KNOTS, smooth=0.01, rising=(0, 1)))
    operator.fit(Samples("made", x, 1e-6 * (1 + x[:, 0] * x[:, 1]), np.zeros(400), 400))
    grid = Grid.from_block(operator.block())
    for a, b in x[:50]:
        assert grid.fix(a).ns(b) == pytest.approx(operator.predict(np.array([[a, b]]))[0] * 1e9, rel=1e-3)


def test_residuals_come_from_rows_held_out() -> None:
    """One row in ten is held out, always the same; rows that beat the hardware are not used at all."""
    x = points(1000)
    floor = np.where(np.arange(1000) < 100, 1.0, 0.0)
    samples = Samples("made", x, 1e-6 * x[:, 0], floor, 1000)
    train, held = samples.above_floor().split()
    assert len(train.x) + len(held.x) == 900
    assert len(held.x) == pytest.approx(90, abs=2)
    residual = OperatorTime(Surface(KNOTS, smooth=0.01, rising=(0,))).fit(samples).residual_
    assert residual["rows_below_roofline"] == 100
    assert (residual["rows_fitted"], residual["rows_held_out"]) == (len(train.x), len(held.x))
    assert residual["median"] < 0.001


def test_a_link_is_its_start_and_its_rate() -> None:
    """Copies that take t0 + s / B give t0 and B back."""
    sizes = 2.0 ** np.arange(12, 25)
    link = LinkTime().fit(sizes, 4e-6 + sizes / 50e9)
    assert (link.start_, link.rate_) == pytest.approx((4e-6, 50e9))
    assert link.residual_["p90"] == 0
