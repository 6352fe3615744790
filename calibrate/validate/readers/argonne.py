"""Static batches of LLM-Inference-Bench (Argonne, 2024): as many output as input tokens, engines used offline."""

from pathlib import Path
from typing import Any

import pandas as pd

from aquasim.calibrate.validate.readers.splitwise import Batch, one_file, skipped, static_batch, unfit
from aquasim.calibrate.validate.readers.tables import numbers, read_table
from aquasim.calibrate.validate.runs import DataError, MeasuredRun, Skipped
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model

DATASET = "argonne-llm-inference-bench"
PROFILES = {"Nvidia H100 GPU": "h100"}
NO_PROFILE = {
    "Nvidia A100 GPU": "no profile of A100s with 40 GB and 1.6 TB/s",
    "Nvidia GH200 GPU": "no profile of GH200",
}
"""The A100s are Polaris', by the project's job scripts; batches of 45 GB did not fit them."""
SERVINGS = {"vLLM": "vllm-0.5", "TensorRT-LLM": "tensorrt-llm-0.11"}
"""Versions by the project's scripts: vllm.inputs.PromptInputs; requirements.txt."""
SAME_SHAPE = {
    "meta-llama/Meta-Llama-3-8B": "Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-70B": "Llama-3.1-70B",
}
KEYS = ("Hardware", "Num of Hardware", "Framework", "Model", "Input Output Length", "Batch Size")
TIME, RATE = "Latency", "Throughput"
SHORTEST_S = 1e-6
ALIKE = 0.02
"""Throughput counts input and output tokens; by how much it may differ from tokens / latency."""


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per configuration, the median of its repeats, and one `Skipped` per reason.

    Measured is only the latency of the whole batch, in seconds. vLLM prefills all prompts, as many at a time as
    its budget takes, before it decodes; TensorRT-LLM in one iteration. DataError on a faulty file.
    """
    path = one_file(folder, "nvidia_vllm_trtllm.csv*")
    frame = read_table(path, (*KEYS, TIME, RATE))
    _check(path, frame)
    runs, reasons = [], []
    for key, rows in frame.groupby(list(KEYS), sort=True, dropna=False):
        found = _run(key, float(rows[TIME].median()))
        if isinstance(found, MeasuredRun):
            runs.append(found)
        else:
            reasons += [found] * len(rows)
    return [*runs, *skipped(DATASET, reasons)]


def _check(path: Path, frame: pd.DataFrame) -> None:
    """Raise DataError for counts below 1, times that are none, and a throughput that contradicts its latency."""
    for column in ("Num of Hardware", "Input Output Length", "Batch Size"):
        numbers(path, frame, column, 1)
    seconds = numbers(path, frame, TIME, SHORTEST_S)
    rate = numbers(path, frame, RATE)
    tokens = 2.0 * frame["Input Output Length"] * frame["Batch Size"]
    for i, ratio in enumerate(rate * seconds / tokens):
        if abs(ratio - 1) > ALIKE:
            raise DataError(
                f"{path}: Throughput is {rate[i]:g} in row {i + 2}; {tokens[i]:.0f} tokens in"
                f" {seconds[i]:g} s are {tokens[i] / seconds[i]:g}"
            )


def _run(key: Any, seconds: float) -> MeasuredRun | str:
    """Return the run of one configuration, or why there is none."""
    hardware, tp, framework, model, length, size = key
    if hardware not in PROFILES:
        return NO_PROFILE.get(hardware, f"no profile of {hardware}")
    if framework not in SERVINGS:
        return f"engine {framework} is not known"
    known = SAME_SHAPE.get(model, str(model))
    batch = Batch(PROFILES[hardware], known, int(tp), int(size), int(length), int(length))
    why = unfit(batch)
    if why:
        return why
    if seconds < _least_s(batch):
        return "faster than weights and KV cache can be read for every output token: it ended early"
    name = f"{hardware} {framework} {model} tp{tp} {size} x {length}+{length}"
    return static_batch(DATASET, name, SERVINGS[framework], batch, {"e2e": seconds})


def _least_s(batch: Batch) -> float:
    """Return seconds of reading weights and the prompts' KV cache once per output token at the HBM's peak rate."""
    cost = StepCost(load_profile(batch.profile), load_model(batch.model), batch.tp, batch.size)
    return batch.output * cost.memory_ns(batch.size, batch.size * batch.prompt, batch.size) * 1e-9
