"""What a GPU can lend, or lacks: the rule on sweeps by hand, the simulated sweep, and files of measured ones."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.surplus import Point, Serve, judge, rate_point, read_sweep, sweep

GIB = 2**30


def points(*rows: tuple[int, float, float]) -> list[Point]:
    """Return points of (batch, tokens/s, GiB)."""
    return [Point(batch, rate, round(gib * GIB), 0.1) for batch, rate, gib in rows]


def test_a_saturated_gpu_lends_what_is_left() -> None:
    """Throughput of 98 at 4 GiB is within 5 % of the best, 100 at 30: of 40 GiB, 36 are over."""
    judged = judge(points((1, 50, 1), (4, 98, 4), (32, 100, 30)), 40 * GIB)
    assert judged.surplus_bytes == 36 * GIB
    assert judged.saturated


def test_a_gpu_that_still_climbs_lacks_memory() -> None:
    """Throughput doubles to the last point, which needs 60 GiB: with 40, 20 are missing."""
    judged = judge(points((1, 10, 10), (2, 20, 30), (4, 40, 60)), 40 * GIB)
    assert judged.surplus_bytes == -20 * GIB
    assert not judged.saturated


@given(
    st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 80)), min_size=1, max_size=12),
    st.integers(0, 80 * GIB),
)
def test_the_number_is_the_least_load_that_pays(rows: list[tuple[float, float]], room: int) -> None:
    """Whatever the sweep: the chosen point has 95 % of the best throughput, and none that has needs less memory."""
    swept = points(*[(i, rate, gib) for i, (rate, gib) in enumerate(rows)])
    judged = judge(swept, room)
    enough = [point for point in swept if point.tokens_per_s >= 0.95 * max(p.tokens_per_s for p in swept)]
    assert judged.point in enough
    assert judged.point.kv_bytes == min(point.kv_bytes for point in enough)
    assert judged.surplus_bytes == room - judged.point.kv_bytes


def test_an_empty_sweep_is_refused() -> None:
    """No point, no judgement."""
    with pytest.raises(ValueError, match="at least one point"):
        judge([], GIB)


def small() -> Serve:
    """Return a small load on one H100."""
    return Serve(load_profile("h100"), load_model("llama-3.1-8b"), 1, 256, 64, max_num_seqs=32)


def test_more_requests_give_more_tokens_and_take_more_memory() -> None:
    """Along the simulated sweep throughput and memory rise, to that of requests at their longest (within a block)."""
    swept = sweep(small())
    assert [point.batch for point in swept] == [1, 2, 4, 8, 16, 32]
    rates, sizes = [point.tokens_per_s for point in swept], [point.kv_bytes for point in swept]
    assert rates == sorted(rates)
    assert sizes == sorted(sizes)
    assert 304 * 131072 <= sizes[0] <= 320 * 131072
    assert all(size <= batch * 320 * 131072 for batch, size in zip((1, 2, 4, 8, 16, 32), sizes, strict=True))


def test_a_lower_rate_needs_less_memory() -> None:
    """Memory follows load: an engine at 1 request/s can lend more than at 20."""
    assert rate_point(small(), 1.0, 60).kv_bytes < rate_point(small(), 20.0, 60).kv_bytes
    with pytest.raises(ValueError, match="rate"):
        rate_point(small(), 0.0)


def test_a_model_that_does_not_fit_names_the_degree_that_does() -> None:
    """70B on one H100 is an error that says tp=2."""
    with pytest.raises(ValueError, match="tp=2 fits"):
        _ = replace(small(), model=load_model("llama-3.1-70b")).room


def test_a_measured_sweep_is_judged_alike(tmp_path: Path) -> None:
    """A CSV of batch, tokens/s and GiB takes the simulated sweep's place on the command line."""
    file = tmp_path / "sweep.csv"
    file.write_text("batch,tokens_per_s,kv_gib\n1,50,1\n4,98,4\n32,100,30\n")
    assert read_sweep(file)[1].kv_bytes == 4 * GIB
    command = [sys.executable, "-m", "aquasim", "surplus", "llama-3.1-8b", "--sweep", str(file), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["needed_gib"] == 4
    assert found["surplus_gib"] == pytest.approx(found["room_gib"] - 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batch,kv_gib\n1,2\n", "column 'tokens_per_s' is missing"),
        ("batch,tokens_per_s,kv_gib\n1,fast,2\n", "line 2: tokens_per_s is 'fast'"),
        ("batch,tokens_per_s,kv_gib\n1,5,-2\n", "line 2: kv_gib is '-2'"),
        ("batch,tokens_per_s,kv_gib\n", "has no rows"),
    ],
)
def test_a_faulty_sweep_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    """The line names file, line, column and value; exit code 2."""
    file = tmp_path / "sweep.csv"
    file.write_text(text)
    command = [sys.executable, "-m", "aquasim", "surplus", "llama-3.1-8b", "--sweep", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"aquasim: {file}: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `aquasim surplus`."""
    command = [sys.executable, "-m", "aquasim", "surplus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_producer_lends_what_its_saturating_batch_leaves() -> None:
    """SDXL on an A100: a batch of 4 gives 95 % of the throughput of 8, so what 8 takes more is not needed."""
    found = json.loads(ask("sdxl", "--profile", "a100", "--json").stdout)
    assert (found["model"], found["profile"], found["saturated"]) == ("sdxl", "a100", True)
    assert [point["batch"] for point in found["points"]] == [1, 2, 4, 8]
    assert found["needed_gib"] == found["points"][2]["work_gib"]
    assert found["surplus_gib"] == pytest.approx(found["room_gib"] - found["needed_gib"])
    rates = [point["items_per_s"] for point in found["points"]]
    assert rates[1] < 0.95 * rates[3] < rates[2]


def test_a_producer_that_still_climbs_is_judged_at_its_largest_batch() -> None:
    """MusicGen's throughput doubles to the last batch: what that leaves can be lent, and the line says so."""
    shown = ask("facebook/musicgen-large", "--profile", "a100").stdout
    assert "clips/s" in shown
    assert "can lend 37.6" in shown
    assert "throughput still rising" in " ".join(shown.split())


def test_producers_take_measured_sweeps_and_refuse_options_of_language_models(tmp_path: Path) -> None:
    """`--sweep` replaces the model's points; `--tp` and `--rate` are errors, one line each."""
    file = tmp_path / "sweep.csv"
    file.write_text("batch,tokens_per_s,kv_gib\n1,50,1\n4,98,4\n32,100,30\n")
    assert json.loads(ask("sd", "--sweep", str(file), "--json").stdout)["needed_gib"] == 4
    for option in (("--tp", "2"), ("--rate", "1")):
        done = ask("sd", *option)
        assert done.returncode == 2
        assert done.stderr == f"aquasim: {option[0]} is for language models; sd makes its images on one GPU\n"


def test_an_unknown_model_is_answered_with_both_kinds() -> None:
    """One line names language models and producers."""
    done = ask("stable-difusion")
    assert done.returncode == 2
    assert "unknown model 'stable-difusion'" in done.stderr
    assert "Llama-3.1-8B" in done.stderr
    assert "image and audio producers: sd, sdxl, kandinsky, audiogen, musicgen" in done.stderr
    assert done.stderr.count("\n") == 1
