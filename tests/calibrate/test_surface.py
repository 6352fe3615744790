"""Fitted surfaces and links on samples with a known answer."""

import numpy as np
import pytest

from aquasim.calibrate.lines import CachedLineTime, LineTime
from aquasim.calibrate.operators import OperatorTime, SparseGemmTime
from aquasim.calibrate.points import Points, product_floor
from aquasim.calibrate.surface import Surface
from aquasim.hardware.grid import Grid

KNOTS = ((1.0, 4.0, 16.0, 64.0), (1.0, 8.0, 64.0))


class Plain(OperatorTime):
    """An operator over KNOTS."""

    def make_surface(self, points: Points) -> Surface:
        """Rise along both axes."""
        return Surface(KNOTS, smooth=0.01, rising=(0, 1))


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
    operator = Plain().fit(Points("made", x, 1e-6 * (1 + x[:, 0] * x[:, 1]), np.zeros(400), 400))
    grid = Grid.from_block(operator.block())
    for a, b in x[:50]:
        assert grid.fix(a).ns(b) == pytest.approx(operator.predict(np.array([[a, b]]))[0] * 1e9, rel=1e-3)


def test_residuals_come_from_rows_held_out() -> None:
    """One row in ten is held out, always the same; rows that beat the hardware are not used at all."""
    x = points(1000)
    floor = np.where(np.arange(1000) < 100, 1.0, 0.0)
    points_ = Points("made", x, 1e-6 * x[:, 0], floor, 1000)
    train, held = points_.above_floor().split()
    assert len(train.x) + len(held.x) == 900
    assert len(held.x) == pytest.approx(90, abs=2)
    residual = Plain().fit(points_).residual_
    assert residual["rows_below_roofline"] == 100
    assert (residual["rows_fitted"], residual["rows_held_out"]) == (len(train.x), len(held.x))
    assert residual["median"] < 0.001


def test_a_link_is_its_start_and_its_rate() -> None:
    """Copies that take t0 + s / B give t0 and B back."""
    sizes = 2.0 ** np.arange(12.0, 25.0)
    link = LineTime().fit(sizes, 4e-6 + sizes / 50e9)
    assert (link.start_, link.rate_) == pytest.approx((4e-6, 50e9))
    assert link.residual_["p90"] == 0


def test_many_starts_are_told_from_bytes() -> None:
    """Lists of copies that take n t0 + s / B give t0 and B back."""
    counts, sizes = (grid.ravel() for grid in np.meshgrid([1.0, 16.0, 256.0], [1e4, 1e6, 1e8]))
    line = LineTime().fit(sizes, counts * 3e-6 + sizes / 20e9, counts)
    assert (line.start_, line.rate_) == pytest.approx((3e-6, 20e9))


def test_a_line_never_starts_below_zero() -> None:
    """Times that would give a negative start give none, and the rate that is nearest."""
    sizes = np.array([1e3, 1e4, 1e5])
    line = LineTime().fit(sizes, sizes / 1e9 * np.array([0.5, 1.0, 1.0]))
    assert line.start_ == 0
    assert 1e9 <= line.rate_ <= 2e9


def test_bytes_within_a_cache_are_told_from_bytes_beyond() -> None:
    """Kernels at one rate up to a cache's size and at another beyond give both rates and the size back."""
    sizes = 2.0 ** np.arange(16.0, 30.0)
    near = np.minimum(sizes, 64e6)
    line = CachedLineTime().fit(sizes, 2e-6 + near / 4e12 + (sizes - near) / 1e12)
    assert line.start_ == pytest.approx(2e-6)
    assert line.cache_ == 64e6
    assert (line.cached_rate_, line.rate_) == pytest.approx((4e12, 1e12))


def test_without_a_cache_one_rate_serves() -> None:
    """Times of one start and one rate are met as by a plain line."""
    sizes = 2.0 ** np.arange(16.0, 30.0)
    line = CachedLineTime().fit(sizes, 2e-6 + sizes / 1e12)
    assert line.predict(sizes) == pytest.approx(2e-6 + sizes / 1e12, rel=1e-6)


FLOPS, HBM = 100e12, 1e12


def products(shapes: list[tuple[int, int]]) -> Points:
    """Products at three quarters of the peaks, with a kernel's start."""
    x = np.array(
        [(m, n, k) for n, k in shapes for m in (1, 4, 16, 64, 128, 256, 512, 1024, 2048)], dtype=float
    )
    floor = product_floor(x[:, 0], x[:, 1], x[:, 2], FLOPS, HBM)
    return Points("made", x, floor / 0.75 + 3e-6, floor, len(x))


SHAPES = [(4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (2048, 2048), (128256, 4096)]


def test_few_products_are_met_and_listed() -> None:
    """Each measured shape keeps its own times to a few percent, and the profile lists it."""
    fit = SparseGemmTime(FLOPS, HBM).fit(products(SHAPES))
    points_ = products(SHAPES)
    assert fit.predict(points_.x) == pytest.approx(points_.seconds, rel=0.03)
    assert sorted(map(tuple, fit.block()["shapes"])) == sorted(SHAPES)


def test_products_nobody_measured_take_their_neighbours_share_of_the_peak() -> None:
    """Between and below the measured shapes time follows the roofline at the share of the peak seen around."""
    fit = SparseGemmTime(FLOPS, HBM).fit(products(SHAPES))
    fresh = products([(8192, 4096), (4096, 8192), (1024, 1024), (20480, 4096)])
    assert fit.predict(fresh.x) == pytest.approx(fresh.seconds, rel=0.1)
    assert fit.residual_["unmeasured_shapes"]["median"] < 0.05
