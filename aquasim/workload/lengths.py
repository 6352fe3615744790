"""Length distributions in tokens: small frozen objects with `sample(n, rng) -> int64 array, each >= 1`."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aquasim.workload.table import LATEST, IntArray, check_whole

FloatArray = NDArray[np.float64]


class Lengths(Protocol):
    """Anything that draws lengths in tokens."""

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` lengths, each at least 1 token."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always `tokens`."""

    tokens: int

    def __post_init__(self) -> None:
        check_whole("tokens", self.tokens)

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` times the same length; draws nothing from `rng`."""
        return np.full(n, self.tokens, np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `low` to `high`, both included, equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        check_whole("low", self.low)
        check_whole("high", self.high)
        if self.high < self.low:
            raise ValueError(f"high is {self.high}, a whole number >= low = {self.low} is needed")

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` independent lengths."""
        return rng.integers(self.low, self.high, n, dtype=np.int64, endpoint=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """Lengths whose logarithm is normal, rounded, then moved to the bound when outside `[low, high]`.

    Give `median` and `sigma` (the standard deviation of the logarithm), `mean` and `sigma`, or `mean` and
    `std`; mean and std, in tokens, are those before rounding and clipping. `high` None: no upper bound.
    """

    mean: float | None = None
    median: float | None = None
    sigma: float | None = None
    std: float | None = None
    low: int = 1
    high: int | None = None

    def __post_init__(self) -> None:
        given = {name for name in ("mean", "median", "sigma", "std") if getattr(self, name) is not None}
        if given not in ({"median", "sigma"}, {"mean", "sigma"}, {"mean", "std"}):
            found = ", ".join(sorted(given)) or "nothing"
            raise ValueError(f"Lognormal got {found}, valid: median and sigma, mean and sigma, mean and std")
        for name in given:
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > 0 or (value == 0 and name in ("sigma", "std")))):
                raise ValueError(f"{name} is {value}, a finite number > 0 is needed")
        check_whole("low", self.low)
        if self.high is not None and self.high < self.low:
            raise ValueError(f"high is {self.high}, a whole number >= low = {self.low} is needed")

    def _log(self) -> tuple[float, float]:
        """Return the mean and the standard deviation of the logarithm."""
        if self.median is not None and self.sigma is not None:
            return math.log(self.median), self.sigma
        assert self.mean is not None
        if self.sigma is not None:
            return math.log(self.mean) - self.sigma**2 / 2, self.sigma
        assert self.std is not None
        variance = math.log1p((self.std / self.mean) ** 2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` independent lengths."""
        mu, sigma = self._log()
        # Clipped while still floating point: a huge draw must not overflow the conversion.
        high = LATEST if self.high is None else self.high
        return np.clip(np.rint(rng.lognormal(mu, sigma, n)), self.low, high).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Each of `values` with probability proportional to its weight.

    `values` is a mapping length -> weight, or a sequence of lengths with `weights` beside it.
    Raises ValueError when a length is not a whole number >= 1, a weight is negative or not finite, none is
    positive, or the two differ in number.
    """

    values: Mapping[int, float] | Sequence[int]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        values, weights = self.values, self.weights
        if isinstance(values, Mapping):
            if weights is not None:
                raise ValueError("weights is given beside a mapping, valid: a mapping, or values and weights")
            values, weights = list(values), [values[length] for length in values]
        if weights is None or len(weights) != len(values):
            raise ValueError(f"{len(values)} values need as many weights")
        object.__setattr__(self, "values", tuple(map(int, _column("values", values))))
        object.__setattr__(self, "weights", tuple(map(float, weights)))
        if not (all(0 <= w < math.inf for w in weights) and sum(weights) > 0):
            raise ValueError("weights needs finite numbers >= 0 with at least one > 0")

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` independent lengths."""
        assert not isinstance(self.values, Mapping)
        assert self.weights is not None
        cumulative = np.cumsum(self.weights)
        # Side "right", so that a value of weight 0 is never drawn.
        index = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        lengths: IntArray = np.array(self.values, np.int64)
        drawn: IntArray = lengths[np.minimum(index, np.flatnonzero(self.weights)[-1])]
        return drawn


@dataclass(frozen=True, slots=True)
class Empirical:
    """Drawn from observed `values`, with replacement."""

    values: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(_column("values", self.values).tolist()))

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` independent lengths."""
        return np.array(self.values, np.int64)[rng.integers(len(self.values), size=n)]


@dataclass(frozen=True, slots=True)
class EmpiricalPairs:
    """Observed requests, drawn whole and with replacement: prompt and output keep their correlation."""

    prompt: Sequence[int]
    output: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", tuple(_column("prompt", self.prompt).tolist()))
        object.__setattr__(self, "output", tuple(_column("output", self.output).tolist()))
        if len(self.prompt) != len(self.output):
            raise ValueError(
                f"{len(self.prompt)} prompts beside {len(self.output)} outputs, pairs are needed"
            )

    def __len__(self) -> int:
        return len(self.prompt)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return the prompts and the outputs of `n` independent requests."""
        index = rng.integers(len(self), size=n)
        return np.array(self.prompt, np.int64)[index], np.array(self.output, np.int64)[index]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution given by its quantiles, linear between them (inverse transform sampling).

    `levels` rise strictly from 0 to 1; `values` do not fall. Not only for tokens: `draw` gives real numbers.
    """

    levels: Sequence[float]
    values: Sequence[float]

    def __post_init__(self) -> None:
        levels, values = tuple(map(float, self.levels)), tuple(map(float, self.values))
        rising = all(a < b for a, b in itertools.pairwise(levels))
        if len(levels) < 2 or levels[0] != 0 or levels[-1] != 1 or not rising:
            raise ValueError(f"levels is {levels}, numbers rising from 0 to 1 are needed")
        if len(values) != len(levels) or not all(a <= b for a, b in itertools.pairwise(values)):
            raise ValueError(f"values is {values}, {len(levels)} numbers that do not fall are needed")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "values", values)

    @property
    def mean(self) -> float:
        """The exact mean of `draw`: the area under the quantile function."""
        levels, values = np.array(self.levels), np.array(self.values)
        return float(np.sum(np.diff(levels) * (values[1:] + values[:-1]) / 2))

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Return `n` independent real numbers."""
        return np.interp(rng.random(n), self.levels, self.values)

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Return `n` independent lengths: `draw`, rounded, at least 1."""
        return np.maximum(np.rint(self.draw(n, rng)), 1).astype(np.int64)


def _column(name: str, values: ArrayLike) -> IntArray:
    """Return `values` as int64, or raise ValueError when one is not a whole number >= 1 or there is none."""
    array = np.asarray(values)
    whole = array.ndim == 1 and array.size > 0 and array.dtype.kind in "iuf"
    if not (whole and bool(((array >= 1) & (array <= LATEST) & (array == np.rint(array))).all())):
        raise ValueError(f"{name} needs a list of whole numbers >= 1 with at least one entry")
    return array.astype(np.int64)
