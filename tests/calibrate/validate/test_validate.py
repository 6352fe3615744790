"""Replaying measured runs: what was simulated comes back without error, and faulty files are refused in a line."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aquasim.calibrate.validate.errors import FLOOR_MEDIAN, Error, errors_of, sums
from aquasim.calibrate.validate.readers import READERS, read_dataset, runs_a, runs_b
from aquasim.calibrate.validate.readers.client import repeated_prefixes, sampling_of
from aquasim.calibrate.validate.replay import Replayed, replay
from aquasim.calibrate.validate.runs import DataError, MeasuredRun, Part
from aquasim.workload import Workload

SERVER = {
    "model": "Qwen/Qwen3-14B",
    "tensor_parallel_size": 1,
    "max_num_batched_tokens": 8192,
    "num_gpu_blocks": 18038,
    "block_size": 16,
}
META: dict[str, Any] = {
    "model_id": "meta-llama/Llama-2-7b-hf",
    "config": {
        "tensor_parallelism": 1,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "kv_blocks_total_gpu": 7462,
        "block_size": 16,
    },
    "client_load": {"stages": [{"duration": 10, "rate": 6}, {"duration": 5, "rate": 12}]},
    "client_data": {
        "shared_prefix": {"output_len": 40, "system_prompt_len": 100, "num_unique_system_prompts": 9}
    },
}


def write_gzip(path: Path, text: str) -> None:
    """Write a compressed text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def write_b(folder: Path, replayed: Replayed, workload: Workload) -> None:
    """Write what a client of the second form would have noted of a simulated run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server_config.json").write_text(json.dumps(SERVER))
    frame = pd.DataFrame(
        {
            "request_id": range(len(workload)),
            "sched_arrival_us": workload.arrival / 1e3 + 500_000,
            "server_input_tokens": workload.prompt,
            "output_tokens": workload.output,
            "ttft_us": replayed.times["ttft"] * 1e6,
            "e2e_us": replayed.times["e2e"] * 1e6,
        }
    )
    write_gzip(folder / "run" / "vanilla" / "requests.csv.gz", frame.to_csv(index=False))
    (folder / "run" / "vanilla" / "summary.json").write_text("{}")


def write_a(folder: Path, replayed: Replayed, workload: Workload) -> None:
    """Write what a client of the first form would have noted of a simulated run; lengths of failed ones are lost."""
    run = folder / "20260101-000000-a-run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "meta.json").write_text(json.dumps(META))
    ended = replayed.ended
    frame = pd.DataFrame(
        {
            "index": range(len(workload)),
            "arrival_us": workload.arrival / 1e3,
            "input_tokens": np.where(ended, workload.prompt, 0),
            "output_tokens": workload.output,
            "has_error": (~ended).astype(int),
            "ttft_s": np.where(ended, replayed.times["ttft"], np.nan),
            "e2e_s": np.where(ended, replayed.times["e2e"], np.nan),
        }
    )
    write_gzip(run / "requests.csv.gz", frame.to_csv(index=False))


def served(workload: Workload, **changes: Any) -> MeasuredRun:
    """Return a run of a workload as the first form's reader would, without anything measured."""
    run = MeasuredRun(
        dataset="test", name="run", profile="h100", model=META["model_id"], tp=1, workload=workload, parts=(),
        max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=4096, blocks=7462, prefix_caching=True,
        sampling="top-p", timeout_s=300.0,
    )  # fmt: skip
    return replace(run, **changes)


def stages(seed: int = 0, longest: int = 700) -> Workload:
    """Return 120 requests over 15 seconds whose prompts, of 500 to `longest` tokens, repeat every 100."""
    draw = np.random.default_rng(seed)
    arrival = np.sort(np.concatenate([draw.random(60) * 10, 10 + draw.random(60) * 5]))
    prompt = np.resize(draw.integers(500, longest, 100), 120)
    arrival_ns = (arrival * 1e6).astype(np.int64) * 1000
    return Workload(arrival_ns, prompt, np.full(120, 40), prefix=repeated_prefixes(prompt, 100, 9))


