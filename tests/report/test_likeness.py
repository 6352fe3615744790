"""Runs of several scenarios on one page: said to be so, and not compared."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import aquasim
from aquasim.figures.series import Systems
from aquasim.records.run import Run
from aquasim.records.store import save
from aquasim.report.likeness import differences, in_words, tables
from aquasim.report.page import Page, Points, Table, Text
from aquasim.report.runs import runs_page
from aquasim.scenario import Scenario, load_scenario, scenario_names

Command = Callable[..., tuple[int, str, str]]
FEW = "workload.requests=20"


def small(system: str, *changes: str) -> Run:
    """Simulate a few requests."""
    return aquasim.simulate("small-h100", system, changes=[FEW, *changes])


def cells(page: Page) -> list[Any]:
    """Return every cell of the table of figures."""
    table = next(part for section in page.sections for part in section.parts if isinstance(part, Table))
    return [cell for row in table.rows for cell in row]


def test_unlike_runs_are_not_compared(burst: Systems) -> None:
    """Model, machine and workload differ: it is said first, with values; no ratio, no baseline, no best figure."""
    page = runs_page([("small", small("aqua")), burst[1]])
    warning = page.sections[0]
    assert warning.title == "These runs are not of one experiment"
    (text, points) = warning.parts
    assert isinstance(text, Text)
    assert "differ in model, machine, workload and engine" in text.text
    assert isinstance(points, Points)
    assert "model.name: Llama-3.1-8B (small); Llama-3.1-70B (aqua)" in points.points
    assert not any(cell.best or cell.note or cell.tone for cell in cells(page))
    assert "Llama" not in page.lead
    assert page.lead == "Simulated: 2 runs that differ in model, machine, workload and engine."
    assert "times" not in "".join(cell.note for cell in cells(page))


def test_one_changed_key_is_enough() -> None:
    """A value set for one of the runs is named; a few keys are listed, the rest are counted."""
    runs = [("a", small("fcfs")), ("b", small("aqua", "machine.peer_gib=5"))]
    found = differences(runs)
    assert found == {"machine.peer_gib": ["20.0 (a)", "5.0 (b)"]}
    assert tables(found) == "machine"
    many = {f"engine.{n}": ["1 (a)", "2 (b)"] for n in range(11)}
    assert in_words(many)[-1] == "and 3 more: engine.8, engine.9, engine.10"


def test_systems_and_seeds_are_compared(burst: Systems) -> None:
    """Systems, seeds and words of one scenario make no other experiment: ratios and best marks are there."""
    runs = [("a", small("fcfs")), ("b", small("aqua", "seed=7", "systems.aqua.options.slice_length=9"))]
    for like in (runs, burst):
        page = runs_page(like)
        assert page.sections[0].title == "The figures"
        assert any(cell.best for cell in cells(page))
        assert any(cell.tone for cell in cells(page))


@pytest.mark.parametrize("name", [n for n in scenario_names() if not isinstance(load_scenario(n), Scenario)])
def test_systems_with_tenants_are_like(name: str) -> None:
    """What a scenario's systems change of its tenants makes no other experiment."""
    scenario = load_scenario(name)
    assert not isinstance(scenario, Scenario)
    metas = [
        {"scenario": scenario.under(s).model_dump(mode="json", exclude_none=True)} for s in scenario.systems
    ]
    for one, other in pairwise(metas):
        pair: Any = [("a", SimpleNamespace(meta=one)), ("b", SimpleNamespace(meta=other))]
        assert differences(pair) == {}


def test_runs_two_folders_deep_are_taken(command: Command, folders: Path, tmp_path: Path) -> None:
    """A folder of runs and of folders of runs: all are there, and it is said; an empty name is refused."""
    save(small("fcfs"), tmp_path / "runs" / "aqua")
    shutil.copytree(folders, tmp_path / "runs" / "burst")
    code, _, error = command("report", tmp_path / "runs", "-o", tmp_path / "page.html")
    assert (code, error) == (0, "note: 3 runs found, 2 of them two folders deep\n")
    assert "3 runs side by side" in (tmp_path / "page.html").read_text()
    code, out, error = command("report", "", "-o", tmp_path / "other.html")
    assert (code, out, error) == (2, "", "aquasim: RUN '': a folder's or a file's name is needed\n")
