"""Every arrival process and length distribution against theory.

Tolerances are four or five standard errors of the estimate at the sample size, with a fixed seed.
"""

import math

import numpy as np
import pytest

from aquasim.workload import (
    AtOnce,
    ClosedLoop,
    Empirical,
    EmpiricalPairs,
    FixedGap,
    FixedLength,
    Gamma,
    Histogram,
    Lognormal,
    Piecewise,
    Poisson,
    Quantiles,
    Uniform,
)

N = 40_000


def rng() -> np.random.Generator:
    """Return a generator in the same state each time."""
    return np.random.default_rng(7)


def gaps(times: np.ndarray) -> np.ndarray:
    """Return the seconds before each arrival."""
    return np.diff(times, prepend=0) / 1e9


def test_poisson_gaps_have_mean_and_deviation_of_one_over_the_rate() -> None:
    """Exponential gaps: the mean has a standard error of 1/sqrt(N) of itself, the deviation sqrt(2/N)."""
    found = gaps(Poisson(4.0).times(N, rng()))

    assert found.mean() == pytest.approx(0.25, rel=5 / math.sqrt(N))
    assert found.std() == pytest.approx(0.25, rel=5 * math.sqrt(2 / N))


def test_poisson_counts_per_second_have_equal_mean_and_variance() -> None:
    """The index of dispersion is 1 with a standard error of sqrt(2 / windows)."""
    windows = 10_000
    times = Poisson(5.0).times(None, rng(), duration=windows)
    counts = np.bincount(times // 10**9, minlength=windows)

    assert counts.mean() == pytest.approx(5.0, abs=5 * math.sqrt(5 / windows))
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=5 * math.sqrt(2 / windows))


@pytest.mark.parametrize("cv", [0.3, 1.0, 3.0])
def test_gamma_gaps_have_the_rate_and_the_coefficient_of_variation(cv: float) -> None:
    """The mean's standard error is cv/sqrt(N); the cv's is cv*sqrt((2+6cv^2)/4N) (kurtosis 6 cv^2)."""
    found = gaps(Gamma(10.0, cv).times(N, rng()))

    assert found.mean() == pytest.approx(0.1, rel=5 * cv / math.sqrt(N))
    error = math.sqrt((2 + 6 * cv**2) / (4 * N)) + cv / math.sqrt(N)
    assert found.std() / found.mean() == pytest.approx(cv, rel=5 * error)


def test_fixed_gaps_are_exact() -> None:
    """The first request comes at 0, the next each a gap later, and none at the end of the duration."""
    assert FixedGap(0.5).times(4, rng()).tolist() == [0, 500_000_000, 1_000_000_000, 1_500_000_000]
    assert FixedGap(0.5).times(None, rng(), duration=1.5).tolist() == [0, 500_000_000, 1_000_000_000]


def test_piecewise_counts_follow_the_phases() -> None:
    """Counts per phase are Poisson with mean rate x seconds; a phase of rate 0 is silent."""
    phases = [(20.0, 500.0), (0.0, 100.0), (100.0, 100.0)]
    times = Piecewise(phases).times(None, rng(), duration=700) / 1e9
    counts = np.histogram(times, [0, 500, 600, 700])[0]

    assert counts[1] == 0
    assert counts[0] == pytest.approx(10_000, abs=5 * 100)
    assert counts[2] == pytest.approx(10_000, abs=5 * 100)


def test_piecewise_holds_its_last_rate_or_repeats_or_stops() -> None:
    """After the phases: the last rate for ever, the phases again with repeat, the end after a rate of 0."""
    hold = Piecewise([(10.0, 10.0), (100.0, 10.0)]).times(10_000, rng()) / 1e9
    # 100 in the first 10 s, then 100 per s: 9,900 more take 99 s, with a deviation of 1 s.
    assert hold[-1] == pytest.approx(109.0, abs=5.0)

    again = Piecewise([(0.0, 9.0), (100.0, 1.0)], repeat=True).times(10_000, rng()) / 1e9
    assert (again % 10 >= 9).all()
    assert again[-1] == pytest.approx(1000.0, abs=51.0)

    bounded = Piecewise([(0.0, 9.0), (100.0, 1.0)], repeat=True).times(None, rng(), duration=995) / 1e9
    assert len(bounded) == pytest.approx(9_900, abs=5 * 100)

    stops = Piecewise([(10.0, 10.0), (0.0, 1.0)]).times(10_000, rng()) / 1e9
    assert len(stops) == pytest.approx(100, abs=50)
    assert stops.max() < 10


