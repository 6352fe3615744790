"""Pages of validations: simulated beside measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aquasim.figures.errors import errors_figure
from aquasim.report.page import Cell, Page, Part, Points, Section, Table, Text

UNITS = {"throughput_tok_s": "tok/s", "paged_bytes": "GB paged", "preemptions": "preemptions"}
MOST = 400
"""Rows of a table of runs; the rest is summed up by group."""


def hardware_page(document: dict[str, Any]) -> Page:
    """Return the page of `validate SCENARIO --on hardware`."""
    figures = document["figures"]
    missed, judged = document["missed"], sum(figure["ok"] is not None for figure in figures)
    says = f"{judged - missed} of {judged} figures that are judged are within what is allowed; " + (
        "every decision was replayed and is equal." if document["replay_equal"] else "the replay DIFFERS."
    )
    rows = [
        {"system": f["system"], "metric": _name(f["name"]), "error": f["error"]}
        for f in figures
        if f["error"] is not None
    ]
    parts: list[Part] = [Text(says, strong=True), _figures_table(figures)]
    if rows:
        parts.append(
            errors_figure("How far simulated figures are from measured ones", rows, "A dot per figure.")
        )
    title = f"{document['scenario']}: simulated beside measured on this machine"
    sections = [Section("Simulated beside measured", parts), Section("How it was measured", _runs(document))]
    return Page(title, sections, f"Measured on {_machine(document)}, {document['date']}.")


def _name(name: str) -> str:
    return UNITS.get(name, name.replace("_", " "))


def _machine(document: dict[str, Any]) -> str:
    machine = document.get("machine")
    if isinstance(machine, dict):
        return ", ".join(f"{key} {value}" for key, value in machine.items() if isinstance(value, str | int))
    return str(machine)


def _figures_table(figures: Sequence[dict[str, Any]]) -> Table:
    marks = {True: ("within", "better"), False: ("missed", "worse"), None: ("not judged", "")}
    rows = []
    for figure in figures:
        word, tone = marks[figure["ok"]]
        scale = 1e-9 if figure["name"] == "paged_bytes" else 1.0
        allowed = "" if figure["allowed"] is None else f"allowed {figure['allowed']:.0%}"
        rows.append([
            Cell(figure["system"]), Cell(_name(figure["name"])),
            Cell(_number(figure["measured"] * scale), f"±{figure['spread']:.0%}"),
            Cell(_number(figure["simulated"] * scale)), Cell(_percent(figure["error"]), allowed),
            Cell(_percent(figure["predicted_error"])), Cell("", word, tone),
        ])  # fmt: skip
    head = ("system", "figure", "measured", "simulated", "error", "by the profile alone", "verdict")
    caption = "Times in seconds. Measured: the median of the runs, ± half their range."
    return Table(head, rows, caption)


def _runs(document: dict[str, Any]) -> list[Part]:
    points = []
    for system, runs in document["runs"].items():
        for number, run in enumerate(runs):
            points.append(
                f"{system}, run {number + 1}: the core ran {1 / run['slowdown']:.2f} times as fast as at calibration "
                f"and waited {run['waited_s']:.1f} s; {run['replay'].get('events', 0):,} events replayed"
            )
            points += [f"{system}, run {number + 1}: {note}" for note in run["notes"]]
    return [Points(points)]


def replays_page(document: dict[str, Any]) -> Page:
    """Return the page of `validate DATASET... --json`."""
    errors, sums = document["errors"], document["sums"]
    datasets = ", ".join(dict.fromkeys(str(error["dataset"]) for error in errors)) or "no dataset"
    parts: list[Part] = [_sums_table(sums)]
    known = [e for e in errors if e["error"] is not None and np.isfinite(e["error"])]
    rows = [
        {"system": e["group"], "metric": f"{e['metric']} {e['statistic']}", "error": e["error"]}
        for e in known
    ]
    if rows:
        parts.append(errors_figure("How far each replayed run is off", rows, "A dot per part of a run."))
    sections = [Section("Errors in sum", parts), Section("Run by run", _replayed(errors))]
    if document["skipped"]:
        skipped = [f"{s['dataset']}, {s['run']}: {s['reason']}" for s in document["skipped"]]
        sections.append(Section("What was left out, and why", [Points(skipped)]))
    title = "Simulated against measured serving runs"
    return Page(title, sections, f"{len(errors):,} statistics of {datasets}.")


def _sums_table(sums: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [
            Cell(f"{s['metric'].upper()} {s['statistic']}"), Cell(f"{s['parts']:,}"), Cell(_percent(s["signed"])),
            Cell(f"{s['median']:.1%}"), Cell(f"{s['p90']:.1%}"), Cell(f"{s['floor']:.0%}"),
        ]
        for s in sums
    ]  # fmt: skip
    head = ("statistic", "parts", "median, signed", "median", "90 % within", "floor")
    return Table(head, rows, "Floor: how far repeated identical runs differ from each other.")


def _replayed(errors: Sequence[dict[str, Any]]) -> list[Part]:
    shown = errors[:MOST]
    rows = [
        [
            Cell(f"{e['run']} {e['part']}".strip()), Cell(f"{e['metric'].upper()} {e['statistic']}"),
            Cell(_number(e["measured"])), Cell(_number(e["simulated"])), Cell(_percent(e["error"])),
        ]
        for e in shown
    ]  # fmt: skip
    table = Table(("run", "statistic", "measured", "simulated", "error"), rows)
    if len(shown) < len(errors):
        text = (
            f"The first {MOST:,} of {len(errors):,} statistics; the table of sums and the figure are of all."
        )
        return [Text(text), table]
    return [table]


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:+.1%}"