def test_a_simulated_run_read_back_has_no_error(tmp_path: Path) -> None:
    """A closed-loop run noted by a client in microseconds comes back within rounding in every statistic."""
    draw = np.random.default_rng(1)
    workload = Workload(
        np.sort(draw.integers(0, 20_000_000, 300)) * 1000,
        draw.integers(200, 2000, 300),
        np.full(300, 64),
        cap=256,
    )
    workload = replace(workload, arrival=workload.arrival - workload.arrival.min())
    run = served(
        workload, model=SERVER["model"], max_num_seqs=256, max_num_batched_tokens=8192, blocks=18038,
        max_model_len=0, prefix_caching=False, sampling="greedy", timeout_s=None,
    )  # fmt: skip
    write_b(tmp_path, replay(run), workload)
    (found,) = read_dataset(tmp_path)
    assert isinstance(found, MeasuredRun)
    errors = errors_of(found, replay(found))
    assert {error.metric for error in errors} == {"ttft", "tpot", "e2e"}
    assert max(abs(error.error) for error in errors) < 1e-6


def test_stages_and_timeouts_come_back_as_well(tmp_path: Path) -> None:
    """Two stages are two parts; requests given up after a time-out are counted out on both sides.

    The prompts are equally long: the length of one that failed is not in the file.
    """
    workload = stages(longest=501)
    run = served(workload, blocks=80)
    timed = replay(replace(run, timeout_s=2.0))
    assert 0 < timed.ended.sum() < 120
    write_a(tmp_path, timed, workload)
    (found,) = read_dataset(tmp_path)
    assert isinstance(found, MeasuredRun)
    again = replay(replace(found, blocks=80, timeout_s=2.0))
    assert [part.name for part in found.parts] == ["6/s", "12/s"]
    assert [len(part.samples["ttft"]) for part in found.parts] == [
        int((part.counted & again.ended).sum()) for part in found.parts
    ]
    assert max(abs(error.error) for error in errors_of(found, again)) < 1e-6


