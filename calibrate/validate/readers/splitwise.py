"""Static batches that Splitwise timed with vLLM of 2023: equal prompts sent at once, decoded to their end."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aquasim.calibrate.validate.readers.tables import numbers, read_table
from aquasim.calibrate.validate.runs import DataError, MeasuredRun, Part, Skipped
from aquasim.hardware.memory import kv_blocks
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.workload import Workload

DATASET = "splitwise-sim"
SERVING = "vllm-0.2"
PROFILES = {"a100-80gb": "a100", "h100-80gb": "h100"}
MODELS = {"llama2-70b": "Llama-2-70B", "bloom-176b": "BLOOM-176B"}
KEYS = ("model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size")
TIMES = ("prompt_time", "token_time", "e2e_time")
SHORTEST_MS = 1e-3
MAX_NUM_SEQS = 256  # vLLM's default until 2025
BLOCK_SIZE = 16
EARLY, LATE = 0.98, 1.05
"""Shares of prompt_time + outputs x token_time: a batch that takes less has ended before `token_size` tokens (its
outputs were not forced to go on), one that takes more was not decoded in one piece."""


class Batch(NamedTuple):
    """A batch of `size` equal requests, sent at once; tokens of one prompt and of one output."""

    profile: str
    model: str
    tp: int
    size: int
    prompt: int
    output: int


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per configuration, the median of its repeats, and one `Skipped` per reason.

    Times are milliseconds: until the batch's first tokens (all prompts are one iteration), per further token, and
    from start to end. DataError on a faulty file.
    """
    path = one_file(folder, "perf_model.csv*")
    frame = read_table(path, (*KEYS, *TIMES))
    for column in KEYS[2:]:
        numbers(path, frame, column, 1)
    for column in TIMES:
        numbers(path, frame, column, SHORTEST_MS)
    runs, reasons = [], []
    for key, rows in frame.groupby(list(KEYS), sort=True, dropna=False):
        found = _run(key, rows)
        if isinstance(found, MeasuredRun):
            runs.append(found)
        else:
            reasons += [found] * len(rows)
    return [*runs, *skipped(DATASET, reasons)]


def _run(key: Any, rows: pd.DataFrame) -> MeasuredRun | str:
    """Return the run of one configuration, or why there is none."""
    model, hardware, tp, prompt, size, output = key
    if hardware not in PROFILES:
        return f"no profile of {hardware}" + (" (power capped)" if str(hardware).endswith("pcap") else "")
    first, each, last = (float(rows[column].median()) for column in TIMES)
    took = last / (first + each * (output - 1))
    if took > LATE:
        return "decoded in pieces: the batch did not fit the KV cache at once"
    if took < EARLY:
        output = max(1, round((last - first) / each) + 1)
    batch = Batch(
        PROFILES[hardware], MODELS.get(model, str(model)), int(tp), int(size), int(prompt), int(output)
    )
    name = f"{hardware} {model} tp{tp} {size} x {prompt}+{output}"
    if took < EARLY:
        name += f" of {key[-1]}"
    measured = {"ttft": first / 1e3, "tpot": each / 1e3, "e2e": last / 1e3}
    return unfit(batch) or static_batch(DATASET, name, SERVING, batch, measured)


def unfit(batch: Batch) -> str:
    """Return why a batch cannot be replayed in one piece: no profile, no model, no room; empty if it can."""
    try:
        blocks = kv_blocks(
            load_profile(batch.profile),
            load_model(batch.model),
            batch.tp,
            BLOCK_SIZE,
            max_tokens=batch.size * batch.prompt,
            max_sequences=MAX_NUM_SEQS,
        )
    except ValueError as error:
        return str(error).split(";")[0]
    if batch.size * -(-(batch.prompt + batch.output) // BLOCK_SIZE) > blocks:
        return "the batch does not fit the KV cache at once"
    return ""


def static_batch(
    dataset: str, name: str, serving: str, batch: Batch, measured: Mapping[str, float]
) -> MeasuredRun:
    """Return the run of one batch: every prompt in the first iteration, then decodes only.

    `measured` maps metrics to seconds, the same for every request. Engines that take the prompts in several
    iterations before they decode differ in TTFT, by what these add in host time in the rest.
    """
    column = np.full(batch.size, 1)
    workload = Workload(0 * column, batch.prompt * column, batch.output * column, name=name)
    part = Part(
        name="all",
        counted=np.ones(batch.size, bool),
        measured={metric: {"mean": seconds} for metric, seconds in measured.items()},
    )
    return MeasuredRun(
        dataset=dataset,
        name=name,
        profile=batch.profile,
        model=batch.model,
        tp=batch.tp,
        workload=workload,
        parts=(part,),
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=batch.size * batch.prompt,
        max_model_len=batch.prompt + batch.output,
        block_size=BLOCK_SIZE,
        serving=serving,
    )


def one_file(folder: Path, pattern: str) -> Path:
    """Return the file of `folder` whose name matches; DataError unless there is exactly one."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files match {pattern}, exactly one is needed")
    return found[0]


def skipped(dataset: str, reasons: Iterable[str]) -> list[Skipped]:
    """Return one `Skipped` for each of `reasons` (one reason per row), named by the number of its rows."""
    return [
        Skipped(dataset=dataset, name=f"{count} row{'s'[: count > 1]}", reason=reason)
        for reason, count in sorted(Counter(reasons).items())
    ]