def test_all_at_once_is_one_instant() -> None:
    """Every request arrives at the same nanosecond."""
    assert AtOnce(at=1.5).times(3, rng()).tolist() == [1_500_000_000] * 3
    assert AtOnce(at=1.5).times(3, rng(), duration=1.5).tolist() == []


def test_a_closed_loop_ramps_its_first_requests() -> None:
    """Without a ramp all may be sent at 0; with one the first `cap` are spread, the rest follow the last."""
    assert ClosedLoop(2).times(4, rng()).tolist() == [0, 0, 0, 0]
    assert ClosedLoop(4, ramp=2.0).times(6, rng()).tolist() == [
        0,
        500_000_000,
        1_000_000_000,
        1_500_000_000,
        1_500_000_000,
        1_500_000_000,
    ]


@pytest.mark.parametrize(
    "process",
    [Poisson(3.0), Gamma(3.0, 2.0), FixedGap(0.1), Piecewise([(3.0, 9.0)]), AtOnce(), ClosedLoop(3)],
)
def test_fewer_requests_are_a_prefix_of_more_and_sorted(process: object) -> None:
    """Asking for less never changes what is there, times do not fall, and a duration only cuts."""
    assert hasattr(process, "times")
    many = process.times(500, rng())

    assert process.times(100, rng()).tolist() == many[:100].tolist()
    assert (np.diff(many) >= 0).all()
    assert process.times(500, rng(), duration=20.0).tolist() == many[many < 20 * 10**9].tolist()
    assert process.times(0, rng()).tolist() == []


def test_unbounded_arrivals_are_refused() -> None:
    """With neither a number nor a duration, or a duration that bounds nothing, there is an error."""
    with pytest.raises(ValueError, match="neither a number of requests nor a duration"):
        Poisson(1.0).times(None, rng())
    with pytest.raises(ValueError, match="a duration alone does not bound"):
        AtOnce().times(None, rng(), duration=5)
    with pytest.raises(ValueError, match="beyond the 146 years"):
        Poisson(1e-12).times(5, rng())


def test_uniform_reaches_both_ends() -> None:
    """All whole numbers of the range occur, with the mean of the discrete uniform distribution."""
    found = Uniform(3, 12).sample(N, rng())

    assert set(found.tolist()) == set(range(3, 13))
    assert found.mean() == pytest.approx(7.5, abs=5 * math.sqrt((10**2 - 1) / 12 / N))


def test_lognormal_takes_its_three_forms() -> None:
    """Median and sigma, mean and sigma, mean and std describe the same distribution."""
    sigma = 0.5
    median = 1000.0
    mean = median * math.exp(sigma**2 / 2)
    std = mean * math.sqrt(math.expm1(sigma**2))
    forms = [
        Lognormal(median=median, sigma=sigma),
        Lognormal(mean=mean, sigma=sigma),
        Lognormal(mean=mean, std=std),
    ]
    samples = [form.sample(N, rng()) for form in forms]

    for found in samples:
        assert found.mean() == pytest.approx(mean, abs=5 * std / math.sqrt(N))
        assert np.log(found).std() == pytest.approx(sigma, rel=5 / math.sqrt(2 * N))
        # The median's standard error is 1.2533 sigma / sqrt(N), relative.
        assert np.median(found) == pytest.approx(median, rel=5 * 1.2533 * sigma / math.sqrt(N))
    # Rounding a draw near a half may differ by one token between the forms.
    assert np.abs(samples[0] - samples[1]).max() <= 1
    assert np.abs(samples[0] - samples[2]).max() <= 1


def test_lognormal_is_moved_to_its_bounds() -> None:
    """A draw outside [low, high] becomes the bound, with the share the tail has."""
    found = Lognormal(median=100, sigma=1.0, low=50, high=200).sample(N, rng())
    tail = 0.5 * math.erfc(math.log(2) / math.sqrt(2))

    assert found.min() == 50
    assert found.max() == 200
    # Rounding adds the draws in (199.5, 200] and [50, 50.5): about half a token's density each.
    assert (found == 200).mean() == pytest.approx(tail, abs=5 * math.sqrt(tail / N) + 0.005)
    assert (found == 50).mean() == pytest.approx(tail, abs=5 * math.sqrt(tail / N) + 0.005)


