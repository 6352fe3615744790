"""Readers of static batches and closed loops: what they keep, what they leave out and why, and faulty files."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from aquasim.calibrate.validate.readers import argonne, inferencex, read_dataset, splitwise
from aquasim.calibrate.validate.replay import replay
from aquasim.calibrate.validate.runs import DataError, MeasuredRun, Skipped
from aquasim.hardware.serving import DEFAULT

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
DATASETS = (splitwise.DATASET, inferencex.DATASET, argonne.DATASET)

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"published runs are not at {DATA}")

Read = Callable[[Path], list[MeasuredRun | Skipped]]

SPLITWISE = """model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,e2e_time,tensor_parallel
llama2-70b,h100-80gb,512,2,128,150,40,5230,2
llama2-70b,h100-80gb,512,2,128,160,41,5367,2
llama2-70b,h100-80gb,512,2,128,170,42,5504,2
llama2-70b,h100-80gb,512,1,4096,80,40,4040,2
llama2-70b,h100-80gb,512,64,128,360,42,83891,2
llama2-70b,h100-80gb-pcap,512,1,128,80,40,5160,2
opt-1t,h100-80gb,512,1,128,80,40,5160,2
"""
ARGONNE = """Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,Throughput
Nvidia H100 GPU,1,vLLM,meta-llama/Meta-Llama-3-8B,128,16,1.2,3413.3333
Nvidia H100 GPU,1,TensorRT-LLM,meta-llama/Llama-2-7b-hf,128,1,0.85,301.17647
Nvidia H100 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,2048,64,117,2240.547
Nvidia H100 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,2048,1,0.08,51200
Nvidia H100 GPU,1,vLLM,Deci/DeciLM-7B,128,1,1,256
Nvidia GH200 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,128,1,1,256
Nvidia A100 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,128,1,1,256
"""
_HEAD = "id,backend,backend_version,model_path,system,precision,mode,isl,osl,batch_size,tp_size,pp_size,"
LOOPS = f"""{_HEAD}silicon_ttft_ms,silicon_tpot_ms
a,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,agg,1024,128,8,2,1,154,18
b,trtllm,1.0.0rc3,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,,agg,1024,128,8,1,1,318,7.5
c,sglang,0.5.1.post1,Qwen/Qwen3-32B,h200_sxm,bf16,agg,1024,128,16,4,1,493,10.5
d,sglang,0.5.8.post1,Qwen/Qwen3-32B,h100_sxm,,agg,1024,128,16,1,1,6775,25.5
e,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,fp8,agg,1024,128,8,2,1,154,18
f,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,disagg,1024,128,,,,154,18
g,vllm,,Qwen/Qwen3-32B,h100_sxm,,agg,1024,128,8,2,1,154,18
h,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,agg,1024,128,8,2,2,154,18
"""
FILES: dict[str, tuple[Read, str, str]] = {
    "splitwise": (splitwise.read, "perf_model.csv", SPLITWISE),
    "argonne": (argonne.read, "nvidia_vllm_trtllm.csv", ARGONNE),
    "inferencex": (inferencex.read, "h100_h200_runs.csv", LOOPS),
}


def _read(folder: Path, form: str, old: str = "", new: str = "") -> tuple[list[MeasuredRun], dict[str, str]]:
    """Return the runs of a form's small file with `old` replaced, and the reasons of what is skipped."""
    read, name, text = FILES[form]
    assert old in text
    (folder / name).write_text(text.replace(old, new) if old else text)
    found = read(folder)
    runs = [run for run in found if isinstance(run, MeasuredRun)]
    return runs, {skip.reason: skip.name for skip in found if isinstance(skip, Skipped)}


def test_repeats_become_their_median(tmp_path: Path) -> None:
    """Three repeats are one run: all requests at once, prefilled in one iteration, median times in seconds."""
    runs, _ = _read(tmp_path, "splitwise")
    run = next(run for run in runs if len(run.workload) == 2)

    assert run.parts[0].measured == {"ttft": {"mean": 0.16}, "tpot": {"mean": 0.041}, "e2e": {"mean": 5.367}}
    assert (run.profile, run.model, run.tp, run.serving) == ("h100", "Llama-2-70B", 2, "vllm-0.2")
    assert run.workload.arrival.tolist() == [0, 0]
    assert run.max_num_batched_tokens == 1024


def test_outputs_that_ended_early_are_replayed_as_long_as_they_were(tmp_path: Path) -> None:
    """80 ms and then 40 ms per token end after 4,040 ms with the 100th token, whatever was asked for."""
    runs, _ = _read(tmp_path, "splitwise")
    run = next(run for run in runs if len(run.workload) == 1)

    assert run.workload.output.tolist() == [100]
    assert run.name.endswith("512+100 of 4096")


def test_batches_that_cannot_be_replayed_in_one_piece_are_skipped(tmp_path: Path) -> None:
    """By reason and number of rows: in pieces, power capped, unknown model."""
    _, reasons = _read(tmp_path, "splitwise")

    assert reasons == {
        "decoded in pieces: the batch did not fit the KV cache at once": "1 row",
        "no profile of h100-80gb-pcap (power capped)": "1 row",
        "unknown model 'opt-1t'": "1 row",
    }


