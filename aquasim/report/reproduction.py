"""Pages of papers run again: claims beside what was simulated."""

from collections.abc import Sequence
from typing import Any

from aquasim.figures.claims import claim_figure
from aquasim.report.page import Cell, Page, Part, Points, Section, Table, Text


def reproduction_page(document: dict[str, Any]) -> Page:
    """Return the page of `reproduce PAPER --out`."""
    claims = document["claims"]
    sections = [Section("Claim by claim", [_overview(claims)]), *(_claim(claim) for claim in claims)]
    lead = f"{document['command']}, aquasim {document.get('version', '')}, {document.get('date', '')}."
    return Page(str(document["title"]), sections, lead)


def _overview(claims: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for claim in claims:
        first = claim["simulated"][:1]
        value = _range(first[0]) if first else "-"
        rows.append(
            [
                Cell(claim["title"], claim["range"]),
                Cell(claim["paper"]),
                Cell(value, first[0]["system"] if first else ""),
            ]
        )
    return Table(("claim", "the paper", "simulated: median (range)"), rows, prose=True)


def _range(row: dict[str, Any]) -> str:
    low, mid, high = (f"{row[name]:.3g}{row['unit']}" for name in ("low", "mid", "high"))
    return mid if low == high else f"{mid} ({low} to {high})"


def _claim(claim: dict[str, Any]) -> Section:
    rows = [[Cell(row["system"]), Cell(_range(row))] for row in claim["simulated"]]
    parts: list[Part] = [Text(f"The paper: {claim['paper']}. Range: {claim['range']}.")]
    parts += [Text(claim["why"])] if claim["why"] else []
    factors = [row for row in claim["simulated"] if row["unit"] == "x" and row["low"] > 0]
    if factors:
        parts.append(claim_figure(claim["key"], factors, claim["paper_value"]))
    parts.append(Table(("system", "median (range)"), rows))
    parts += [Points([f"{note}." for note in claim["notes"]])] if claim["notes"] else []
    return Section(claim["title"], parts)