def test_the_prefix_cache_hits_from_the_second_round_on() -> None:
    """Requests 100 and later find all but their last block; the first hundred find at most the system prompt."""
    requests = replay(served(stages())).run.columns("requests")
    cached = requests["cached_tokens"][np.argsort(requests["request"])]
    prompt = stages().prompt
    assert (cached[:100] <= 100).all()
    assert (cached[100:] == (prompt[100:] - 1) // 16 * 16).all()


def test_prefixes_of_one_group_share_the_system_prompt() -> None:
    """Prompts 0 and 9 of nine groups share six blocks of 16 of 100 tokens, 0 and 1 none, 0 and 100 all."""
    prefixes = repeated_prefixes(np.full(101, 200), 100, 9)
    shared = [sum(a == b for a, b in zip(prefixes[0], prefixes[i], strict=True)) for i in (1, 9, 100)]
    assert shared == [0, 6, len(prefixes[0])]
    assert len(prefixes[0]) == 13
    assert len({block for prefix in prefixes for block in prefix}) == 9 * 6 + 100 * 7


@pytest.mark.parametrize(
    ("model", "sampling"),
    [("meta-llama/Llama-3.1-8B-Instruct", "top-p"), ("mistralai/Mixtral-8x7B-v0.1", "greedy")],
)
def test_sampling_follows_the_models_generation_config(model: str, sampling: str) -> None:
    """Models whose generation config sets top_p sample by it."""
    assert sampling_of(model) == sampling


def test_sums_are_medians_of_signed_and_absolute_errors() -> None:
    """Errors of -10, +2 and +4 % have a signed median of 2 % and an absolute one of 4 %; the floor is stated."""
    errors = [
        Error("d", str(i), "all", "g", "e2e", "p50", 1.0, 1.0 + e, e)
        for i, e in enumerate((-0.1, 0.02, 0.04))
    ]
    (entry,) = sums(errors)
    assert (entry.parts, entry.floor) == (3, FLOOR_MEDIAN)
    assert (entry.signed, entry.median) == pytest.approx((0.02, 0.04))


def test_aggregates_are_compared_by_the_statistics_given() -> None:
    """A part that states a mean only gets an error of the mean only."""
    workload = stages()
    replayed = replay(served(workload))
    counted = np.ones(120, bool)
    mean = float(replayed.times["e2e"].mean())
    part = Part(name="all", counted=counted, measured={"e2e": {"mean": mean * 2}})
    (error,) = errors_of(served(workload, parts=(part,)), replayed)
    assert (error.metric, error.statistic) == ("e2e", "mean")
    assert error.error == pytest.approx(-0.5)


def test_every_form_has_a_reader() -> None:
    """Each pattern names a module with `read`."""
    for module in READERS.values():
        __import__(f"aquasim.calibrate.validate.readers.{module}")
        assert callable(sys.modules[f"aquasim.calibrate.validate.readers.{module}"].read)


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "missing column": (lambda text: text.replace("ttft_us", "first_us"), "column 'ttft_us' is missing"),
    "negative": (lambda text: text.replace("\n0,", "\n0,-5000000,1,1,1,1\n7,", 1), "sched_arrival_us is -5"),
    "no number": (lambda text: text.replace("\n0,", "\n0,soon,1,1,1,1\n7,", 1), "sched_arrival_us is soon"),
    "empty": (lambda text: text.splitlines()[0] + "\n", "has no rows"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_faulty_table_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    """The line names the file, the column and the value."""
    spoil, text = BROKEN[kind]
    workload = stages()
    write_b(tmp_path, replay(served(workload)), workload)
    path = tmp_path / "run" / "vanilla" / "requests.csv.gz"
    write_gzip(path, spoil(gzip.decompress(path.read_bytes()).decode()))
    with pytest.raises(DataError) as refusal:
        runs_b.read(tmp_path)
    assert text in str(refusal.value)
    assert "requests.csv.gz" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_faulty_descriptions_are_refused(tmp_path: Path) -> None:
    """A key that is missing is named with its path; what is no JSON, and what is no folder, says so."""
    run = tmp_path / "x-run"
    run.mkdir()
    (run / "meta.json").write_text(json.dumps({**META, "client_load": {}}))
    workload = stages()
    write_gzip(run / "requests.csv.gz", "index,arrival_us,input_tokens,has_error,ttft_s,e2e_s\n0,0,5,0,1,2\n")
    with pytest.raises(DataError, match=r"meta.json: key client_load.stages is missing"):
        runs_a.read(tmp_path)
    (run / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta.json: cannot be read"):
        runs_a.read(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    assert len(workload) == 120


def aquasim(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "aquasim", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_prints_tables_json_and_figures(tmp_path: Path) -> None:
    """A table of runs and one of sums; the same as JSON; one figure per part. Errors of our own data are 0."""
    workload = stages()
    write_a(tmp_path / "data", replay(served(workload)), workload)
    shown = aquasim("validate", tmp_path / "data")
    assert shown.returncode == 0, shown.stderr
    assert "a-run" in shown.stdout
    assert "floor" in shown.stdout
    figures = tmp_path / "figures"
    document = json.loads(aquasim("validate", tmp_path / "data", "--json", "--plot", figures).stdout)
    assert {error["part"] for error in document["errors"]} == {"6/s", "12/s"}
    assert all(abs(error["error"]) < 1e-6 for error in document["errors"])
    assert len(list(figures.glob("*.svg"))) == 2
    assert all("<svg" in path.read_text()[:200] for path in figures.glob("*.svg"))


def test_a_folder_of_no_known_form_is_an_error(tmp_path: Path) -> None:
    """One line on stderr, exit code 2, no traceback."""
    refused = aquasim("validate", tmp_path)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"aquasim: {tmp_path}: no known form of measured runs; known: runs_a")
    assert refused.stderr.count("\n") == 1
