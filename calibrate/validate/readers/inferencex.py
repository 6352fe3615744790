"""Closed loops on H100 and H200, from the sample by which NVIDIA's aiconfigurator judges itself (with InferenceX's).

Its rows in 16-bit weights are NVIDIA's own, measured as aiconfigurator's bench does: all requests equally long, ten
in all for each open one, and the first sent at once, so that they stay in step to the end. A warm-up is not counted.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aquasim.calibrate.validate.readers.splitwise import one_file, skipped
from aquasim.calibrate.validate.readers.tables import numbers, read_table
from aquasim.calibrate.validate.runs import MeasuredRun, Part, Skipped
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.workload import Workload

DATASET = "inferencex-silicon"
PROFILES = {"h100_sxm": "h100", "h200_sxm": "h200"}
DTYPES = ("", "bf16", "bfloat16", "fp16", "float16")
"""None is given where a model ran in its own weights, which are 16 bits wide in the dense ones here."""
TEXTS = ("id", "backend", "backend_version", "model_path", "system", "precision", "mode")
COUNTS = ("isl", "osl", "batch_size", "tp_size", "pp_size")
TIMES = ("silicon_ttft_ms", "silicon_tpot_ms")
SHORTEST_MS = 1e-3
ROUNDS = 10
TIGHT = 0.7
"""Share of a GPU's memory beyond which weights leave a KV cache whose size hangs on settings not published."""
SORTING = {("vllm", "Qwen/Qwen3-32B")}
"""Models whose generation config asks for top-p and top-k, in engines that follow it and sort the logits."""


class Engine(NamedTuple):
    """An engine version and its limits.

    tokens: most in an iteration, or 0 for aiconfigurator's rule: 1,500 more than one prompt and one per sequence.
    whole: prompts are not split. padding: so many sequences fewer fit than requests are open.
    """

    serving: str
    tokens: int = 0
    whole: bool = False
    padding: int = 0

    def budget(self, prompt: int, opened: int) -> int:
        """Return the most tokens of an iteration, with `opened` requests of `prompt` tokens."""
        if self.tokens:
            return self.tokens
        room = prompt + SLACK
        return opened + (room // prompt * prompt if self.whole else room)


SLACK = 1500
ENGINES = {
    "vllm 0.12": Engine("vllm-0.12"),
    "sglang 0.5": Engine("sglang-0.5", tokens=8192),
    "trtllm 1.0": Engine("tensorrt-llm-1.0", whole=True, padding=1),
}
"""By backend and version. SGLang's tokens are its default on GPUs of 80 GB.

TensorRT-LLM runs one sequence fewer than are open: by Little's law, for its mean TTFT is longer by a completion over
the open requests at every load. (A slot of the batch is kept for the request that pads CUDA graphs.)
"""


def read(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return one run per row that can be replayed, and one `Skipped` per reason. Times are means, in ms.

    Not modelled: front ends at their limit (TensorRT-LLM's, about 9,000 tokens/s, from 64 open requests on).
    DataError on a faulty file.
    """
    path = one_file(folder, "h100_h200_runs.csv*")
    frame = read_table(path, (*TEXTS, *COUNTS, *TIMES))
    for column in TIMES:
        numbers(path, frame, column, SHORTEST_MS)
    frame = frame.fillna(dict.fromkeys(TEXTS, ""))
    for column in COUNTS:  # where prefill and decode are apart, these stand in other columns
        numbers(path, frame[[column]].where(frame["mode"] == "agg", 1), column, 1)
    reasons = [_unfit(row) for row in frame.itertuples()]
    runs = [_run(row) for row, why in zip(frame.itertuples(), reasons, strict=True) if not why]
    return [*runs, *skipped(DATASET, filter(None, reasons))]


def _unfit(row: Any) -> str:
    """Return why a row cannot be replayed, empty if it can."""
    if row.mode != "agg":
        return "prefill and decode on different GPUs"
    if str(row.precision).lower() not in DTYPES:
        return f"weights in {row.precision}: kernels were measured in 16 bits"
    if row.system not in PROFILES:
        return f"no profile of {row.system}"
    if row.pp_size != 1:
        return "pipeline parallel"
    if _engine(row) is None:
        return f"engine {row.backend} {row.backend_version or 'of no version'} is not known"
    try:
        profile, model = load_profile(PROFILES[row.system]), load_model(row.model_path)
        weights = model.weight_bytes(int(row.tp_size))
    except ValueError as error:
        return str(error).split(";")[0]
    if weights > TIGHT * profile.memory_bytes:
        return f"{model.name} fills the GPU: how little KV cache was left decides the queue and is not known"
    return ""


def _engine(row: Any) -> Engine | None:
    """Return the engine of a row, by the first two numbers of its version."""
    return ENGINES.get(f"{row.backend} {'.'.join(str(row.backend_version).split('.')[:2])}")


def _run(row: Any) -> MeasuredRun:
    engine = _engine(row)
    assert engine is not None
    opened, prompt, output = int(row.batch_size), int(row.isl), int(row.osl)
    column = np.full(ROUNDS * opened, 1)
    workload = Workload(0 * column, prompt * column, output * column, cap=opened, name=row.id)
    ttft, tpot = (getattr(row, column) / 1e3 for column in TIMES)
    part = Part(
        name="all",
        counted=np.ones(len(workload), bool),
        measured={"ttft": {"mean": ttft}, "tpot": {"mean": tpot}},
    )
    return MeasuredRun(
        dataset=DATASET,
        name=row.id,
        profile=PROFILES[row.system],
        model=row.model_path,
        tp=int(row.tp_size),
        workload=workload,
        parts=(part,),
        max_num_seqs=max(1, opened - engine.padding),
        max_num_batched_tokens=engine.budget(prompt, opened),
        max_model_len=prompt + output,
        sampling="top-p" if (row.backend, row.model_path) in SORTING else "greedy",
        prefill="prompt-only" if engine.serving.startswith("sglang") else "chunked",
        serving=engine.serving,
    )
