"""Pages of sweeps: true to the store's tables, for every shape of sweep, whatever strings they hold."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from aquasim.figures.theme import svg
from aquasim.report.page import Page, Table
from aquasim.report.sweeps import read_sweep, sweep_page
from aquasim.sweep.plan import load_sweep
from aquasim.sweep.run import backend, run_sweep, write_tables

Command = Callable[..., tuple[int, str, str]]

GRID = """
question = "How much <b>memory</b>?"
scenario = "small-h100"
systems = ["fcfs", "aqua"]
seeds = 2
objectives = ["min ttft_p99", "max throughput"]
constraints = ["throughput >= 0.5 * fcfs.throughput"]
[set]
workload.requests = 40
[grid]
machine.peer_gib = [1, 2, 900]
engine.kv_blocks = [300, 600, 1200]
"""
LIST = """
scenario = "small-h100"
systems = ["fcfs"]
[[list]]
source = "</script><img src=x onerror=hit()>"
workload.requests = 4
[[list]]
source = "\\u001b[2J\\u202e"
workload.requests = 5
"""
SEARCH = """
scenario = "small-h100"
systems = ["aqua"]
objectives = ["min rct_p99"]
[set]
workload.requests = 20
[search]
trials = 6
sampler = "random"
[search.ranges]
engine.max_num_seqs = { kind = "integer", low = 4, high = 64 }
systems.aqua.options.backfill = { kind = "choice", values = [true, false] }
"""


def ran(folder: Path, text: str) -> Path:
    """Run a sweep in this process's only worker and store it as the command does."""
    file = folder / "it.sweep.toml"
    file.write_text(text)
    outcome = run_sweep(load_sweep(file), folder / "it", partial(backend, 1, None))
    write_tables(outcome.results, folder / "it")
    return folder / "it"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of 3 by 3 for two systems, some points of which cannot run."""
    return ran(tmp_path_factory.mktemp("sweep"), GRID)


def made(folder: Path) -> Page:
    """Return the page of a folder, written once."""
    page = sweep_page(read_sweep(folder))
    page.html()
    return page


def tables(page: Page, title: str) -> list[Table]:
    """Return the tables of a section."""
    (section,) = [section for section in page.sections if section.title == title]
    return [part for part in section.parts if isinstance(part, Table)]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return a CSV file's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_says_what_the_tables_say(stored: Path) -> None:
    """Question, axes, seeds, objectives, constraints, the best point and its interval, and every failed point."""
    page = made(stored)
    text = unescape(re.sub(r"<[^>]+>", " ", page.html().split("<script")[0]))
    best = next(row for row in rows_of(stored / "summary.csv") if row["best"] == "True")
    for words in (
        "How much <b>memory</b>?", "machine.peer_gib: 1, 2, 900", "engine.kv_blocks: 300, 600, 1,200", "Seeds: 1, 2",
        "min ttft_p99; max throughput", "Fixed: workload.requests = 40", f"{float(best['ttft_p99']):,.4g}",
    ):  # fmt: skip
        assert words in text, words
    (top,) = tables(page, "The best points")
    assert top.rows[0][0].text == best["system"]
    assert [cell.text for cell in top.rows[0][1:3]] == [
        f"{float(best[key]):,.4g}" for key in ("machine.peer_gib", "engine.kv_blocks")
    ]
    assert top.rows[0][4].note == " to ".join(
        f"{float(best[f'ttft_p99.{end}']):,.4g}" for end in ("low", "high")
    )
    (failed,) = tables(page, "Points that failed")
    errors = [row["error"] for row in rows_of(stored / "points.csv") if row["status"] == "failed"]
    assert [row[-1].text for row in failed.rows] == errors != []


def test_every_figure_is_there_and_draws(stored: Path) -> None:
    """A response per key and metric, maps of what varies, the Pareto scatter; vl-convert draws all of them."""
    page = made(stored)
    names = [figure.name for figure in page.figures]
    for key in ("machine.peer_gib", "engine.kv_blocks"):
        assert {f"response-{key}-ttft_p99", f"response-{key}-throughput_tok_s"} <= set(names)
    assert "heat-aqua-ttft_p99" in names
    assert "pareto-ttft_p99-throughput_tok_s" in names
    for figure in page.figures:
        assert "<svg" in svg(figure)


def test_curves_are_the_slice_through_the_best_point(stored: Path) -> None:
    """A response's dots are the candidates that share the best one's other values, with their intervals."""
    rows = rows_of(stored / "summary.csv")
    best = next(row for row in rows if row["best"] == "True")
    mine = [
        row for row in rows if row["engine.kv_blocks"] == best["engine.kv_blocks"] and row["ttft_p99"] != ""
    ]
    (figure,) = [f for f in made(stored).figures if f.name == "response-machine.peer_gib-ttft_p99"]
    table = figure.data["rows"]
    drawn = list(zip(table["system"], table["x"], table["value"], table["high"], strict=True))
    wanted = [
        (r["system"], float(r["machine.peer_gib"]), float(r["ttft_p99"]), float(r["ttft_p99.high"]))
        for r in mine
    ]
    for one, other in zip(drawn, wanted, strict=True):
        assert one[:2] == other[:2]
        assert one[2:] == pytest.approx(other[2:], rel=1e-4)
    assert f"engine.kv_blocks = {float(best['engine.kv_blocks']):,.4g}" in figure.text


@pytest.mark.parametrize("text", [LIST, SEARCH], ids=["list", "search"])
def test_other_shapes_have_pages(text: str, tmp_path: Path) -> None:
    """Lists of strings with markup in them and searches: a page, all text shown, no figure that needs a grid."""
    folder = ran(tmp_path, text)
    page = made(folder)
    html = page.html().split('id="figures"')[0]
    assert "<img" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert not any(figure.name.startswith("heat") for figure in page.figures)
    assert page.figures
    for figure in page.figures:
        assert "<svg" in svg(figure)


def test_the_command_takes_the_folder_or_its_file(stored: Path, command: Command, tmp_path: Path) -> None:
    """`report DIR` and `report DIR/sweep.json` write the same page."""
    for number, path in enumerate((stored, stored / "sweep.json")):
        code, said, error = command("report", path, "--out", tmp_path / f"{number}.html")
        assert (code, error) == (0, "")
        assert said.strip() == str(tmp_path / f"{number}.html")
    assert (tmp_path / "0.html").read_bytes() == (tmp_path / "1.html").read_bytes()


def without(name: str) -> Callable[[Path], None]:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def text(name: str, words: str) -> Callable[[Path], None]:
    """Replace a file."""

    def write(folder: Path) -> None:
        (folder / name).write_text(words)

    return write


def about(**changes: Any) -> Callable[[Path], None]:
    """Change what a sweep says of itself."""

    def write(folder: Path) -> None:
        value = json.loads((folder / "sweep.json").read_text()) | changes
        (folder / "sweep.json").write_text(json.dumps(value))

    return write


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (without("summary.csv"), "no summary.csv; run aquasim sweep once more"),
        (without("points.csv"), "no points.csv"),
        (text("sweep.json", "{"), "damaged"),
        (text("sweep.json", "[]"), "not as aquasim wrote it"),
        (text("summary.csv", "a,b\n1\n"), "not as long as its head"),
        (text("summary.csv", "a,b\n1,2\n"), "not as aquasim wrote it"),
        (text("summary.csv", ""), None),
        (about(keys=["nothing"]), "not as aquasim wrote it"),
        (about(objectives=3), "not as aquasim wrote it"),
        (about(confidence=None), "not as aquasim wrote it"),
    ],
)
def test_damage_is_one_line(
    harm: Callable[[Path], None], words: str | None, stored: Path, command: Command, tmp_path: Path
) -> None:
    """A stopped or damaged sweep is one line that names the folder; an empty one is a page."""
    shutil.copytree(stored, tmp_path / "s")
    harm(tmp_path / "s")
    code, _, error = command("report", tmp_path / "s", "--out", tmp_path / "page.html")
    if words is None:
        assert (code, error) == (0, "")
        return
    assert code == 2
    assert words in error
    assert str(tmp_path / "s") in error
    assert error.count("\n") == 1
