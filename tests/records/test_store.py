"""Run folders: what is written is read back, whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from truths import Truth

from aquasim.errors import UserError
from aquasim.records import store
from aquasim.records.head import read_head
from aquasim.records.run import FIELDS, Run
from aquasim.records.store import load, save
from aquasim.records.tables import RunTables


@pytest.fixture
def folder(paged: Truth, tmp_path: Path) -> Path:
    """A saved run."""
    return save(paged.run, tmp_path / "runs" / "one")


def test_a_run_comes_back(paged: Truth, folder: Path) -> None:
    """Every table, name, meta value and number of the summary is the same after a round trip."""
    again = load(folder)

    assert (again.name, again.meta, again.labels) == (paged.run.name, paged.run.meta, paged.run.labels)
    for table in FIELDS:
        for name, column in paged.run.columns(table).items():
            np.testing.assert_array_equal(again.columns(table)[name], column, f"{table}.{name}")
    assert again.summary() == paged.run.summary() == json.loads((folder / "summary.json").read_text())


def test_pandas_reads_the_tables(paged: Truth, folder: Path) -> None:
    """The Parquet files stand on their own: names are strings, numbers integers."""
    requests = pd.read_parquet(folder / "requests.parquet")

    assert requests["outcome"].astype(str).tolist() == paged.run.requests["outcome"].tolist()
    assert requests["finished_ns"].dtype == np.int64


def test_an_empty_run_comes_back(tmp_path: Path) -> None:
    """Tables without rows keep their columns."""
    again = load(save(Run([("gpu0", RunTables())], {}), tmp_path / "empty"))

    assert all(again.count(table) == 0 for table in FIELDS)
    assert again.engines == ["gpu0"]


def test_nothing_is_overwritten_unasked(paged: Truth, folder: Path) -> None:
    """A run that is there is an error, and stays."""
    with pytest.raises(ValueError, match="one: a run is there already"):
        save(paged.run, folder)

    assert load(folder).name == paged.run.name


def test_other_folders_are_never_replaced(paged: Truth, tmp_path: Path) -> None:
    """A folder that is not a run folder is an error even with `overwrite`; an empty one is no obstacle."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not a run folder"):
        save(paged.run, tmp_path, overwrite=True)
    (tmp_path / "empty").mkdir()

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load(save(paged.run, tmp_path / "empty")).name == paged.run.name


def test_overwriting_keeps_what_is_not_the_runs(folder: Path, tmp_path: Path) -> None:
    """The new run takes the old one's place; notes in the folder stay, and nothing lies beside it."""
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    (folder / "trace.json.gz").write_text("old")
    save(Run([("gpu0", RunTables())], {}, "new"), folder, overwrite=True)

    assert load(folder).name == "new"
    assert (folder / "notes" / "a.txt").read_text() == "mine"
    assert not (folder / "trace.json.gz").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_nothing_and_takes_nothing(
    paged: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there: bool
) -> None:
    """Whatever stops the writing, no part of the new run stays and the old one is whole."""
    folder = tmp_path / "run"
    if there:
        save(paged.run, folder)

    def fail(path: Path, value: object) -> None:
        raise error

    monkeypatch.setattr(store, "_write_json", fail)
    with pytest.raises(type(error)):
        save(Run([("gpu0", RunTables())], {}, "new"), folder, overwrite=True)

    assert [path.name for path in tmp_path.iterdir()] == (["run"] if there else [])
    assert not there or load(folder).name == paged.run.name


def test_a_failed_swap_puts_the_old_run_back(
    paged: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the new folder cannot take its place, the old one returns to it."""
    rename = os.rename
    calls: list[Path] = []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="no"):
        save(Run([("gpu0", RunTables())], {}, "new"), folder, overwrite=True)

    assert load(folder).name == paged.run.name
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)


def _drop_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns("step"), path)


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    """Whoever names a folder of `compare` where one run is wanted is told which runs are in it."""
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a run folder \(no meta.json; there are runs in it: a, b\)"):
        read_head(tmp_path)


def _retype(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "step", table["step"].cast("double")), path)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("meta.json", lambda path: path.unlink(), r"one: not a run folder \(no meta.json\)$"),
        ("meta.json", lambda path: path.write_text("{"), r"meta\.json: "),
        ("meta.json", lambda path: path.write_text("[]"), r"meta\.json: schema version None"),
        (
            "meta.json",
            lambda path: path.write_text('{"schema": 99}'),
            r"schema version 99; this aquasim reads 2",
        ),
        ("meta.json", lambda path: path.write_text('{"schema": 2}'), r"meta\.json: no labels, meta, name"),
        ("steps.parquet", lambda path: path.unlink(), r"steps\.parquet: missing"),
        ("steps.parquet", lambda path: path.write_bytes(b""), r"steps\.parquet: "),
        ("steps.parquet", _cut, r"steps\.parquet: "),
        ("steps.parquet", _flip, r"steps\.parquet: "),
        ("steps.parquet", _drop_column, r"steps\.parquet: no column 'step'"),
        (
            "steps.parquet",
            _retype,
            r"steps\.parquet: column 'step': int64 without nulls expected, not double",
        ),
    ],
)
def test_damage_is_told_in_one_line(
    folder: Path, file: str, damage: Callable[[Path], object], message: str
) -> None:
    """What cannot be read names the file and says why, in one line."""
    damage(folder / file)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)

    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """A path that is not there is an error in one line."""
    with pytest.raises(ValueError, match=r"none: not a run folder \(no such folder\)"):
        load(tmp_path / "none")
