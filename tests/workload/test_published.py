"""The published traces, where they are at hand, and their stand-ins, which need nothing."""

import time
from pathlib import Path

import numpy as np
import pytest

from aquasim.workload import STAND_INS, ClosedLoop, TraceError, Workload, read_trace, stand_in

TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "traces"

published = pytest.mark.skipif(not TRACES.is_dir(), reason=f"published traces are not in {TRACES}")


def hit_ratio(workload: Workload) -> float:
    """Return the share of prefix blocks found in a cache that forgets nothing."""
    assert workload.prefix is not None
    seen: set[int] = set()
    hits = 0
    for chain in workload.prefix:
        hits += next((k for k, block in enumerate(chain) if block not in seen), len(chain))
        seen.update(chain)
    return hits / sum(map(len, workload.prefix))


@published
@pytest.mark.parametrize(
    ("name", "count", "prompt", "output"),
    [
        ("azure2023_conv.csv.gz", 19_366, 1154.697, 211.126),
        ("azure2023_code.csv.gz", 8_819, 2047.848, 27.883),
        ("mooncake_conversation.jsonl.gz", 12_031, 12035.061, 342.619),
        ("mooncake_synthetic.jsonl.gz", 3_993, 15325.477, 149.119),
        ("neo_osc_lengths.csv.gz", 2_000, 372.523, 45.309),
    ],
)
def test_published_traces_have_their_counts_and_means(
    name: str, count: int, prompt: float, output: float
) -> None:
    """Every row is read, without a complaint."""
    found = read_trace(TRACES / name, arrivals=ClosedLoop(64) if "lengths" in name else None)

    assert len(found) == count
    assert found.prompt.mean() == pytest.approx(prompt, abs=0.001)
    assert found.output.mean() == pytest.approx(output, abs=0.001)


@published
def test_the_first_requests_of_azure_code() -> None:
    """The first 2,000 requests have the means 1986.6 and 29.5."""
    found = read_trace(TRACES / "azure2023_code.csv.gz", limit=2000)

    assert len(found) == 2000
    assert found.prompt.mean() == pytest.approx(1986.6, abs=0.05)
    assert found.output.mean() == pytest.approx(29.5, abs=0.05)
    assert found.arrival[0] == 0


@published
@pytest.mark.parametrize(
    ("name", "seconds"), [("azure2023_conv.csv.gz", 0.15), ("mooncake_conversation.jsonl.gz", 0.5)]
)
def test_published_traces_are_read_quickly(name: str, seconds: float) -> None:
    """The best of three readings stays within its CPU time."""
    used = []
    for _ in range(3):
        begin = time.process_time()
        read_trace(TRACES / name)
        used.append(time.process_time() - begin)

    assert min(used) < seconds


@published
def test_a_published_servegen_client_has_its_rate() -> None:
    """Client 12's first two windows hold (62.832 + 62.915) x 600 requests, gaps with a CV near 1.03."""
    found = read_trace(TRACES / "servegen_m-small" / "chunk-12-dataset.json.gz", duration=1200)

    assert len(found) == pytest.approx(75_448, abs=5 * 1.03 * 75_448**0.5)
    with pytest.raises(TraceError, match=r"chunk-5-dataset\.json: client 5 has no such file"):
        read_trace(TRACES / "servegen_m-small", limit=1)


@published
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("azure-code", "azure2023_code.csv.gz"),
        ("azure-conversation", "azure2023_conv.csv.gz"),
        ("mooncake-conversation", "mooncake_conversation.jsonl.gz"),
    ],
)
def test_stand_ins_resemble_the_trace(kind: str, name: str) -> None:
    """Medians within 10 %, means within 8 %: the quantile tables are coarse in the tails."""
    trace = read_trace(TRACES / name)
    found = stand_in(kind, len(trace), seed=0)

    for mine, real in ((found.prompt, trace.prompt), (found.output, trace.output)):
        assert np.median(mine) == pytest.approx(np.median(real), rel=0.1)
        assert mine.mean() == pytest.approx(real.mean(), rel=0.08)
    # azure-code's gaps have a CV of 13: the mean of 8,819 has a standard error of 14 %.
    assert found.arrival[-1] == pytest.approx(trace.arrival[-1], rel=0.4 if kind == "azure-code" else 0.05)
    if trace.prefix is not None:
        assert hit_ratio(trace) == pytest.approx(0.366, abs=0.001)
        assert hit_ratio(found) == pytest.approx(hit_ratio(trace), abs=0.025)


@pytest.mark.parametrize("kind", STAND_INS)
def test_stand_ins_say_what_they_are_and_repeat(kind: str) -> None:
    """A note tells them from the trace, and a seed gives one workload."""
    found = stand_in(kind, 300, seed=4)
    again = stand_in(kind, 300, seed=4)

    assert len(found) == 300
    assert found.notes == (f"synthetic stand-in, not the trace: {kind}, seed 4",)
    assert (found.arrival == again.arrival).all()
    assert (found.prompt == again.prompt).all()
    assert found.prefix == again.prefix
    assert (stand_in(kind, 300, seed=5).prompt != found.prompt).any()


def test_the_session_stand_in_is_a_tree_of_prefixes() -> None:
    """A chain hash always follows the same one, block 0 is everyone's, and prompts are covered."""
    found = stand_in("mooncake-conversation", 1000, seed=1)
    assert found.prefix is not None
    parents: dict[int, int] = {}
    for chain, prompt in zip(found.prefix, found.prompt.tolist(), strict=True):
        assert chain[0] == 0
        assert len(chain) == -(-prompt // 512)
        for before, block in zip((-1, *chain), chain, strict=False):
            assert parents.setdefault(block, before) == before


def test_an_unknown_stand_in_lists_the_known() -> None:
    """One line, with the valid kinds."""
    with pytest.raises(
        ValueError, match="stand-in 'azure' is unknown, valid: azure-code, azure-conversation"
    ):
        stand_in("azure", 5)
    with pytest.raises(ValueError, match="n is 0, a whole number >= 1 is needed"):
        stand_in("azure-code", 0)
