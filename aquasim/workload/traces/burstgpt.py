"""The BurstGPT traces (HPMLL/BurstGPT): requests to ChatGPT and GPT-4 with times in seconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from aquasim.workload.traces.cells import Cells
from aquasim.workload.traces.source import Options, Rows, TraceError, at_least_one

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read(path: Path, data: bytes, options: Options) -> Rows:
    """Read Timestamp, Model, Request tokens, Response tokens; other columns are ignored.

    A row with 0 response tokens is a request that failed: it is dropped, and counted in the notes.
    Raises TraceError when no row is left, or none is of `options.model`.
    """
    cells = _of_model(Cells.parse(path, data, COLUMNS), options.model)
    output = cells.whole("Response tokens", 0)
    kept = np.flatnonzero(output)
    if not kept.size:
        raise TraceError.at(path, None, "every request has 0 response tokens, one that succeeded is needed")
    prompt, notes = at_least_one(cells.whole("Request tokens", 0)[kept], "prompt")
    failed = len(output) - len(kept)
    if failed:
        notes = (f"{failed} failed requests (0 response tokens) dropped", *notes)
    return Rows(prompt, output[kept], cells.nanoseconds("Timestamp")[kept], notes=notes)


def _of_model(cells: Cells, model: str | None) -> Cells:
    if model is None:
        return cells
    names = cells.columns["Model"]
    rows = [row for row, name in enumerate(names) if name == model]
    if not rows:
        found = ", ".join(sorted(set(names)))
        raise TraceError.at(cells.path, None, f"model {model!r} has no rows, valid: {found}")
    columns = {name: tuple(column[row] for row in rows) for name, column in cells.columns.items()}
    return replace(cells, columns=columns, lines=[cells.lines[row] for row in rows])
