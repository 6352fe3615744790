"""AQUA's requirements M16 and M17: what coalescing is worth on the profiles' links; the account of every transfer."""

import numpy as np
import pytest

import aquasim
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.sim.carrier import PageLayout

TOKENS = 1000
MODELS = [("CodeLlama-34B", 1), ("Llama-3.1-70B", 2), ("Llama-3.1-8B", 1), ("Llama-2-13B", 1)]


def seconds(layout: PageLayout, link: str, kind: str, profile: str) -> float:
    """Time to move a context of a thousand tokens."""
    return -(-TOKENS // 16) * layout.block_bytes / layout.rate(load_profile(profile).links[link], kind)


@pytest.mark.parametrize(("name", "tp"), MODELS)
def test_m16_columns_are_layers_times_larger_than_scattered_copies(name: str, tp: int) -> None:
    """A gathered unit spans all layers: as many times larger as the model has layers."""
    model = load_model(name)
    scattered, column, whole = (
        PageLayout.of(model, tp, 16, c, False) for c in ("scattered", "column", "block")
    )
    size = scattered.block_bytes
    assert size / column.descriptors == model.layers * size / scattered.descriptors
    assert size / whole.descriptors == 2 * model.layers * size / scattered.descriptors


@pytest.mark.parametrize(("name", "tp"), MODELS)
@pytest.mark.parametrize("kind", ["out", "in"])
def test_m16_a_thousand_tokens_over_nvlink(name: str, tp: int, kind: str) -> None:
    """Whole blocks over the H100's measured NVLink: at least 4 times PCIe, and 5 times per-layer copies."""
    model = load_model(name)
    whole = seconds(PageLayout.of(model, tp, 16, "block", False), "nvlink", kind, "h100")
    host = seconds(
        PageLayout.of(model, tp, 16, "block", False),
        f"pcie_{'d2h' if kind == 'out' else 'h2d'}",
        kind,
        "h100",
    )
    layers = seconds(PageLayout.of(model, tp, 16, "scattered", False), "nvlink", kind, "h100")
    assert host / whole >= 4
    assert layers / whole >= 5


@pytest.mark.parametrize("system", ["cfs-host", "cfs-peer"])
def test_m17_every_transfer_is_accounted_for(system: str) -> None:
    """Bytes of links equal blocks of transfers, copies follow from the layout, and time is in the iterations.

    Serial transfers: whatever lies between two steps, and is no idleness, is the transfers the second waits for.
    """
    run = aquasim.simulate("small-h100", system)
    transfers, steps = run.transfers, run.steps
    size = run.meta["block_bytes"]
    links = run.meta["links"]
    out, back = (int(transfers.blocks[transfers.kind == kind].sum()) * size for kind in ("out", "in"))
    names = ("gpu0.d2h", "gpu0.h2d") if system == "cfs-host" else ("gpu0.nvlink-out", "gpu0.nvlink-in")
    assert [links[name]["bytes"] for name in names] == [out, back]
    assert (transfers.end_ns > transfers.start_ns).all()
    ends = (
        steps.start_ns
        + steps.first_ns * steps.iterations
        + steps.growth_ns * steps.iterations * (steps.iterations - 1) // 2
    )
    gaps = steps.start_ns.to_numpy()[1:] - ends.to_numpy()[:-1]
    waited = np.zeros(len(gaps), np.int64)
    for start, end in zip(transfers.start_ns, transfers.end_ns, strict=True):
        inside = (ends.to_numpy()[:-1] <= start) & (steps.start_ns.to_numpy()[1:] >= end)
        waited[inside] += end - start
    busy = waited > 0
    assert busy.sum() > 100
    assert (gaps[busy] == waited[busy]).mean() > 0.95  # some begin while the engine is idle
