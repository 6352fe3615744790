"""Pages of hardware profiles: what was measured, what was fitted, how far off."""

import json
from collections.abc import Iterator
from typing import Any

from aquasim.report.page import Cell, Details, Page, Section, Table
from aquasim.report.provenance import readable


def calibration_page(profile: dict[str, Any]) -> Page:
    """Return the page of a profile as `calibrate` writes it."""
    rows = [[Cell(name), *_residual(row)] for name, row in _residuals(profile)]
    head = ("fitted", "samples", "held out", "median off", "90 % within")
    caption = "Relative errors on samples that the fit has not seen."
    links = [_link(name, link) for name, link in profile["links"].items()]
    sections = [
        Section("How far the fit is off", [Table(head, rows, caption)]),
        Section("Links", [Table(("link", "GB/s", "peak GB/s", "share of peak", "starts in, µs"), links)]),
        Section("Where the numbers come from", [
            Details("The profile, its grids as sizes", json.dumps(readable(profile), indent=1, ensure_ascii=False)),
        ]),
    ]  # fmt: skip
    memory = profile["memory"]["bytes"] / 2**30
    return Page(
        f"Hardware profile {profile.get('name', '')}: {profile['title']}",
        sections,
        f"{memory:,.1f} GiB of memory.",
    )


def _residuals(block: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(block, dict):
        return
    if isinstance(block.get("residual"), dict):
        yield path, block["residual"]
    for key, value in block.items():
        if key != "residual":
            yield from _residuals(value, f"{path} {key}".strip())


def _residual(row: dict[str, Any]) -> list[Cell]:
    counts = row.get("rows_fitted", row.get("rows", 0)), row.get("rows_held_out", 0)
    errors = (row.get("median"), row.get("p90"))
    return [
        *(Cell(f"{count:,}") for count in counts),
        *(Cell("-" if error is None else f"{error:.1%}") for error in errors),
    ]


def _link(name: str, link: dict[str, Any]) -> list[Cell]:
    speed, peak = link.get("bytes_per_s") or 0.0, link.get("peak_bytes_per_s")
    return [
        Cell(name, str(link.get("source", ""))),
        Cell(f"{speed / 1e9:,.1f}"),
        Cell("-" if not peak else f"{peak / 1e9:,.1f}"),
        Cell("-" if not peak else f"{speed / peak:.0%}"),
        Cell(f"{(link.get('start_s') or 0.0) * 1e6:,.1f}"),
    ]