@pytest.mark.parametrize(
    "histogram", [Histogram({5: 1.0, 7: 3.0, 9: 0.0}), Histogram([5, 7, 9], [0.25, 0.75, 0.0])]
)
def test_histogram_draws_in_proportion_and_never_weight_zero(histogram: Histogram) -> None:
    """Shares follow the weights, whatever their sum; both ways to give them agree."""
    found = histogram.sample(N, rng())

    assert set(found.tolist()) == {5, 7}
    assert (found == 7).mean() == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / N))


def test_empirical_draws_the_values_it_was_given() -> None:
    """Each value is drawn with its share; pairs are never torn apart."""
    found = Empirical([1, 1, 4]).sample(N, rng())
    assert (found == 1).mean() == pytest.approx(2 / 3, abs=5 * math.sqrt(2 / 9 / N))

    prompt, output = EmpiricalPairs([10, 20, 30], [1, 2, 3]).sample(N, rng())
    assert (prompt == 10 * output).all()
    assert prompt.mean() == pytest.approx(20, abs=5 * math.sqrt(200 / 3 / N))


def test_quantiles_are_met() -> None:
    """The share below each given value is its level, and the mean is the area under the curve."""
    law = Quantiles((0, 0.5, 0.9, 1), (0, 10, 100, 1000))
    found = law.draw(N, rng())

    assert (found < 10).mean() == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / N))
    assert (found < 100).mean() == pytest.approx(0.9, abs=5 * math.sqrt(0.09 / N))
    assert law.mean == pytest.approx(0.5 * 5 + 0.4 * 55 + 0.1 * 550)
    assert found.mean() == pytest.approx(law.mean, abs=5 * found.std() / math.sqrt(N))
    assert law.sample(100, rng()).min() >= 1


def test_a_fixed_length_is_fixed() -> None:
    """The same length every time."""
    assert FixedLength(7).sample(3, rng()).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Poisson(0), "rate is 0, a finite number > 0 is needed"),
        (lambda: Poisson(math.nan), "rate is nan, a finite number > 0 is needed"),
        (lambda: Gamma(1, -2), "cv is -2, a finite number > 0 is needed"),
        (lambda: FixedGap(math.inf), "gap is inf, a finite number > 0 is needed"),
        (lambda: Piecewise([]), "phases has no rate > 0"),
        (lambda: Piecewise([(-1, 5)]), "phase rate is -1.0, a finite number >= 0 is needed"),
        (lambda: Piecewise([(1, 0)]), "phase seconds is 0.0, a finite number > 0 is needed"),
        (lambda: AtOnce(-1), "at is -1, a finite number >= 0 is needed"),
        (lambda: ClosedLoop(0), "cap is 0, a whole number >= 1 is needed"),
        (lambda: FixedLength(0), "tokens is 0, a whole number >= 1 is needed"),
        (lambda: Uniform(5, 4), "high is 4, a whole number >= low = 5 is needed"),
        (lambda: Lognormal(mean=5), "Lognormal got mean, valid: median and sigma"),
        (lambda: Lognormal(median=-5, sigma=1), "median is -5, a finite number > 0 is needed"),
        (lambda: Lognormal(median=5, sigma=1, low=9, high=8), "high is 8, a whole number >= low = 9"),
        (lambda: Histogram({}), "values needs a list of whole numbers >= 1"),
        (lambda: Histogram({0: 1.0}), "values needs a list of whole numbers >= 1"),
        (lambda: Histogram({1: -1.0}), "weights needs finite numbers >= 0"),
        (lambda: Histogram([1, 2], [1.0]), "2 values need as many weights"),
        (lambda: Empirical([]), "values needs a list of whole numbers >= 1"),
        (lambda: EmpiricalPairs([1], [1, 2]), "1 prompts beside 2 outputs"),
        (lambda: Quantiles((0, 0.5), (1, 2)), "numbers rising from 0 to 1 are needed"),
        (lambda: Quantiles((0, 1), (2, 1)), "2 numbers that do not fall are needed"),
    ],
)
def test_bad_parameters_are_named_with_what_is_valid(make: object, text: str) -> None:
    """A constructor refuses what it cannot use, in one line."""
    assert callable(make)
    with pytest.raises(ValueError, match=r"^") as caught:
        make()

    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
