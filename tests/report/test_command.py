"""`aquasim report` as users meet it: what it reads, what it writes, and one line where it cannot."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aquasim.figures.series import Systems
from aquasim.records.run import FIELDS, Run
from aquasim.records.store import save
from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.report import write as write_report

Command = Callable[..., tuple[int, str, str]]


def refused(command: Command, *words: object) -> str:
    """Run what must fail in one line; return the line."""
    code, out, error = command("report", *words)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1, error
    assert error.startswith("aquasim: ")
    return error


def test_a_comparison_becomes_a_page(command: Command, folders: Path, tmp_path: Path) -> None:
    """A folder of runs, or each of them by name, is one page, small, with all sections."""
    target = tmp_path / "new" / "page.html"
    assert command("report", folders, "-o", target) == (0, f"{target}\n", "")
    assert target.stat().st_size < 2_000_000
    html = target.read_text()
    for words in (
        "The figures",
        "How times are spread",
        "What happened when",
        "What these runs cannot tell",
        "as run",
    ):
        assert words in html
    assert command("report", folders / "fcfs", folders / "aqua", "-o", tmp_path / "other.html")[0] == 0
    assert (tmp_path / "other.html").read_text() == html
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_the_same_run_twice_is_there_once(command: Command, folders: Path, tmp_path: Path) -> None:
    """A run that is named twice has one row."""
    command("report", folders, folders / "aqua", "-o", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count(
        '<th scope="row"><span class="swatch c1"></span>aqua'
    ) == 1


def test_a_page_is_replaced_only_if_told(command: Command, folders: Path, tmp_path: Path) -> None:
    """An existing page is kept without --overwrite; a folder in its place is refused."""
    target = tmp_path / "page.html"
    target.write_text("mine")
    assert "--overwrite" in refused(command, folders, "-o", target)
    assert target.read_text() == "mine"
    assert command("report", folders, "-o", target, "--overwrite")[0] == 0
    assert "is a folder" in refused(command, folders, "-o", tmp_path)


def test_figures_are_files(command: Command, burst: Systems, tmp_path: Path) -> None:
    """--figures writes each figure as SVG and PNG; their names are safe, whatever the system is called."""
    _, run = burst[0]
    run.name, before = "../../<b>evil</b>\x00", run.name
    try:
        save(run, tmp_path / "run")
    finally:
        run.name = before
    folder = tmp_path / "figures"
    assert command("report", tmp_path / "run", "-o", tmp_path / "page.html", "--figures", folder)[0] == 0
    files = sorted(path.name for path in folder.iterdir())
    assert len(files) >= 20
    for name in files:
        assert re.fullmatch(r"[a-z0-9-]+\.(svg|png)", name)
    assert {path.stem for path in folder.glob("*.svg")} == {path.stem for path in folder.glob("*.png")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "page.html", "run"]
    assert "not empty" in refused(command, tmp_path / "run", "-o", tmp_path / "2.html", "--figures", folder)


def test_what_is_no_run_is_one_line(command: Command, folders: Path, tmp_path: Path) -> None:
    """No such folder, an empty one, a file of something else: the line names it."""
    target = tmp_path / "page.html"
    assert "no such" in refused(command, tmp_path / "none", "-o", target)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: no run in it" in refused(command, empty, "-o", target)
    file = tmp_path / "notes.json"
    for text in ("{}", "[1]", "nonsense", '{"title": 1, "claims": 2, "command": 3}', "[" * 100_000):
        file.write_text(text)
        assert "notes.json" in refused(command, file, "-o", target)
    assert not target.exists()


@pytest.mark.parametrize("table", ["requests", "steps", "memory"])
def test_a_damaged_table_is_one_line(command: Command, folders: Path, tmp_path: Path, table: str) -> None:
    """A missing, a cut and a garbled table: the line names the file."""
    target, run = tmp_path / "page.html", tmp_path / "run"
    shutil.copytree(folders / "aqua", run)
    file = run / f"{table}.parquet"
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], b"", bytes(reversed(whole)), None):
        if part is None:
            file.unlink()
        else:
            file.write_bytes(part)
        assert f"{table}.parquet" in refused(command, run, "-o", target)
    assert not target.exists()


@pytest.mark.parametrize("key", ["scenario", "links", "blocks", "block_bytes", "tenants", "profile", "notes"])
@pytest.mark.parametrize("value", [3, "x", [1], {"a": {"b": None}}, None])
def test_odd_records_are_a_page_or_one_line(
    command: Command, folders: Path, tmp_path: Path, key: str, value: object
) -> None:
    """Whatever stands in a run's meta, there is a page or one line; never a traceback."""
    run = tmp_path / "run"
    shutil.copytree(folders / "fcfs", run)
    head = json.loads((run / "meta.json").read_text())
    head["meta"][key] = value
    (run / "meta.json").write_text(json.dumps(head))
    code, _, error = command("report", run, "-o", tmp_path / "page.html")
    assert (code == 0 and not error) or (code == 2 and error.count("\n") == 1), error


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_garbled_tables_are_a_page_or_one_line(
    command: Command, burst: Systems, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Tables that can be read but make no sense: a page, or one line; never a traceback, nor for ever."""
    _, run = burst[1]
    table = data.draw(
        st.sampled_from(["requests", "steps", "spans", "chunks", "transfers", "moves", "preemptions"])
    )
    column = data.draw(st.sampled_from([name for name in FIELDS[table] if name not in run.labels]))
    value = data.draw(st.sampled_from([-(2**62), -1, 0, 1, 10**9, 2**62]))
    columns = {name: run.columns(name) for name in FIELDS}
    values = columns[table][column].copy()
    values[:: data.draw(st.integers(1, 9))] = value
    columns[table][column] = values
    garbled = Run.of_columns(columns, run.labels, run.meta, run.name)
    place = tmp_path_factory.mktemp("garbled")
    garbled.summary = lambda slo=None: {}  # type: ignore[method-assign]
    save(garbled, place / "run")
    code, _, error = command("report", place / "run", "-o", place / "page.html")
    assert (code == 0 and not error) or (code == 2 and error.count("\n") == 1), error


def test_a_reproduction_becomes_a_page(command: Command, tmp_path: Path) -> None:
    """What `reproduce --out` writes is a page, claim by claim."""
    rows = (Row("aqua", Range(2.0, 3.0, 4.0)), Row("cfs", Range(1.0, 1.0, 1.0)))
    finding = Finding(
        "h100", "TTFT <20x>", "20x", 20.0, rows, "seeds 1 to 3", "unlike queues", ("burst-h100",), ("a note",)
    )
    about = {
        "command": "aquasim reproduce aqua",
        "version": "1",
        "date": "2026-01-01",
        "machine": "m",
        "seconds": 1.0,
    }
    write_report(tmp_path / "out", "A paper", [finding], about)
    assert command("report", tmp_path / "out", "-o", tmp_path / "page.html")[0] == 0
    html = (tmp_path / "page.html").read_text()
    for words in ("A paper", "TTFT &lt;20x&gt;", "3x (2x to 4x)", "unlike queues"):
        assert words in html


def test_a_validation_becomes_a_page(command: Command, tmp_path: Path) -> None:
    """What `validate --on hardware --out` and `validate --json` write are pages; what is odd is one line."""
    figure = {
        "system": "fcfs", "name": "ttft_p50", "measured": 1.0, "spread": 0.1, "predicted": 1.2, "simulated": 1.1,
        "allowed": 0.2, "error": 0.1, "predicted_error": 0.2, "ok": True,
    }  # fmt: skip
    run = {"slowdown": 1.0, "waited_s": 0.0, "notes": ["a note"], "replay": {"events": 3}}
    hardware = {
        "schema": 1, "scenario": "burst-local", "date": "d", "machine": {"cores": 2}, "figures": [figure],
        "runs": {"fcfs": [run]}, "replay_equal": True, "missed": 0,
    }  # fmt: skip
    error = {"dataset": "d", "run": "r", "part": "p", "group": "g", "metric": "ttft", "statistic": "p50"}
    total = {
        "metric": "ttft",
        "statistic": "p50",
        "parts": 1,
        "signed": 0.1,
        "median": 0.1,
        "p90": 0.1,
        "floor": 0.02,
    }
    replays = {
        "errors": [{**error, "measured": 1.0, "simulated": 1.1, "error": 0.1}], "sums": [total],
        "skipped": [{"dataset": "d", "run": "s", "reason": "too large"}],
    }  # fmt: skip
    for name, document, words in (("a", hardware, "1 of 1 figures"), ("b", replays, "too large")):
        file, target = tmp_path / f"{name}.json", tmp_path / f"{name}.html"
        file.write_text(json.dumps(document))
        assert command("report", file, "-o", target)[0] == 0
        assert words in target.read_text()
    for key in ("figures", "runs"):
        (tmp_path / "c.json").write_text(json.dumps({**hardware, key: [{"odd": 1}]}))
        assert "c.json" in refused(command, tmp_path / "c.json", "-o", tmp_path / "c.html")


def test_runs_of_one_name_are_told_apart(command: Command, folders: Path, tmp_path: Path) -> None:
    """Repeated runs, as `validate --on hardware --out` leaves them, are called by what differs in their paths."""
    for number in (1, 2):
        shutil.copytree(folders / "fcfs", tmp_path / "out" / "runs" / f"fcfs-{number}")
    assert command("report", tmp_path / "out", "-o", tmp_path / "page.html")[0] == 0
    html = (tmp_path / "page.html").read_text()
    assert "fcfs-1" in html
    assert "fcfs-2" in html
    shutil.copytree(tmp_path / "out", tmp_path / "more")
    both = (tmp_path / "out" / "runs" / "fcfs-1", tmp_path / "more" / "runs" / "fcfs-1")
    assert command("report", *both, "-o", tmp_path / "both.html")[0] == 0
    assert (tmp_path / "both.html").read_text().count("out/runs/fcfs-1") > 2


def test_a_calibration_becomes_a_page(command: Command, tmp_path: Path) -> None:
    """A folder with a hardware profile, as `calibrate` leaves it, is a page of residuals and links."""
    from aquasim.hardware.profile import FOLDER

    (tmp_path / "samples").mkdir()
    shutil.copy(FOLDER / "a100.json", tmp_path / "a100.json")
    (tmp_path / "copy_thresholds.json").write_text("{}")
    assert command("report", tmp_path, "-o", tmp_path / "page.html")[0] == 0
    html = (tmp_path / "page.html").read_text()
    assert "How far the fit is off" in html
    assert "nvlink" in html
    assert "milli_log2_ns" not in html
