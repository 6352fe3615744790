"""Readers of published serving runs, one per form they come in, found by the folder's contents."""

from importlib import import_module
from pathlib import Path

from aquasim.calibrate.validate.runs import DataError, MeasuredRun, Skipped

READERS = {
    "*/meta.json": "runs_a",
    "**/summary.json": "runs_b",
    "actual_metrics.csv": "aggregate",
    "vllm-runs/*/requests.csv": "llmservingsim",
    "perf_model.csv*": "splitwise",
    "h100_h200_runs.csv*": "inferencex",
    "nvidia_vllm_trtllm.csv*": "argonne",
}
"""Files that only one form has, and the module whose `read(folder)` reads it."""


def read_dataset(folder: Path) -> list[MeasuredRun | Skipped]:
    """Return the runs of a dataset's folder, with those that cannot be replayed as `Skipped`.

    Raises DataError, in one line, if the folder holds no known form or a file of it is faulty.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for pattern, module in READERS.items():
        if next(folder.glob(pattern), None) is not None:
            found: list[MeasuredRun | Skipped] = import_module(f"{__name__}.{module}").read(folder)
            return found
    forms = "; ".join(f"{module} ({pattern})" for pattern, module in READERS.items())
    raise DataError(f"{folder}: no known form of measured runs; known: {forms}")
