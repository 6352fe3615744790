"""Findings as Markdown, JSON and figures in a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aquasim.records.atomic import new_file
from aquasim.reproduce.finding import Finding, Row

PROTOCOLS = ("faithful", "intended")


def markdown(title: str, findings: Sequence[Finding], about: dict[str, Any]) -> str:
    """Return a page: a table of claims, then each with all of its figures."""
    lines = [f"# {title}", "", _about(about), ""]
    lines += ["| claim | the paper | faithful | intended | over | why |", "|---|---|---|---|---|---|"]
    for finding in findings:
        lines.append(f"| {' | '.join(overview(finding))} |")
    for finding in findings:
        lines += ["", *_details(finding)]
    return "\n".join(lines) + "\n"


def overview(finding: Finding) -> list[str]:
    """Return the cells of a claim's row: the first figure under each protocol, else the first two figures."""
    faithful, intended = (_first(finding, protocol) for protocol in PROTOCOLS)
    if not faithful and not intended:
        intended = "; ".join(f"{row.label} {_value(row)}" for row in finding.rows[:2])
    return [finding.title, finding.says, faithful or "-", intended or "-", finding.over, finding.why]


def _first(finding: Finding, protocol: str) -> str:
    row = next((row for row in finding.rows if protocol in row.label), None)
    if row is None:
        return ""
    rest = ", ".join(part for part in row.label.split(", ") if part != protocol)
    return f"{rest.replace(protocol + ' ', '').replace(protocol, '').strip()} {_value(row)}".strip()


def _about(about: dict[str, Any]) -> str:
    return f"`{about['command']}`, aquasim {about['version']}, {about['date']}; {about['machine']}."


def _value(row: Row) -> str:
    return row.value.text(row.unit)


def _details(finding: Finding) -> list[str]:
    lines = [f"## {finding.title}", ""]
    lines += [
        f"The paper: {finding.says}. Scenarios: {', '.join(f'`{name}`' for name in finding.scenarios)}."
    ]
    lines += ["", f"| system | median (range over {finding.over}) |", "|---|---|"]
    lines += [f"| {row.label} | {_value(row)} |" for row in finding.rows]
    lines += [""] if finding.why or finding.notes else []
    lines += [finding.why] if finding.why else []
    lines += [f"{note}." for note in finding.notes]
    lines += [f"\n![{name}]({name}.png)" for name in finding.figures]
    return lines


def write(folder: Path, title: str, findings: Sequence[Finding], about: dict[str, Any]) -> list[Path]:
    """Write `report.md`, `report.json` and the figures; files of earlier reports of the same names are replaced.

    Returns:
        The files written.
    """
    from aquasim.reproduce.figures import claims_chart, save

    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "report.md": markdown(title, findings, about),
        "report.json": json.dumps(
            {"title": title, **about, "claims": [f.as_json() for f in findings]}, indent=1
        ),
    }
    written = []
    for name, text in pages.items():
        with new_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        written.append(folder / name)
    charts = {name: make for finding in findings for name, make in finding.figures.items()}
    if rows := _factors(findings):
        charts = {"claims": lambda: claims_chart(rows), **charts}
    for name, make in charts.items():
        with new_file(folder / f"{name}.png") as part:
            save(make(), part.with_suffix(".png"))
            part.with_suffix(".png").replace(part)
        written.append(folder / f"{name}.png")
    return written


def _factors(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return what the overview shows: factors of claims with a published number."""
    return [
        {"claim": finding.title, "system": row.label, **row.value._asdict(), "paper": finding.paper}
        for finding in findings
        if finding.paper is not None
        for row in finding.rows
        if row.unit == "x"
    ]
