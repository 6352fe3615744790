"""Means and percentiles of vLLM experiments, one row per experiment and stage, with loads known by name."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aquasim.calibrate.validate.readers.client import repeated_prefixes, sampling_of
from aquasim.calibrate.validate.readers.tables import numbers, read_table
from aquasim.calibrate.validate.runs import MeasuredRun, Part, Skipped
from aquasim.hardware.profile import profile_names
from aquasim.models import load_model
from aquasim.workload import Workload
from aquasim.workload.streams import stream

DATASET = "vllm-aggregate-runs"
COLUMNS = (
    "experiment",
    "stage",
    "model",
    "workload",
    "hardware",
    "precision",
    "tp",
    "max_num_batched_tokens",
)
METRICS = ("ttft", "e2e")
MAX_NUM_SEQS = 128
MAX_MODEL_LEN = 4096
TIMEOUT_S = 300.0
RETOKENISED = 1.047
"""Prompt tokens the server counts per token the client planned: the mean of runs of the same client with both."""


class Load(NamedTuple):
    """Stages of (requests per second, seconds); tokens as the client plans them; number of system prompts."""

    stages: tuple[tuple[float, float], ...]
    system: int
    question: int
    output: int
    groups: int


# From the configurations that were published for 15 of the experiments; groups from runs of the same client.
LOADS = {
    "general": Load(((8, 600), (20, 600)), 100, 447, 248, 9),
    "general-lite": Load(((2.5, 600), (6, 600)), 100, 447, 248, 9),
    "codegen": Load(((5, 600), (10, 600)), 100, 466, 247, 11),
    "roleplay": Load(((6, 1200),), 150, 600, 251, 10),
    "reasoning": Load(((4, 1200),), 100, 934, 1448, 23),
    "reasoning-lite": Load(((1, 1200),), 100, 934, 1448, 23),
}


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per experiment; those in 8-bit weights and the like are skipped. DataError on a faulty file."""
    path = folder / "actual_metrics.csv"
    timed = [f"{metric}_{statistic}_ms" for metric in METRICS for statistic in ("mean", "p90", "p99")]
    frame = read_table(path, (*COLUMNS, *timed))
    for column in timed:
        numbers(path, frame, column)
    known = _known(folder / "known_configs_15exp.csv")
    return [
        _run(str(name), rows, known)
        for name, rows in frame[frame.stage >= 0].groupby("experiment", sort=True)
    ]


def _known(path: Path) -> dict[str, Any]:
    """Return published configurations by experiment number: GPU blocks and stages."""
    if not path.exists():
        return {}
    frame = read_table(path, ("exp_id", "gpu_kv_blocks", "stages_rate_x_seconds"))
    return {str(row.exp_id): row for row in frame.itertuples()}


def _run(name: str, rows: pd.DataFrame, known: dict[str, Any]) -> MeasuredRun | Skipped:
    row: Any = rows.iloc[0]
    why = _unfit(row)
    if why:
        return Skipped(dataset=DATASET, name=name, reason=why)
    config = known.get("-".join(name.split("-")[:2])) or known.get(name.split("-")[0])
    load = LOADS[row.workload]
    if config is not None:
        load = load._replace(stages=_stages(config.stages_rate_x_seconds))
    workload = _workload(name, load)
    return MeasuredRun(
        dataset=DATASET,
        name=name,
        profile=str(row.hardware).lower(),
        model=row.model,
        tp=int(row.tp),
        workload=workload,
        parts=tuple(_parts(rows, load, workload)),
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=int(row.max_num_batched_tokens),
        max_model_len=MAX_MODEL_LEN,
        blocks=int(config.gpu_kv_blocks) if config is not None else None,
        utilization=float(row.gpu_mem_util) if row.gpu_mem_util > 0 else 0.9,
        prefix_caching=True,
        sampling=sampling_of(row.model),
        timeout_s=TIMEOUT_S,
    )


def _unfit(row: Any) -> str:
    if row.precision not in ("FP16", "BF16"):
        return f"weights in {row.precision}: kernels were measured in 16 bits"
    if row.workload not in LOADS:
        return f"load {row.workload!r} is not known"
    if str(row.hardware).lower() not in profile_names():
        return f"no profile of {row.hardware}"
    try:
        load_model(row.model)
    except ValueError as error:
        return str(error).split(";")[0]
    return ""


def _stages(text: str) -> tuple[tuple[float, float], ...]:
    """Read stages as `2.5x600;6x600`: requests per second and seconds."""
    pairs = (stage.split("x") for stage in str(text).split(";"))
    return tuple((float(rate), float(seconds)) for rate, seconds in pairs)


def _workload(name: str, load: Load) -> Workload:
    """Return requests at random times, as many in each stage as the client sends; not the client's own draw."""
    draw = stream(0, "arrivals")
    start, times = 0.0, []
    for rate, seconds in load.stages:
        times.append(start + np.sort(draw.random(round(rate * seconds))) * seconds)
        start += seconds
    arrival = np.concatenate(times)
    prompt = np.full(len(arrival), round((load.system + load.question) * RETOKENISED))
    return Workload(
        (arrival * 1e9).astype(np.int64),
        prompt,
        np.full(len(arrival), load.output),
        prefix=repeated_prefixes(prompt, load.system, load.groups),
        name=name,
    )


def _parts(rows: pd.DataFrame, load: Load, workload: Workload) -> list[Part]:
    """Return one part per stage. Mean TPOT follows from mean times, as all outputs are equally long."""
    parts, start = [], 0.0
    for stage, (rate, seconds) in enumerate(load.stages):
        found = rows[rows.stage == stage]
        at = workload.arrival / 1e9
        counted = (at >= start) & (at < start + seconds)
        start += seconds
        if found.empty:
            continue
        row: Any = found.iloc[0]
        measured = {
            metric: {key: row[f"{metric}_{key}_ms"] / 1e3 for key in ("mean", "p90", "p99")}
            for metric in METRICS
        }
        measured["tpot"] = {"mean": (measured["e2e"]["mean"] - measured["ttft"]["mean"]) / (load.output - 1)}
        parts.append(Part(name=f"{rate:g}/s", counted=counted, measured=measured))
    return parts
