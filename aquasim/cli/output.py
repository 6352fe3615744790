"""What a command found, in the form that was asked for: a table, JSON or CSV."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from aquasim.errors import UserError
from aquasim.figures.text import shown

Form = Literal["table", "json", "csv"]
Row = Mapping[str, Any]


def form_of(as_json: bool, as_csv: bool) -> Form:
    """Return what --json and --csv ask for; UserError where that is both."""
    if as_json and as_csv:
        raise UserError("--json and --csv: one of them")
    return "json" if as_json else "csv" if as_csv else "table"


def emit(
    form: Form,
    document: Callable[[], Any],
    rows: Callable[[], Iterable[Row]],
    table: Callable[[], object],
    names: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Print a JSON document, CSV with these rows (`names`: columns in any case), or call what prints the table."""
    if form == "json":
        print_json(document())
    elif form == "csv":
        print_csv(rows(), names())
    else:
        table()


def print_json(document: Any) -> None:
    """Print JSON; what is no JSON value appears as its text."""
    print(json.dumps(document, indent=2, default=str))


def print_csv(rows: Iterable[Row], names: Iterable[str] = ()) -> None:
    """Print a line per row: nested figures by dotted names, a list in one cell, nothing for what is undefined."""
    flat = [_flat(row) for row in rows]
    columns = dict.fromkeys([*names, *(name for row in flat for name in row)])
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flat(row: Row, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[shown(f"{prefix}{key}")] = _cell(value)
    return found


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return shown(value) if isinstance(value, str) else value
