"""Reading and checking tables of measured runs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aquasim.calibrate.validate.runs import DataError

Floats = NDArray[np.float64]


def read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a CSV that has at least `columns`; DataError if it cannot be read or lacks one."""
    try:
        frame = pd.read_csv(path)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    missing = [column for column in columns if column not in frame]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; it has: {', '.join(map(str, frame))}")
    if frame.empty:
        raise DataError(f"{path}: has no rows")
    return frame


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; DataError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: a JSON object is needed")
    return found


def numbers(path: Path, frame: pd.DataFrame, column: str, least: float = 0.0) -> Floats:
    """Return a column as numbers; DataError names the first row that is none or below `least`."""
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~(values >= least) | ~np.isfinite(values))
    if bad.size:
        given = frame[column].iloc[int(bad[0])]
        raise DataError(
            f"{path}: {column} is {given} in row {int(bad[0]) + 2}; a number >= {least:g} is needed"
        )
    return values


def field_of(path: Path, found: dict[str, Any], *keys: str) -> Any:
    """Return a nested value of a JSON file; DataError names the key that is missing."""
    value: Any = found
    for i, key in enumerate(keys):
        if not isinstance(value, dict) or key not in value:
            raise DataError(f"{path}: key {'.'.join(keys[: i + 1])} is missing")
        value = value[key]
    return value
