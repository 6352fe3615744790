"""vLLM runs with one row per request and a `meta.json`: shared-prefix prompts in stages of constant rate.

The server kept KV blocks in host memory as well (1,023 to 6,553 of them). That is not modelled: prompts that
stay on the GPU hit there, and a host cache smaller than the 100 prompts that go round never hits (LRU).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aquasim.calibrate.validate.readers.client import PROMPTS, repeated_prefixes, sampling_of
from aquasim.calibrate.validate.readers.tables import field_of, numbers, read_json, read_table
from aquasim.calibrate.validate.runs import MeasuredRun, Part, Skipped
from aquasim.workload import Workload

DATASET = "vllm-h100-runs-a"
COLUMNS = ("index", "arrival_us", "input_tokens", "has_error", "ttft_s", "e2e_s")
TIMEOUT_S = 300.0
MAX_MODEL_LEN = 4096


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per sub-folder; DataError on a faulty file."""
    return [_run(path.parent) for path in sorted(folder.glob("*/meta.json"))]


def _run(folder: Path) -> MeasuredRun:
    path, table = folder / "meta.json", folder / "requests.csv.gz"
    meta = read_json(path)
    config: dict[str, Any] = field_of(path, meta, "config")
    model = str(field_of(path, meta, "model_id"))
    output = int(field_of(path, meta, "client_data", "shared_prefix", "output_len"))
    frame = read_table(table, COLUMNS).sort_values("index", ignore_index=True)
    ended = (frame.has_error == 0).to_numpy()
    prompt = _prompts(frame, ended)
    arrival = numbers(table, frame, "arrival_us")
    stages = field_of(path, meta, "client_load", "stages")
    return MeasuredRun(
        dataset=DATASET,
        name=folder.name.split("-", 2)[-1],
        profile="h100",
        model=model,
        tp=int(field_of(path, meta, "config", "tensor_parallelism")),
        workload=Workload(
            (arrival * 1000).astype(np.int64),
            prompt,
            np.full(len(frame), output),
            prefix=repeated_prefixes(prompt, *_system_prompts(path, meta)),
            name=folder.name,
        ),
        parts=tuple(_parts(table, frame, ended, output, stages)),
        max_num_seqs=int(config["max_num_seqs"]),
        max_num_batched_tokens=int(config["max_num_batched_tokens"]),
        max_model_len=MAX_MODEL_LEN,
        blocks=int(field_of(path, meta, "config", "kv_blocks_total_gpu")),
        block_size=int(config["block_size"]),
        prefix_caching=True,
        sampling=sampling_of(model),
        timeout_s=TIMEOUT_S,
    )


def _system_prompts(path: Path, meta: dict[str, Any]) -> tuple[int, int]:
    """Return tokens of a system prompt, and how many different ones there are."""
    keys = ("system_prompt_len", "num_unique_system_prompts")
    tokens, groups = (int(field_of(path, meta, "client_data", "shared_prefix", key)) for key in keys)
    return tokens, groups


def _prompts(frame: pd.DataFrame, ended: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return prompt lengths; one that failed has the length of another round, or the median."""
    tokens = frame.input_tokens.where(ended)
    rounds = tokens.groupby(frame["index"] % PROMPTS).transform("median")
    return tokens.fillna(rounds).fillna(tokens.median()).round().to_numpy(np.int64)


def _parts(
    table: Path, frame: pd.DataFrame, ended: NDArray[np.bool_], output: int, stages: list[dict[str, float]]
) -> list[Part]:
    """Return one part per stage of the load, with the times of the requests that ended."""
    at = frame.arrival_us.to_numpy(float) / 1e6
    times = {
        "ttft": numbers(table, frame.assign(ttft_s=frame.ttft_s.where(ended, 0.0)), "ttft_s"),
        "e2e": numbers(table, frame.assign(e2e_s=frame.e2e_s.where(ended, 0.0)), "e2e_s"),
    }
    times["tpot"] = (times["e2e"] - times["ttft"]) / (output - 1)
    parts, start = [], 0.0
    for stage in stages:
        end = start + stage["duration"]
        counted = (at >= start) & (at < end)
        samples = {metric: values[counted & ended] for metric, values in times.items()}
        parts.append(Part(name=f"{stage['rate']:g}/s", counted=counted, samples=samples))
        start = end
    return parts
