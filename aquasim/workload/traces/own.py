"""Our own tables, as CSV or Parquet, and plain lists of lengths."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from aquasim.workload.table import LATEST, NS
from aquasim.workload.traces.cells import Cells
from aquasim.workload.traces.source import Options, Rows, TraceError

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
LENGTHS = ("prompt_tokens", "output_tokens")

_PREFIX = re.compile(r"prefix_([1-9]\d*)")


def read_csv(path: Path, data: bytes, options: Options) -> Rows:
    """Read arrival_s, prompt_tokens, output_tokens and, where present, priority, adapter and prefix_N."""
    cells = Cells.parse(path, data, COLUMNS)
    name, block = _prefix_column(cells.columns)
    return Rows(
        cells.whole("prompt_tokens", 1),
        cells.whole("output_tokens", 1),
        cells.nanoseconds("arrival_s"),
        priority=cells.whole("priority", -LATEST) if "priority" in cells.columns else None,
        prefix=_hashes(cells, name) if name else None,
        prefix_block=block,
        adapter=cells.whole("adapter", -1) if "adapter" in cells.columns else None,
    )


def read_lengths(path: Path, data: bytes, options: Options) -> Rows:
    """Read prompt_tokens and output_tokens; the file has no arrivals."""
    cells = Cells.parse(path, data, LENGTHS)
    return Rows(cells.whole("prompt_tokens", 1), cells.whole("output_tokens", 1))


def read_parquet(path: Path, data: bytes, options: Options) -> Rows:
    """Read the columns of `read_csv` from Parquet; prefix_N is a list of whole numbers per row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(pa.BufferReader(data)).to_pydict()
    except pa.ArrowException as error:
        raise TraceError.at(path, None, f"not valid Parquet: {str(error).splitlines()[0]}") from None
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        found, needed = ", ".join(columns), ", ".join(COLUMNS)
        raise TraceError.at(
            path, None, f"column {', '.join(missing)} missing: found {found}; needed {needed}"
        )
    if not columns["arrival_s"]:
        raise TraceError.at(path, None, "no rows, at least one request is needed")
    name, block = _prefix_column(columns)
    return Rows(
        _typed(path, columns, "prompt_tokens", 1),
        _typed(path, columns, "output_tokens", 1),
        np.rint(_typed(path, columns, "arrival_s", 0, np.float64) * NS).astype(np.int64),
        priority=_typed(path, columns, "priority", -LATEST) if "priority" in columns else None,
        prefix=_lists(path, name, columns[name]) if name else None,
        prefix_block=block,
        adapter=_typed(path, columns, "adapter", -1) if "adapter" in columns else None,
    )


def _prefix_column(names: dict[str, Any]) -> tuple[str | None, int]:
    """Return the name of the prefix column and its tokens per hash, (None, 16) without one."""
    for name in names:
        match = _PREFIX.fullmatch(name)
        if match:
            return name, int(match[1])
    return None, 16


def _hashes(cells: Cells, name: str) -> list[tuple[int, ...]]:
    rows = []
    for row, cell in enumerate(cells.columns[name]):
        try:
            rows.append(tuple(map(int, cell.split())))
        except ValueError:
            raise cells.error(
                row, f"{name} is {cell!r}, whole numbers with spaces between are needed"
            ) from None
    return rows


def _typed(path: Path, columns: dict[str, list[Any]], name: str, least: int, dtype: Any = np.int64) -> Any:
    """Return a Parquet column, or raise TraceError naming the row, from 1, of the first bad value."""
    kinds, what = ({int}, "whole number") if dtype is np.int64 else ({int, float}, "finite number")
    most = LATEST if dtype is np.int64 else LATEST / NS
    for row, value in enumerate(columns[name], 1):
        # Written so that NaN, which compares false, is bad.
        if type(value) not in kinds or not least <= value <= most:
            raise TraceError.at(path, None, f"row {row}: {name} is {value}, a {what} >= {least} is needed")
    return np.array(columns[name], dtype)


def _lists(path: Path, name: str, rows: list[Any]) -> list[tuple[int, ...]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or not set(map(type, row)) <= {int}:
            raise TraceError.at(
                path, None, f"row {number}: {name} is {row}, a list of whole numbers is needed"
            )
    return [tuple(row) for row in rows]
