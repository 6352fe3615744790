"""Runs: columns, DataFrames, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from truths import Made, Truth

from aquasim.records.run import Run
from aquasim.records.tables import COLUMNS, RunTables


def test_columns_are_the_tables(toy: Made) -> None:
    """Every table comes as its columns, the engine first, without a copy for one engine."""
    run = toy(3).run
    for table, names in COLUMNS.items():
        columns = run.columns(table)

        assert list(columns)[: len(names) + 1] == ["engine", *names]
        assert len({len(column) for column in columns.values()}) == 1
    assert run.columns("steps")["start_ns"].base is not None


def test_engines_are_kept_apart() -> None:
    """Columns of one of several engines are its rows; tiers are renamed to one list."""
    first, second = RunTables(), RunTables()
    first.tiers, second.tiers = ["peer"], ["host", "peer"]
    first.add("transfers", 0, 1, 2, 0, 0, 5, 1)
    second.add("transfers", 0, 1, 2, 1, 0, 6, 1)
    second.add("transfers", 1, 3, 4, 0, 1, 7, 1)
    run = Run([("a", first), ("b", second)], {})

    assert run.columns("transfers")["engine"].tolist() == [0, 1, 1]
    assert run.columns("transfers", 1)["blocks"].tolist() == [6, 7]
    assert run.transfers[["engine", "kind", "tier"]].values.tolist() == [
        ["a", "out", "peer"],
        ["b", "in", "host"],
        ["b", "out", "peer"],
    ]


def test_frames_show_names(paged: Truth) -> None:
    """Outcomes, kinds, tiers and reasons are words."""
    run = paged.run

    assert set(run.requests["outcome"]) == {"finished", "rejected"}
    assert (
        run.requests.loc[run.requests["outcome"] == "rejected", "reason"].str.contains("does not fit").all()
    )
    assert set(run.transfers["kind"]) == {"out", "in"}
    assert set(run.transfers["tier"]) == {"peer"}
    assert run.moves.groupby("transfer")["blocks"].sum().tolist() == run.transfers["blocks"].tolist()
    assert run.requests is run.requests


@pytest.mark.parametrize("table", COLUMNS)
def test_frames_have_every_row(paged: Truth, table: str) -> None:
    """A DataFrame has the table's rows and columns."""
    frame = getattr(paged.run, table)

    assert len(frame) == paged.run.count(table)
    assert list(frame) == list(paged.run.columns(table))


def test_metrics_frame(paged: Truth) -> None:
    """Per-request metrics join on the request; the rejected one has no times."""
    frame = paged.run.metrics()
    rejected = frame[frame["outcome"] == "rejected"]

    assert len(frame) == paged.run.count("requests")
    assert frame["preemptions"].sum() == paged.run.count("preemptions")
    assert np.isclose(frame["ttft_s"].dropna().min(), frame["ttft_s"].min())
    assert rejected[["ttft_s", "tpot_s", "rct_s", "queue_s"]].isna().all(axis=None)


def test_repr_says_what_it_is(paged: Truth) -> None:
    """The repr names the run, its engines and its size."""
    assert repr(paged.run).startswith("<Run 'aqua' on gpu0: 61 requests, ")


def test_summary_is_computed_once(paged: Truth) -> None:
    """Asking again costs nothing, and what one caller does to its copy no other sees."""
    first = paged.run.summary()
    first.clear()

    assert paged.run.summary()["requests_done"] == 60


def test_imports_stay_light(tmp_path: Path) -> None:
    """Importing every module but `frames`, a summary and a saved and loaded run bring no pandas with them."""
    program = f"""
import sys
from aquasim.records import atomic, metrics, perfetto, phases, run, stats, store, tables, tokens
assert not {{"pandas", "pyarrow"}} & set(sys.modules)
made = run.Run([("gpu0", tables.RunTables())], {{}}, "empty")
made.summary()
assert "pyarrow" not in sys.modules
store.save(made, {str(tmp_path / "run")!r})
store.load({str(tmp_path / "run")!r})
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
