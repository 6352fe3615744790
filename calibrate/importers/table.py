"""One table of timings: typed columns, one unit of time, and errors that name file, column and row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aquasim.calibrate.samples import Samples
from aquasim.errors import UserError

Floats = NDArray[np.float64]

TIMES = {
    "seconds": 1.0, "time_s": 1.0, "latency_s": 1.0,
    "time_ms": 1e-3, "latency_ms": 1e-3, "time(ms)": 1e-3, "latency(ms)": 1e-3,
    "time_us": 1e-6, "latency_us": 1e-6, "time(us)": 1e-6, "latency(us)": 1e-6,
    "time_ns": 1e-9, "latency_ns": 1e-9, "time(ns)": 1e-9, "latency(ns)": 1e-9,
}  # fmt: skip
"""Columns that hold a time, and their unit in seconds."""

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file, and the words its errors begin with."""

    path: Path
    frame: pd.DataFrame

    @property
    def source(self) -> str:
        """The file's name and its folder's."""
        return "/".join(self.path.parts[-2:])

    def numbers(self, column: str) -> Floats:
        """Return a column as numbers. Raises UserError naming file, column, row and value."""
        values = pd.to_numeric(self.frame[column], errors="coerce").to_numpy(float)
        self._refuse(column, ~np.isfinite(values), "is no number")
        return np.asarray(values)

    def texts(self, column: str) -> NDArray[Any]:
        """Return a column as text; empty where the table lacks it."""
        if column not in self.frame:
            return np.full(len(self.frame), "", dtype=object)
        return self.frame[column].astype(str).to_numpy(object)

    def times(self, column: str, unit: float) -> Floats:
        """Return a column of times in seconds. Raises UserError for one that is not above 0."""
        values = self.numbers(column)
        self._refuse(column, values <= 0, "is no time above 0")
        return values * unit

    def _refuse(self, column: str, bad: NDArray[np.bool_], reason: str) -> None:
        """Raise UserError for the first bad row, which counts from 1 below the file's heading."""
        if bad.any():
            first = int(np.argmax(bad))
            row, value = int(self.frame.index[first]) + 1, str(self.frame[column].iloc[first])
            raise UserError(f"{self.path}: column {column}, row {row}: {value!r} {reason}")

    def seconds(self) -> Floats:
        """Return the one column of times. Raises UserError for none, for two, and for a unit that varies."""
        held = [column for column in self.frame.columns if column in TIMES]
        if len(held) > 1:
            raise UserError(f"{self.path}: columns {' and '.join(held)} both hold a time; one is needed")
        if held:
            return self.times(held[0], TIMES[held[0]])
        for column in ("time", "latency"):
            if column in self.frame and "unit" in self.frame:
                return self.times(column, self._unit())
        raise UserError(f"{self.path}: column with a time is missing; known: {', '.join(TIMES)}")

    def _unit(self) -> float:
        units = sorted(set(self.texts("unit")))
        if len(units) != 1 or units[0] not in UNITS:
            raise UserError(
                f"{self.path}: column unit holds {', '.join(units)}; one of s, ms, us, ns is needed"
            )
        return UNITS[units[0]]

    def rows(self, mask: NDArray[np.bool_]) -> "Table":
        """Return the rows that a mask picks."""
        return Table(self.path, self.frame[mask])

    def unrepeated(self) -> "Table":
        """Return the table without rows that repeat an earlier one's shape (the first stays)."""
        shape = [column for column in self.frame.columns if column not in TIMES]
        return Table(self.path, self.frame.drop_duplicates(shape))


@dataclass(frozen=True, slots=True)
class Format:
    """A published kind of table: the columns by which it is known, and how its rows become samples."""

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Table], list[Samples]]
    timed: str = ""
    """Column with the time, where it is not one of `TIMES`."""
