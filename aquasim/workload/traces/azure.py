"""The Azure LLM inference traces of 2023 and 2024 (Azure/AzurePublicDataset)."""

import re
from datetime import timedelta
from pathlib import Path

import numpy as np

from aquasim.workload.table import IntArray
from aquasim.workload.traces.cells import Cells
from aquasim.workload.traces.source import Options, Rows, at_least_one

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

# 2023: seven fractional digits and no zone. 2024: up to six, none at a whole second, and a zone.
_STAMP = re.compile(r"\s*((?:19|20)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:?\d\d)?\s*")
_VALID = "a time like 2023-11-16 18:15:46.6805900, with or without +00:00, is needed"


def read(path: Path, data: bytes, options: Options) -> Rows:
    """Read TIMESTAMP, ContextTokens, GeneratedTokens; arrivals count from the earliest request."""
    cells = Cells.parse(path, data, COLUMNS)
    stamps = _stamps(cells)
    prompt, prompt_notes = at_least_one(cells.whole("ContextTokens", 0), "prompt")
    output, output_notes = at_least_one(cells.whole("GeneratedTokens", 0), "output")
    return Rows(prompt, output, stamps - stamps.min(), notes=prompt_notes + output_notes)


def _stamps(cells: Cells) -> IntArray:
    """Return the time stamps in nanoseconds since 1970, or raise TraceError at the first bad one."""
    texts = cells.columns["TIMESTAMP"]
    matches = [match for match in map(_STAMP.fullmatch, texts) if match]
    if len(matches) < len(texts):
        row = next(row for row, text in enumerate(texts) if not _STAMP.fullmatch(text))
        raise cells.error(row, f"TIMESTAMP is {texts[row]!r}, {_VALID}")
    zones = [match[2] for match in matches]
    offset = {zone: _offset(zone) for zone in set(zones)}
    times = _epoch(cells, [match[1] for match in matches])
    return times - np.array([offset[zone] for zone in zones], np.int64)


def _epoch(cells: Cells, stamps: list[str]) -> IntArray:
    try:
        return np.array(stamps, "datetime64[ns]").astype(np.int64)
    except ValueError:
        row = next(row for row, stamp in enumerate(stamps) if not _exists(stamp))
    raise cells.error(row, f"TIMESTAMP is {stamps[row]!r}, {_VALID}")


def _exists(stamp: str) -> bool:
    """Tell whether the calendar has the time, as it has no 30th of February."""
    try:
        np.datetime64(stamp, "ns")
    except ValueError:
        return False
    return True


def _offset(zone: str | None) -> int:
    """Return a zone's distance from UTC in nanoseconds; no zone counts as UTC."""
    if zone is None or zone == "Z":
        return 0
    sign = -1 if zone[0] == "-" else 1
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return sign * int(offset.total_seconds()) * 10**9
