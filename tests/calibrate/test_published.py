"""The shipped profiles against the published samples and runs they come from, where these are at hand."""

from pathlib import Path

import pandas as pd
import pytest
from gpus import kernel_profile_names

from aquasim.calibrate.facts import GPUS
from aquasim.calibrate.published import build_profile, one_file, profile_text, residuals
from aquasim.calibrate.rates import rate_profiles
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import FOLDER, load_profile, profile_names
from aquasim.models import load_model

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"published samples are not at {DATA}")

# Largest relative errors allowed on rows held out: operator -> (median, p90). The RTX tables hold products of one
# and two models, in steps of 16 tokens, and chunks of sizes that fill no whole wave of tiles.
LIMITS = {
    "gemm": (0.06, 0.16),
    "decode_attention": (0.03, 0.11),
    "prefill_attention": (0.04, 0.14),
}
RTX_LIMITS = {
    "gemm": (0.015, 0.05),
    "decode_attention": (0.03, 0.11),
    "prefill_attention": (0.06, 0.2),
    "mixed_attention": (0.07, 0.3),
}


def test_a_profile_for_each_gpu() -> None:
    """What can be built is what ships."""
    assert sorted(GPUS) == kernel_profile_names()


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(GPUS))
def test_rebuilt_profile_equals_the_shipped_one(name: str) -> None:
    """The same samples give the same bytes."""
    assert profile_text(build_profile(name, DATA)) == (FOLDER / f"{name}.json").read_text(encoding="utf-8")


@needs_data
@pytest.mark.parametrize("name", sorted({*profile_names()} - {*kernel_profile_names()}))
def test_rebuilt_layer_times_equal_the_shipped_ones(name: str) -> None:
    """The same tables give the same bytes."""
    assert profile_text(rate_profiles(DATA)[name]) == (FOLDER / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", kernel_profile_names())
def test_residuals_are_small(name: str) -> None:
    """Every kernel's fit is close to samples it has not seen."""
    found = residuals(load_profile(name).blocks)
    for operator, (median, p90) in (RTX_LIMITS if name.startswith("rtx") else LIMITS).items():
        errors = [residual for key, residual in found.items() if key.startswith(operator)]
        assert errors
        for residual in errors:
            assert residual["median"] <= median
            assert residual["p90"] <= p90


@needs_data
def test_iterations_of_a_measured_run() -> None:
    """Qwen3-14B on one H100, vLLM 0.23: sums of fitted kernels meet measured iterations.

    Median time between tokens with 1 to 8 sequences of about 1,088 tokens, within 3 %; and iterations that
    carry a prompt of 1,024 tokens beside 2 decodes, within 3 %.
    """
    trace = pd.read_csv(DATA / "vllm-h100-runs-b/sweep_rate/agg_2rps/vanilla/trace.itl.csv.gz")
    spans = trace.groupby("request_id").timestamp_us.agg(["min", "max"])
    trace["gap"] = trace.groupby("request_id").timestamp_us.diff() * 1e3
    gaps = trace[trace.chunk_index > 2]
    begun = spans["min"].sort_values().searchsorted(gaps.timestamp_us, side="right")
    ended = spans["max"].sort_values().searchsorted(gaps.timestamp_us, side="left")
    cost = StepCost(load_profile("h100"), load_model("qwen3-14b"))
    for batch in range(1, 9):
        measured = gaps[(begun - ended == batch) & (gaps.gap < 25e6)].gap.median()
        assert cost.decode(batch, batch * 1088)[0] == pytest.approx(measured, rel=0.03)
    mixed = gaps[(begun - ended == 3) & gaps.gap.between(35e6, 45e6)].gap.median()
    assert cost.step([(1024, 0)], 2, 2 * 1088) == pytest.approx(mixed, rel=0.03)


def test_a_folder_without_samples_is_refused(tmp_path: Path) -> None:
    """What is missing is named."""
    with pytest.raises(ValueError, match=r"expected one file gemm_\*, found 0"):
        one_file(tmp_path, "gemm_*")
