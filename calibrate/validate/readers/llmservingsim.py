"""LLMServingSim's vLLM runs: ShareGPT requests with the times the engine itself noted."""

from pathlib import Path

import numpy as np

from aquasim.calibrate.validate.readers.tables import field_of, numbers, read_json, read_table
from aquasim.calibrate.validate.runs import MeasuredRun, Part, Skipped
from aquasim.hardware.profile import profile_names
from aquasim.workload import Workload

DATASET = "llmservingsim"
COLUMNS = ("input_toks", "output_toks", "arrival_s", "first_token_s", "last_token_s")
SERVING = "vllm-0.14-engine"


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per folder of vllm-runs; DataError on a faulty file."""
    return [_run(path.parent) for path in sorted(folder.glob("vllm-runs/*/requests.csv"))]


def _run(folder: Path) -> MeasuredRun | Skipped:
    profile = folder.name.split("__")[0].lower()
    if profile not in profile_names():
        return Skipped(dataset=DATASET, name=folder.name, reason=f"no profile of {profile}")
    meta, table = folder / "meta.json", folder / "requests.csv"
    config = read_json(meta)
    frame = read_table(table, COLUMNS).sort_values("arrival_s", ignore_index=True)
    sent, first, last = (
        numbers(table, frame, column) for column in ("arrival_s", "first_token_s", "last_token_s")
    )
    output = numbers(table, frame, "output_toks", 1)
    samples = {
        "ttft": first - sent,
        "tpot": ((last - first) / np.maximum(output - 1, 1))[output > 1],
        "e2e": last - sent,
    }
    span = last.max() - sent.min()
    return MeasuredRun(
        dataset=DATASET,
        name=folder.name,
        profile=profile,
        model=str(field_of(meta, config, "model")),
        tp=int(field_of(meta, config, "engine_kwargs", "tensor_parallel_size")),
        workload=Workload(
            np.rint(sent * 1e9).astype(np.int64),
            numbers(table, frame, "input_toks", 1).astype(np.int64),
            output.astype(np.int64),
            name=folder.name,
        ),
        parts=(
            Part(
                name="all",
                counted=np.ones(len(frame), bool),
                samples=samples,
                measured={"throughput": {"mean": output.sum() / span}},
            ),
        ),
        max_num_seqs=int(field_of(meta, config, "engine_kwargs", "max_num_seqs")),
        max_num_batched_tokens=int(field_of(meta, config, "engine_kwargs", "max_num_batched_tokens")),
        serving=SERVING,
    )
