"""Pages of validations: simulated beside measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aquasim.figures.agreement import agreement_figure
from aquasim.figures.errors import errors_figure
from aquasim.report.page import Cell, Page, Part, Points, Section, Table, Text

UNITS = {"throughput_tok_s": "tok/s", "paged_bytes": "GB paged", "preemptions": "preemptions"}
MOST = 200
"""Rows of a table of runs."""


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
    known = [e for e in errors if e["error"] is not None and np.isfinite(e["error"])]
    sections = [
        Section("Errors in sum", [_sums_table(sums), *_drawn(known)]),
        Section("Run by run", _replayed(known)),
    ]
    if document["skipped"]:
        skipped = [f"{s['dataset']}, {s['run']}: {s['reason']}" for s in document["skipped"]]
        sections.append(Section("What was left out, and why", [Points(skipped)]))
    title = "Simulated against measured serving runs"
    made = (
        f"; simulated by aquasim {document['version']}, {document['date']}" if "version" in document else ""
    )
    return Page(title, sections, f"{len(errors):,} statistics of {datasets}{made}.")


def _drawn(errors: Sequence[dict[str, Any]]) -> list[Part]:
    """Return both figures of errors: how large each is, and over which span of times."""
    if not errors:
        return []
    rows = [
        {"system": e["group"], "metric": f"{e['metric'].upper()} {e['statistic']}", "error": e["error"]}
        for e in errors
    ]
    times = [
        {**e, "metric": e["metric"].upper(), "run": _run(e)} for e in errors if e["metric"] != "throughput"
    ]
    agreement = agreement_figure(times)
    off = errors_figure("How far each replayed run is off", rows, "A dot per part of a run.")
    return [off] if agreement is None else [off, agreement]


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
    """Return a row per part of a run: the error at the median (the mean, where only that was measured) and at p99."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for error in errors:
        found.setdefault(_run(error), {})[error["metric"], error["statistic"]] = error
    columns = list(dict.fromkeys(column for run in found.values() for column in run))
    shown = [(m, s) for m, s in columns if s in ("p50", "p99") or (m, "p50") not in columns]
    names = list(found)[:MOST]
    rows = [[Cell(name), *(_off(found[name].get(column)) for column in shown)] for name in names]
    caption = "Below each error: measured and simulated, in seconds (throughput: tokens/s)."
    if len(names) < len(found):
        caption += f" The first {MOST:,} of {len(found):,} runs; sums and figures are of all."
    return [Table(("run", *(f"{metric.upper()} {of}" for metric, of in shown)), rows, caption)]


def _run(error: dict[str, Any]) -> str:
    return f"{error['run']} {error['part']}".strip()


def _off(error: dict[str, Any] | None) -> Cell:
    if error is None:
        return Cell("-")
    return Cell(_percent(error["error"]), f"{_number(error['measured'])} → {_number(error['simulated'])}")


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:+.1%}"
