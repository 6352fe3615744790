"""From logits to tokens. What is drawn depends on the request's seed and the token's position, nothing else."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a request's tokens are chosen; temperature 0 takes the likeliest.

    `top_k` keeps so many likeliest tokens (0: all), `top_p` the fewest whose probability adds up to it. Raises
    ValueError for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; it must be 0 to 2**64 - 1")


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """`Sampling` of several rows as columns, and for each the position of the token to choose; host arrays."""

    temperature: npt.NDArray[np.float64]
    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float64]
    seed: npt.NDArray[np.uint64]
    position: npt.NDArray[np.int64]

    @classmethod
    def of(cls, samplings: list[Sampling], positions: list[int]) -> "Choices":
        """Turn one `Sampling` and position per row into columns."""
        return cls(
            np.array([s.temperature for s in samplings], np.float64),
            np.array([s.top_k for s in samplings], np.int64),
            np.array([s.top_p for s in samplings], np.float64),
            np.array([s.seed for s in samplings], np.uint64),
            np.array(positions, np.int64),
        )

    def joined(self, other: "Choices") -> "Choices":
        """Return these rows and then those of `other`."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return Choices(*(np.concatenate(pair) for pair in pairs))


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) for each seed and position, with 53 random bits (splitmix64, applied twice)."""
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seeds + _GOLDEN) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def choose(logits: torch.Tensor, choices: Choices) -> torch.Tensor:
    """Return a token for each row of `logits` `[rows, vocab]`: int64 `[rows]`, on the device of the logits."""
    tokens = _likeliest(logits)
    warm = np.flatnonzero(choices.temperature)
    if warm.size:
        rows = torch.from_numpy(warm).to(logits.device)
        tokens[rows] = _draw(logits[rows], Choices(*(getattr(choices, n)[warm] for n in Choices.__slots__)))
    return tokens


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    if logits.device.type == "cpu":  # numpy is twenty times as fast there
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(dim=-1)


def _draw(logits: torch.Tensor, choices: Choices) -> torch.Tensor:
    """Walk down the likeliest tokens until their probability passes a uniform number; in float64."""
    device = logits.device

    def column(values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values).to(device).unsqueeze(1)

    ordered, order = logits.double().sort(dim=-1, descending=True, stable=True)
    below = ordered - ordered[:, :1]  # at most 0, so that no temperature makes infinities
    scaled = below.div_(column(choices.temperature))
    shares = scaled.softmax(dim=-1)
    vocab = shares.shape[1]
    most = column(np.where(choices.top_k == 0, vocab, choices.top_k))
    kept = torch.arange(vocab, device=device) < most
    kept &= shares.cumsum(dim=-1) - shares < column(choices.top_p)
    kept[:, 0] = True
    sums = (shares * kept).cumsum(dim=-1)
    drawn = column(uniforms(choices.seed, choices.position)) * sums[:, -1:]
    picked = torch.searchsorted(sums, drawn, right=True).minimum(kept.sum(dim=-1, keepdim=True) - 1)
    return order.gather(1, picked).squeeze(1)