def test_offline_batches(tmp_path: Path) -> None:
    """Latency in seconds is when the last request ends; models of one shape stand for each other."""
    runs, _ = _read(tmp_path, "argonne")

    assert [(run.model, run.serving, len(run.workload)) for run in runs] == [
        ("meta-llama/Llama-2-7b-hf", "tensorrt-llm-0.11", 1),
        ("Llama-3.1-8B", "vllm-0.5", 16),
    ]
    assert runs[1].parts[0].measured == {"e2e": {"mean": 1.2}}


def test_offline_batches_that_are_skipped(tmp_path: Path) -> None:
    """No profile, no model, no room for the KV cache, and latencies that no GPU can reach."""
    _, reasons = _read(tmp_path, "argonne")

    assert sorted(reasons) == [
        "faster than weights and KV cache can be read for every output token: it ended early",
        "no profile of A100s with 40 GB and 1.6 TB/s",
        "no profile of GH200",
        "the batch does not fit the KV cache at once",
        "unknown model 'Deci/DeciLM-7B'",
    ]


def test_closed_loops(tmp_path: Path) -> None:
    """Ten requests for each open one; limits as each engine was told to keep them."""
    runs, _ = _read(tmp_path, "inferencex")
    vllm, trtllm, sglang = runs

    assert [len(run.workload) for run in runs] == [80, 80, 160]
    assert [run.workload.cap for run in runs] == [8, 8, 16]
    assert [run.max_num_seqs for run in runs] == [8, 7, 16]
    assert [run.max_num_batched_tokens for run in runs] == [1024 + 1500 + 8, 2 * 1024 + 8, 8192]
    assert vllm.parts[0].measured == {"ttft": {"mean": 0.154}, "tpot": {"mean": 0.018}}
    assert (vllm.sampling, trtllm.sampling, sglang.sampling) == ("top-p", "greedy", "greedy")
    assert (sglang.profile, sglang.tp, sglang.serving) == ("h200", 4, "sglang-0.5")


def test_closed_loops_that_are_skipped(tmp_path: Path) -> None:
    """8-bit weights, disaggregation, engines of no version, pipelines, and a KV cache nobody knows the size of."""
    _, reasons = _read(tmp_path, "inferencex")

    assert sorted(reasons) == [
        "Qwen3-32B fills the GPU: how little KV cache was left decides the queue and is not known",
        "engine vllm of no version is not known",
        "pipeline parallel",
        "prefill and decode on different GPUs",
        "weights in fp8: kernels were measured in 16 bits",
    ]


@pytest.mark.parametrize(
    ("form", "old", "new", "said"),
    [
        ("splitwise", "token_time", "tokens", "perf_model.csv: column 'token_time' is missing"),
        ("splitwise", "2,128,150,40", "2,128,-1,40", "prompt_time is -1 in row 2; a number"),
        ("splitwise", "2,128,150,40", "2,128,150,", "token_time is nan in row 2"),
        ("splitwise", "512,2,128,150", "512,0,128,150", "batch_size is 0 in row 2; a number >= 1 is needed"),
        ("argonne", "Latency", "Seconds", "nvidia_vllm_trtllm.csv: column 'Latency' is missing"),
        ("argonne", "128,16,1.2", "128,16,fast", "Latency is fast in row 2"),
        ("argonne", "301.17647", "150", "Throughput is 150 in row 3; 256 tokens in 0.85 s are 301.176"),
        ("inferencex", "silicon_tpot_ms", "tpot", "h100_h200_runs.csv: column 'silicon_tpot_ms' is missing"),
        ("inferencex", "154,18\nb", "0,18\nb", "silicon_ttft_ms is 0 in row 2"),
        ("inferencex", "1024,128,16,1,1", "1024,128,16,,1", "tp_size is nan in row 5; a number >= 1"),
    ],
)
def test_faulty_files(tmp_path: Path, form: str, old: str, new: str, said: str) -> None:
    """One line that names file, column, row and value."""
    with pytest.raises(DataError, match=r"^[^\n]*$") as caught:
        _read(tmp_path, form, old, new)

    assert said in str(caught.value)


@pytest.mark.parametrize("form", FILES)
def test_unreadable_and_missing_files(tmp_path: Path, form: str) -> None:
    """Neither a broken archive nor an empty or doubled folder is a table."""
    read, name, text = FILES[form]
    with pytest.raises(DataError, match="0 files match"):
        read(tmp_path)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode())[:60])
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="2 files match"):
        read(tmp_path)


@pytest.mark.parametrize("form", FILES)
def test_every_run_can_be_replayed(tmp_path: Path, form: str) -> None:
    """All requests of all runs end, with all their tokens; a batch's prompts share their first iteration."""
    for run in _read(tmp_path, form)[0]:
        replayed = replay(replace(run, serving=DEFAULT.name))
        assert replayed.ended.all()
        if run.workload.cap is None:
            assert len(set(replayed.times["ttft"].tolist())) == 1


@needs_data
@pytest.mark.parametrize("dataset", DATASETS)
def test_published_rows_are_run_or_skipped_for_a_reason(dataset: str) -> None:
    """Nothing is lost: a row is part of a run or has a reason; no two runs have one name."""
    found = read_dataset(DATA / dataset)
    runs = [run for run in found if isinstance(run, MeasuredRun)]
    rows = len(pd.read_csv(next((DATA / dataset).glob("*.csv.gz"))))
    left = sum(int(skip.name.split()[0]) for skip in found if isinstance(skip, Skipped))

    assert len({run.name for run in runs}) == len(runs) > 50
    assert len(runs) <= rows - left
    if dataset == inferencex.DATASET:  # the others repeat configurations
        assert len(runs) == rows - left
