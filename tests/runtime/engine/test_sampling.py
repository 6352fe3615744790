"""Tokens are drawn as probabilities say, from seed and position alone."""

import numpy as np
import pytest
import torch

from aquasim.runtime.engine import Sampling
from aquasim.runtime.engine.sampling import Choices, choose, uniforms

LOGITS = torch.tensor([2.0, -1.0, 3.0, 0.5, 1.0, -3.0])


def draws(sampling: Sampling, count: int) -> list[int]:
    """Choose for many positions of one request."""
    return choose(LOGITS.expand(count, -1), Choices.of([sampling] * count, list(range(count)))).tolist()


def test_zero_temperature_takes_the_likeliest_whatever_else_is_set() -> None:
    """Also in a batch where others draw."""
    rows = [Sampling(), Sampling(temperature=5.0, seed=3), Sampling(top_k=2, top_p=0.5, seed=9)]
    tokens = choose(LOGITS.expand(3, -1), Choices.of(rows, [7, 7, 7])).tolist()

    assert tokens[0] == tokens[2] == 2
    assert tokens[1] == draws(Sampling(temperature=5.0, seed=3), 8)[7]


def test_frequencies_are_probabilities() -> None:
    """20,000 draws lie within five standard errors of softmax(logits / temperature)."""
    expected = (LOGITS.double() / 0.8).softmax(0).numpy()
    found = np.bincount(draws(Sampling(temperature=0.8, seed=11), 20_000), minlength=6) / 20_000

    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-9).all()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=3.0, top_k=2), {2, 0}),
        (Sampling(temperature=1.0, top_p=0.6), {2}),  # likeliest: 0.62 of the whole
        (Sampling(temperature=1.0, top_p=0.65), {2, 0}),
        (Sampling(temperature=1.0, top_k=1, top_p=0.9), {2}),
        (Sampling(temperature=1e-12), {2}),
    ],
)
def test_what_is_cut_off_is_never_drawn(sampling: Sampling, kept: set[int]) -> None:
    """Only the likeliest tokens are left, and all of them come."""
    assert set(draws(sampling, 500)) == kept


def test_uniforms_depend_on_seed_and_position_and_look_uniform() -> None:
    """No two of 40,000 are equal; mean and neighbours' correlation are those of independent numbers."""
    seeds = np.repeat(np.arange(200, dtype=np.uint64), 200)
    positions = np.tile(np.arange(200), 200)
    found = uniforms(seeds, positions)

    assert len(np.unique(found)) == 40_000
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(found.mean() - 0.5) < 5 / np.sqrt(12 * 40_000)
    grid = found.reshape(200, 200) - 0.5
    assert abs((grid[:, 1:] * grid[:, :-1]).mean()) * 12 < 5 / 200
    assert abs((grid[1:] * grid[:-1]).mean()) * 12 < 5 / 200


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", -1), ("top_k", -1), ("top_p", 0), ("top_p", 1.5), ("seed", -1)]
)
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    """The value is named."""
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        Sampling(**{name: value})  # type: ignore[arg-type]
