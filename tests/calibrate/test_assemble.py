"""Profiles put together from samples, facts and a base: what is filled, what is said, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from aquasim.calibrate.assemble import build_profile
from aquasim.calibrate.published import profile_text
from aquasim.calibrate.samples import Samples, by_operator, make_samples
from aquasim.errors import UserError
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model


def gemm(device: str = "") -> dict[str, Samples]:
    """Products at half of an H100's peaks."""
    shapes = [
        (m, n, k)
        for m in (1, 16, 256, 2048)
        for n, k in ((4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336))
    ]
    m, n, k = np.array(shapes, dtype=float).T
    seconds = 2 * np.maximum(2 * (m * n + n * k + m * k) / 3.35e12, 2 * m * n * k / 989e12) + 2e-6
    provenance = {"device": device} if device else {}
    return by_operator(
        [
            make_samples(
                "gemm", "made", {"tokens": m, "outputs": n, "inputs": k}, seconds, provenance=provenance
            )
        ]
    )


def test_what_is_missing_is_named() -> None:
    """Without a base profile one line names every block that nothing was measured for."""
    with pytest.raises(UserError) as caught:
        build_profile("mine", gemm())
    text = str(caught.value)
    assert "nothing measured for memory, peak, hbm, gemm, decode_attention" in text
    assert "--base (known: a100, " in text
    assert "\n" not in text


def test_a_known_device_brings_its_facts() -> None:
    """A device that the driver names as one we know has memory, peaks and memory rates; kernels are still missing."""
    with pytest.raises(
        UserError, match=r"^nothing measured for decode_attention, prefill_attention, elementwise, "
    ):
        build_profile("mine", gemm("NVIDIA H100 80GB HBM3"))


def test_a_base_fills_the_gaps_and_every_filled_block_says_so(tmp_path: Path) -> None:
    """What was measured is kept, what was not comes from the base, and its source tells the two apart."""
    base = load_profile("h100")
    block = build_profile("mine", gemm(), base)
    (tmp_path / "mine.json").write_text(profile_text(block), encoding="utf-8")
    profile = load_profile(tmp_path / "mine.json")
    assert profile.gemm.values != base.gemm.values
    assert profile.decode_attention[128].values == base.decode_attention[128].values
    filled = [key for key in block if "from profile h100, not measured here" in json.dumps(block[key])]
    assert {"memory", "peak", "hbm", "decode_attention", "links", "all_reduce"} <= set(filled)
    assert "gemm" not in filled
    slow, fast = (StepCost(p, load_model("llama-3.1-8b"), 1).decode(8, 8000)[0] for p in (profile, base))
    assert slow > fast * 1.2


def test_links_that_were_measured_stay_beside_those_that_were_not() -> None:
    """A base adds the links that are missing and leaves the others alone."""
    columns = {"bytes": [65536, 1 << 20], "count": 16, "both": 0, "link": "pcie_h2d", "method": "loop"}
    copy = make_samples("copy", "made", columns, 16 * (1e-6 + np.array([65536, 1 << 20]) / 20e9))
    links = build_profile("mine", {**gemm(), "copy": copy}, load_profile("h100"))["links"]
    assert links["pcie_h2d"]["bytes_per_s"] == pytest.approx(20e9)
    assert links["pcie_h2d"]["source"].startswith("made")
    assert links["nvlink"]["source"].startswith("from profile h100, not measured here: ")


def test_peaks_nobody_states_are_the_best_measured() -> None:
    """On an unknown device the roofline is the fastest product and the fastest stretch of memory."""
    memory = make_samples("memory", "made", {"bytes": [1e9, 1e9], "method": ["read", "copy"]}, [1e-3, 2e-3])
    samples = {**gemm("A CPU"), "memory": memory}
    peak = build_profile("mine", samples, load_profile("h100"))["peak"]
    part = samples["gemm"]
    flops = (2 * part["tokens"] * part["outputs"] * part["inputs"] / part.seconds).max()
    assert peak["flops"] == pytest.approx(flops, rel=1e-3)
    assert peak["source"].startswith("best measured")


def test_versions_and_device_travel_with_the_profile() -> None:
    """Provenance of the samples is in the profile's kernels block."""
    block = build_profile("mine", gemm("A card"), load_profile("h100"))
    assert block["title"] == "A card"
    assert block["kernels"]["device"] == "A card"
