"""Arrival processes: small frozen objects that turn a random generator into times in nanoseconds.

Every process has `times(n, rng, *, duration=None)`: at most `n` times (None: as many as come), all before
`duration` seconds (None: no end), as a non-decreasing int64 array of nanoseconds from 0. At least one of the
two bounds is needed. With the same generator state, fewer requests are a prefix of more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aquasim.workload.table import LATEST, NS, IntArray

FloatArray = NDArray[np.float64]


class Arrivals(Protocol):
    """Anything that yields arrival times."""

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """Return at most `n` times before `duration` seconds, in nanoseconds, non-decreasing."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals, `rate` per second: exponential gaps, the first one before the first arrival."""

    rate: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """See the module's docstring."""
        return _to_ns(_renewal(lambda k: rng.exponential(1 / self.rate, k), 1 / self.rate, n, duration))


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma-distributed gaps of mean `1 / rate` seconds and coefficient of variation `cv`.

    `cv` = 1 is Poisson, above 1 bursty, below 1 more regular. The process starts as if a request had arrived
    at time 0, so with a `cv` above 1 the first requests come faster than `rate`.
    """

    rate: float
    cv: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)
        _positive("cv", self.cv)

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """See the module's docstring."""
        shape = self.cv**-2
        scale = self.cv**2 / self.rate
        return _to_ns(_renewal(lambda k: rng.gamma(shape, scale, k), 1 / self.rate, n, duration))


@dataclass(frozen=True, slots=True)
class Fixed:
    """One arrival every `gap` seconds, the first at 0."""

    gap: float

    def __post_init__(self) -> None:
        _positive("gap", self.gap)

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """See the module's docstring; draws nothing from `rng`."""
        end = _bounds(n, duration)
        count = n if n is not None else math.floor(end / self.gap) + 1
        times = np.arange(count, dtype=np.float64) * self.gap
        return _to_ns(times[times < end])


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Poisson arrivals whose rate changes: `phases` are (rate per second, seconds) pairs.

    After the last phase its rate holds on for ever, or the phases start again with `repeat`. A last rate of 0
    that is not repeated ends the process: it then yields fewer than `n` times.
    """

    phases: Sequence[tuple[float, float]]
    repeat: bool = False

    def __post_init__(self) -> None:
        # A tuple, so that the object is hashable and nobody's list is shared.
        object.__setattr__(
            self, "phases", tuple((float(rate), float(seconds)) for rate, seconds in self.phases)
        )
        for rate, seconds in self.phases:
            if not (math.isfinite(rate) and rate >= 0):
                raise ValueError(f"phase rate is {rate}, a finite number >= 0 is needed")
            _positive("phase seconds", seconds)
        if not any(rate > 0 for rate, _ in self.phases):
            raise ValueError("phases has no rate > 0, at least one (rate per second, seconds) is needed")

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """See the module's docstring."""
        end = _bounds(n, duration)
        # Operational time: a Poisson process of rate 1, whose clock is the expected number of arrivals.
        mass = float(self._mass(end))
        clock = _renewal(rng.standard_exponential, 1.0, n, None if math.isinf(mass) else mass)
        return _to_ns(self._seconds(clock))

    def _corners(self) -> tuple[FloatArray, FloatArray]:
        """Return the phases' boundaries in seconds and the expected arrivals up to each."""
        rates, lengths = np.array(self.phases).T
        return np.append(0.0, np.cumsum(lengths)), np.append(0.0, np.cumsum(rates * lengths))

    def _mass(self, end: float) -> float:
        """Return the expected number of arrivals before `end` seconds."""
        at, mass = self._corners()
        if math.isinf(end):
            return math.inf if self.repeat or self.phases[-1][0] > 0 else mass[-1]
        if self.repeat:
            cycles, rest = divmod(end, at[-1])
            return float(cycles * mass[-1] + np.interp(rest, at, mass))
        return float(np.interp(end, at, mass) + max(0.0, end - at[-1]) * self.phases[-1][0])

    def _seconds(self, clock: FloatArray) -> FloatArray:
        """Return when the expected number of arrivals reaches each of `clock`: the inverse of `_mass`."""
        at, mass = self._corners()
        if self.repeat:
            cycles, rest = np.divmod(clock, mass[-1])
            within: FloatArray = np.interp(rest, mass, at)
            within += cycles * at[-1]
            return within
        beyond = np.maximum(clock - mass[-1], 0.0)
        last = self.phases[-1][0]
        within = np.interp(clock, mass, at)
        if last > 0:
            within += beyond / last
        return within


@dataclass(frozen=True, slots=True)
class AtOnce:
    """All requests at the same instant, `at` seconds."""

    at: float = 0.0

    def __post_init__(self) -> None:
        _not_negative("at", self.at)

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """See the module's docstring; `n` is needed. Draws nothing from `rng`."""
        end = _bounds(n, duration)
        count = _finite_count(n) if self.at < end else 0
        return _to_ns(np.full(count, self.at))


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """At most `cap` requests open at a time: each next one is sent when an open one finishes.

    The times are the earliest at which a request may be sent: the first `cap` are spread evenly over `ramp`
    seconds, and the others may follow as soon as the last of those has been sent.
    """

    cap: int
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.cap, bool) or not isinstance(self.cap, int) or self.cap < 1:
            raise ValueError(f"cap is {self.cap!r}, a whole number >= 1 is needed")
        _not_negative("ramp", self.ramp)

    def times(self, n: int | None, rng: np.random.Generator, *, duration: float | None = None) -> IntArray:
        """See the module's docstring; `n` is needed. Draws nothing from `rng`."""
        end = _bounds(n, duration)
        users = np.minimum(np.arange(_finite_count(n)), self.cap - 1)
        times = users * (self.ramp / self.cap)
        return _to_ns(times[times < end])


def _renewal(
    draw: Callable[[int], FloatArray], mean: float, n: int | None, duration: float | None
) -> FloatArray:
    """Return the running sums of gaps from `draw`, in its unit, within the bounds `n` and `duration`."""
    end = _bounds(n, duration)
    if n is not None:
        times = np.cumsum(draw(n))
        return times[times < end]
    parts = []
    last = 0.0
    # A little more than is expected, so that mostly one round is enough.
    chunk = int(1.1 * end / mean) + 64
    while last < end:
        parts.append(last + np.cumsum(draw(chunk)))
        last = float(parts[-1][-1])
    times = np.concatenate(parts) if parts else np.empty(0)
    return times[times < end]


def _bounds(n: int | None, duration: float | None) -> float:
    """Return the end in seconds (infinity: none), or raise ValueError when nothing bounds the process."""
    if n is None and duration is None:
        raise ValueError("neither a number of requests nor a duration is given, at least one is needed")
    if n is not None and n < 0:
        raise ValueError(f"n is {n}, a whole number >= 0 is needed")
    if duration is None:
        return math.inf
    _not_negative("duration", duration)
    return duration


def _finite_count(n: int | None) -> int:
    if n is None:
        raise ValueError("a duration alone does not bound requests that come at once, give their number")
    return n


def _to_ns(seconds: FloatArray) -> IntArray:
    """Return `seconds` in whole nanoseconds, or raise ValueError when one is beyond 146 years."""
    if seconds.size and seconds.max() > LATEST / NS:
        raise ValueError(f"an arrival is at {seconds.max():g} s, beyond the 146 years that 64 bits hold")
    return np.rint(seconds * NS).astype(np.int64)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, a finite number > 0 is needed")


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, a finite number >= 0 is needed")
