"""Which models' kernels a profile was measured on."""

import pytest

from aquasim.hardware.coverage import unmeasured
from aquasim.hardware.profile import load_profile
from aquasim.models import Model, load_model, model_names


@pytest.mark.parametrize("profile", ["h100", "h200", "a100", "l40s"])
@pytest.mark.parametrize("model", [name for name in model_names() if name != "Llama-mini"])
def test_filled_grids_cover_the_known_models(profile: str, model: str) -> None:
    """Between the knots of a grid measured throughout, nothing is extrapolated (176B parameters need two GPUs)."""
    assert unmeasured(load_profile(profile), load_model(model), 2 if model == "BLOOM-176B" else 1) == []


@pytest.mark.parametrize(
    ("profile", "model", "tp"),
    [("rtx4090", "llama-3.1-8b", 1), ("rtxpro6000", "llama-3.1-8b", 2), ("rtxpro6000", "qwen3-32b", 1)],
)
def test_measured_models_are_covered(profile: str, model: str, tp: int) -> None:
    """The models whose layers were timed on a card need no warning there."""
    assert unmeasured(load_profile(profile), load_model(model), tp) == []


def test_other_models_are_told_in_a_line_per_kind() -> None:
    """A model of other widths and heads gets one line each for products, decoding and prefill, with its shapes."""
    lines = unmeasured(load_profile("rtx4090"), load_model("qwen3-14b"))
    assert [line.split(" of ")[0] for line in lines] == [
        "rtx4090: products",
        "rtx4090: decode attention",
        "rtx4090: prefill attention",
    ]
    assert "qkv 7168 x 5120" in lines[0]
    assert all("\n" not in line for line in lines)


def test_the_same_model_split_otherwise_is_another_shape() -> None:
    """Llama-3.1-8B over two GPUs has halves of the widths timed on one RTX 4090."""
    assert "gate_up 14336 x 4096" in unmeasured(load_profile("rtx4090"), load_model("llama-3.1-8b"), 2)[0]


def test_wider_than_any_grid() -> None:
    """Inputs wider than the widest measured, and wider heads, are extrapolated on every profile."""
    giant = Model("giant", 2, 131072, 64, 8, 256, 524288, 32000)
    lines = unmeasured(load_profile("h100"), giant)
    assert len(lines) == 3
    assert "heads of 256" in lines[2]


def test_a_degree_that_was_not_measured_is_one_clear_line() -> None:
    """All-reduce between RTX cards was not measured: asking for it names profile, number and remedy."""
    with pytest.raises(
        ValueError, match=r"^rtx4090: all-reduce between 2 GPUs was not measured \(measured: none\)"
    ):
        load_profile("rtx4090").all_reduce[2]
    with pytest.raises(ValueError, match=r"measured: 2, 4, 8"):
        load_profile("h100").all_reduce[16]
