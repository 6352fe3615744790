"""vLLM runs with one row per request and a `summary.json`: Poisson arrivals, at most 256 requests open.

Where there is a trace with the time of every token, it gives the inter-token latencies.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from aquasim.calibrate.validate.readers.tables import field_of, numbers, read_json, read_table
from aquasim.calibrate.validate.runs import Floats, MeasuredRun, Part, Skipped
from aquasim.workload import Workload

DATASET = "vllm-h100-runs-b"
COLUMNS = ("request_id", "sched_arrival_us", "server_input_tokens", "output_tokens", "ttft_us", "e2e_us")
OPEN = 256
"""Requests the client keeps open at most, and the engine's max_num_seqs."""


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per folder with a summary.json; DataError on a faulty file."""
    server = folder / "server_config.json"
    config = read_json(server)
    keys = ("model", "tensor_parallel_size", "max_num_batched_tokens", "num_gpu_blocks", "block_size")
    model, tp, budget, blocks, size = (field_of(server, config, key) for key in keys)
    return [
        MeasuredRun(
            dataset=DATASET,
            name="-".join(part for part in path.parent.relative_to(folder).parts if part != "vanilla"),
            profile="h100",
            model=str(model),
            tp=int(tp),
            workload=_workload(path.parent / "requests.csv.gz"),
            parts=(_part(path.parent),),
            max_num_seqs=OPEN,
            max_num_batched_tokens=int(budget),
            blocks=int(blocks),
            block_size=int(size),
        )
        for path in sorted(folder.glob("**/summary.json"))
    ]


def _frame(path: Path) -> pd.DataFrame:
    return read_table(path, COLUMNS).sort_values("sched_arrival_us", ignore_index=True)


def _workload(path: Path) -> Workload:
    """Return what the client planned to send; prompts are random, so nothing is shared."""
    frame = _frame(path)
    arrival = numbers(path, frame, "sched_arrival_us")
    return Workload(
        ((arrival - arrival.min()) * 1000).astype(np.int64),
        numbers(path, frame, "server_input_tokens", 1).astype(np.int64),
        numbers(path, frame, "output_tokens", 1).astype(np.int64),
        cap=OPEN,
        name=path.parent.name,
    )


def _part(folder: Path) -> Part:
    path = folder / "requests.csv.gz"
    frame = _frame(path)
    ttft, e2e = (numbers(path, frame, column) / 1e6 for column in ("ttft_us", "e2e_us"))
    gaps = np.maximum(frame.output_tokens.to_numpy(float) - 1, 1)
    samples = {"ttft": ttft, "tpot": (e2e - ttft) / gaps, "e2e": e2e}
    trace = folder / "trace.itl.csv.gz"
    if trace.exists():
        samples["itl"] = _token_gaps(trace)
    return Part(name="all", counted=np.ones(len(frame), bool), samples=samples)


def _token_gaps(path: Path) -> Floats:
    """Return seconds between tokens; a request's first chunk names the role and its last one ends the stream."""
    frame = read_table(path, ("request_id", "chunk_index", "timestamp_us"))
    frame = frame.sort_values(["request_id", "chunk_index"])
    last = frame.groupby("request_id").chunk_index.transform("max")
    tokens = frame[(frame.chunk_index > 0) & (frame.chunk_index < last)]
    return tokens.groupby("request_id").timestamp_us.diff().dropna().to_numpy(float) / 1e6
