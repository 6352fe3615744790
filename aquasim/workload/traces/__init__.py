"""Published traces as workloads: `read_trace` finds the format and reads the file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aquasim.workload.arrivals import Arrivals, ClosedLoop
from aquasim.workload.streams import stream
from aquasim.workload.table import Workload
from aquasim.workload.traces import azure, burstgpt, mooncake, own, servegen, sharegpt
from aquasim.workload.traces.cells import split_header
from aquasim.workload.traces.sharegpt import lengths_from_sharegpt
from aquasim.workload.traces.source import Options, Rows, TraceError, load

_READERS: dict[str, Callable[[Path, bytes, Options], Rows]] = {
    "azure": azure.read,
    "burstgpt": burstgpt.read,
    "csv": own.read_csv,
    "lengths": own.read_lengths,
    "mooncake": mooncake.read,
    "parquet": own.read_parquet,
    "sharegpt": sharegpt.read,
}

FORMATS = (*_READERS, "servegen")
"""The names of the formats `read_trace` knows. ServeGen alone is not one file."""

_TIME = re.compile(
    r"(^|[^a-z])(time|timestamp|ts|date|datetime|arrival|arrived|created)($|[^a-z])", re.IGNORECASE
)

# A file belongs to the first format whose columns it has, so csv comes before lengths.
_HEADERS = {
    "azure": azure.COLUMNS,
    "burstgpt": burstgpt.COLUMNS,
    "csv": own.COLUMNS,
    "lengths": own.LENGTHS,
}


def read_trace(
    path: str | Path,
    *,
    format: str = "auto",
    limit: int | None = None,
    rate_scale: float = 1.0,
    seed: int = 0,
    tokenizer: str | Path | None = None,
    start: float | None = None,
    duration: float | None = None,
    arrivals: Arrivals | None = None,
    model: str | None = None,
) -> Workload:
    """Return the requests of a trace, plain or gzipped.

    format: one of `FORMATS`, or "auto" to tell it from the content.
    start, duration: keep the requests of `[start, start + duration)` seconds, on the trace's own clock (for
        azure from its first request); `start` becomes time 0.
    limit: keep at most the first `limit` requests of those.
    rate_scale: then divide all arrival times by it.
    arrivals: an arrival process that replaces the trace's own times, needed for formats that have none
        (lengths, sharegpt); requests keep their order.
    seed: of what is drawn: `arrivals`, and everything in servegen.
    tokenizer: path of a `tokenizer.json`, for sharegpt.
    model: keep the requests to this model, for burstgpt.

    Raises TraceError, `FILE:LINE: what is wrong, what is valid`, for a file that cannot be read, and
    ValueError for arguments that are out of range or do not fit.
    """
    path = Path(path)
    _check(limit, rate_scale, start, duration)
    options = Options(limit, seed, tokenizer, start or 0.0, duration, model)
    rows = _rows(path, format, options)
    workload = _workload(path, rows, arrivals, seed)
    if start is not None or duration is not None:
        workload = workload.between(start or 0.0, duration)
    if limit is not None:
        workload = workload.head(limit)
    return workload.scaled(rate=rate_scale)


def _rows(path: Path, format: str, options: Options) -> Rows:
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown, valid: auto, {', '.join(FORMATS)}")
    if format == "servegen" or (format == "auto" and _is_servegen(path)):
        return servegen.read(path, options)
    data = load(path)
    return _READERS[_detect(path, data) if format == "auto" else format](path, data, options)


def _is_servegen(path: Path) -> bool:
    return path.is_dir() or servegen.FILE_NAME.fullmatch(path.name) is not None


def _detect(path: Path, data: bytes) -> str:
    """Return the format of `data`, judged by how it begins, or raise TraceError listing the formats."""
    if data.startswith(b"PAR1"):
        return "parquet"
    first = data[:4096].decode("utf-8-sig", errors="replace").lstrip().split("\n")[0]
    if first.startswith("["):
        return "sharegpt"
    if first.startswith("{") and b'"hash_ids"' in data[:65536]:
        return "mooncake"
    names = split_header(first)
    for allowed in (0, 1):
        # With one column missing it is an incomplete file of that format: its reader names the column.
        for name, columns in _HEADERS.items():
            if len(set(columns) - set(names)) == allowed:
                if name == "lengths" and not allowed:
                    _refuse_times(path, names)
                return name
    shown = first if len(first) <= 60 else first[:57] + "..."
    raise TraceError.at(path, 1, f"unknown format, found {shown!r}; valid: {', '.join(FORMATS)}")


def _refuse_times(path: Path, names: Sequence[str]) -> None:
    """Raise TraceError where a file of lengths has a column that looks like times: they would be dropped."""
    for name in names:
        if _TIME.search(name):
            raise TraceError.at(
                path,
                1,
                f"column {name} looks like times, which a file of lengths has not: name it arrival_s, in seconds,"
                ' or give format "lengths" to draw arrivals instead',
            )


def _workload(path: Path, rows: Rows, arrivals: Arrivals | None, seed: int) -> Workload:
    n = len(rows.prompt)
    times, notes = rows.arrival, rows.notes
    if arrivals is not None:
        if times is not None:
            # In the order of arrival, which the file need not have, the process replaces the times.
            rows = _in_order(rows)
        times = arrivals.times(n, stream(seed, "arrivals"))
        n = len(times)
        notes = (
            *notes,
            f"arrivals drawn from {arrivals}" + ("" if rows.arrival is None else ", not the file's"),
        )
    if times is None:
        raise ValueError(
            f"{path}: the trace has lengths only: give an arrival process (workload.arrivals; in Python arrivals=)"
        )
    return Workload(
        times,
        rows.prompt[:n],
        rows.output[:n],
        None if rows.priority is None else rows.priority[:n],
        None if rows.prefix is None else rows.prefix[:n],
        rows.prefix_block,
        cap=arrivals.cap if isinstance(arrivals, ClosedLoop) else None,
        name=path.name.split(".")[0],
        notes=notes,
        adapter=None if rows.adapter is None else rows.adapter[:n],
    )


def _in_order(rows: Rows) -> Rows:
    assert rows.arrival is not None
    order = np.argsort(rows.arrival, kind="stable")
    return replace(
        rows,
        arrival=rows.arrival[order],
        prompt=rows.prompt[order],
        output=rows.output[order],
        priority=None if rows.priority is None else rows.priority[order],
        prefix=None if rows.prefix is None else [rows.prefix[i] for i in order.tolist()],
        adapter=None if rows.adapter is None else rows.adapter[order],
    )


def _check(limit: int | None, rate_scale: float, start: float | None, duration: float | None) -> None:
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}, a whole number >= 1 is needed")
    if not (np.isfinite(rate_scale) and rate_scale > 0):
        raise ValueError(f"rate_scale is {rate_scale}, a finite number > 0 is needed")
    if start is not None and not (np.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start} s, a finite number >= 0 is needed")
    if duration is not None and not (np.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration} s, a finite number > 0 is needed")


__all__ = ["FORMATS", "TraceError", "lengths_from_sharegpt", "read_trace"]
