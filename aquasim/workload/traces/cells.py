"""Comma-separated text as columns: fast when all is well, and exact about the line when it is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aquasim.workload.table import LATEST, NS, IntArray
from aquasim.workload.traces.source import TraceError, decode


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a CSV file by column name, as text, and the line in the file of each row."""

    path: Path
    columns: dict[str, tuple[str, ...]]
    lines: Sequence[int]

    @classmethod
    def parse(
        cls, path: Path, data: bytes, wanted: Sequence[str], header: Sequence[str] | None = None
    ) -> Self:
        """Split `data`; `header` names the columns of a file that has no header line.

        Fields hold no commas; quotes around them and blank lines are ignored.
        Raises TraceError when a wanted column is missing, a row has too few or too many fields, or there is
        no row.
        """
        lines = decode(path, data).split("\n")
        skipped = 1 if header is None else 0
        names = split_header(lines[0]) if header is None else list(header)
        missing = [name for name in wanted if name not in names]
        if missing:
            found = ", ".join(names)
            raise TraceError.at(
                path, 1, f"column {', '.join(missing)} missing: found {found}; needed {', '.join(wanted)}"
            )
        numbers = [n for n, line in enumerate(lines[skipped:], skipped + 1) if line.strip()]
        if not numbers:
            raise TraceError.at(path, len(lines), "no rows, at least one request is needed")
        rows = [lines[n - 1].split(",") for n in numbers]
        _check_widths(path, rows, numbers, names)
        columns = dict(zip(names, zip(*rows, strict=True), strict=False))
        if b'"' in data:
            columns = {name: tuple(cell.strip(' "') for cell in cells) for name, cells in columns.items()}
        return cls(path, columns, numbers)

    def error(self, row: int, text: str) -> TraceError:
        """Return the error for row number `row`, counted from 0."""
        return TraceError.at(self.path, self.lines[row], text)

    def whole(self, name: str, least: int) -> IntArray:
        """Return a column of whole numbers, or raise TraceError at the first that is not one >= `least`."""
        valid = f"a whole number >= {least} is needed"
        values = self._convert(name, int, np.int64, valid)
        self._check(name, (values >= least) & (values <= LATEST), valid)
        return values

    def numbers(self, name: str, blank: str = "") -> NDArray[np.float64]:
        """Return a column of numbers >= 0, an empty cell read as `blank`.

        Raises TraceError at the first cell that is not one.
        """
        valid = "a finite number >= 0 is needed"
        values = self._convert(name, lambda cell: float(cell or blank), np.float64, valid)
        self._check(name, (values >= 0) & np.isfinite(values), valid)
        return values

    def nanoseconds(self, name: str) -> IntArray:
        """Return a column of seconds, in nanoseconds, or raise TraceError at the first bad one."""
        seconds = self.numbers(name)
        self._check(
            name, seconds <= LATEST / NS, "seconds up to 146 years are needed; are these milliseconds?"
        )
        return np.rint(seconds * NS).astype(np.int64)

    def _convert(self, name: str, convert: Callable[[str], Any], dtype: type, valid: str) -> NDArray[Any]:
        cells = self.columns[name]
        try:
            # Python reads 1_000 as a number; in a trace it is damage.
            if "_" not in "".join(cells):
                return np.array(list(map(convert, cells)), dtype)
        except (ValueError, OverflowError):
            pass
        row = next(row for row, cell in enumerate(cells) if not _converts(cell, convert, dtype))
        raise self.error(row, f"{name} is {cells[row]!r}, {valid}") from None

    def _check(self, name: str, good: NDArray[np.bool_], valid: str) -> None:
        bad = np.flatnonzero(~good)
        if bad.size:
            row = int(bad[0])
            raise self.error(row, f"{name} is {self.columns[name][row]!r}, {valid}")


def split_header(line: str) -> list[str]:
    """Return the column names of a header line."""
    return [name.strip(' "\t\r') for name in line.split(",")]


def _converts(cell: str, convert: Callable[[str], Any], dtype: type) -> bool:
    try:
        np.array([convert(cell)], dtype)
    except (ValueError, OverflowError):
        return False
    return "_" not in cell


def _check_widths(path: Path, rows: list[list[str]], numbers: list[int], names: list[str]) -> None:
    if set(map(len, rows)) == {len(names)}:
        return
    row = next(row for row, cells in enumerate(rows) if len(cells) != len(names))
    raise TraceError.at(
        path,
        numbers[row],
        f"{len(rows[row])} fields, {len(names)} are needed: {', '.join(names)} (is the file truncated?)",
    )
