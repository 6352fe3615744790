"""A sweep that somebody measured: batch, throughput and memory from a CSV file."""

import csv
from math import isfinite
from pathlib import Path

from aquasim.errors import UserError
from aquasim.surplus.sweep import Point

GIB = 2**30
COLUMNS = ("batch", "tokens_per_s", "kv_gib")


def read_sweep(path: Path) -> list[Point]:
    """Return the points of a CSV with the columns batch, tokens_per_s and kv_gib (GiB in use beyond the weights).

    Raises UserError, one line, naming file, line, column and value.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: column {missing[0]!r} is missing; needed: {', '.join(COLUMNS)}")
            points = [_point(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not points:
        raise UserError(f"{path}: has no rows")
    return points


def _point(path: Path, line: int, row: dict[str, str | None]) -> Point:
    batch, rate, gib = (_number(path, line, name, row[name]) for name in COLUMNS)
    return Point(round(batch), rate, round(gib * GIB), float("nan"))


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value >= 0):
        raise UserError(f"{path}: line {line}: {name} is {text!r}; a number >= 0 is needed")
    return value
