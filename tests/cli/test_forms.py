"""Every table in every form: as CSV it has the rows that the JSON has, and both forms at once are refused."""

import contextlib
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.cli.app import app
from aquasim.cli.output import print_csv
from aquasim.errors import UserError
from aquasim.figures.text import shown

SMALL = ("small-h100", "--set", "workload.requests=12")
Count = Callable[[Any], int]
TABLES: dict[tuple[str, ...], Count] = {
    ("run", *SMALL): lambda found: 1,
    ("compare", *SMALL): lambda found: len(found["systems"]),
    ("compare", "aqua/s11-server", "--system", "host"): lambda found: len(
        found["systems"]["host"]["tenants"]
    ),
    ("scenarios",): len,
    ("profiles",): len,
    ("place", "aqua/s8-llm-donors"): lambda found: len(found["compared"]),
    ("surplus", "mistral-7b", "--rate", "2"): lambda found: len(found["points"]),
    ("doctor",): lambda found: len(found["arenas"]),
    ("reproduce", "aqua", "--only", "placer"): lambda found: sum(
        len(c["simulated"]) for c in found["claims"]
    ),
}

OTHERS = (
    ("sweep", "memory-and-link"),
    ("capacity", "burst-h100", "--slo", "ttft_p99<=9"),
    ("size", "burst-h100", "--slo", "ttft_p99<=9"),
    ("validate", "nowhere"),
    ("coordinator", "status"),
    ("calibrate",),
)
CELLS = st.text(st.characters(exclude_categories=["Cs"])) | st.integers()


def said(*words: str) -> str:
    """Run a command in this process; return what it prints. `doctor`'s exit code is about the machine."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        app(list(words), standalone_mode=False)
    return out.getvalue()


@pytest.mark.parametrize(("words", "count"), TABLES.items(), ids=map(" ".join, TABLES))
def test_csv_has_the_rows_of_the_json(words: tuple[str, ...], count: Count) -> None:
    """A heading and as many lines as the JSON has entries, all as wide as the heading."""
    rows = list(csv.reader(io.StringIO(said(*words, "--csv"))))
    assert len(rows) - 1 == count(json.loads(said(*words, "--json"))) > 0
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(set(rows[0])) == len(rows[0])


@pytest.mark.parametrize("words", [*TABLES, *OTHERS], ids=" ".join)
def test_both_forms_at_once_are_refused(words: tuple[str, ...]) -> None:
    """One line, before anything runs."""
    with pytest.raises(UserError, match="--json and --csv: one of them"):
        app([*words, "--json", "--csv"], standalone_mode=False)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), CELLS), max_size=5))
def test_whatever_a_cell_says_is_one_cell(rows: list[dict[str, Any]]) -> None:
    """Commas, quotes, line breaks: a reader gets back every cell, controls shown; nothing for what is missing."""
    out = io.StringIO(newline="")
    with contextlib.redirect_stdout(out):
        print_csv(rows)
    found = list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if keys:
        assert [[row[key] for key in keys] for row in found] == [
            [shown(str(row.get(key, ""))) for key in keys] for row in rows
        ]
