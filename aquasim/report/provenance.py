"""Where a run's numbers come from: its hardware profile, and what its links carried."""

import json
from collections.abc import Sequence
from typing import Any

from aquasim.records.run import Run
from aquasim.report.limits import profile_blocks
from aquasim.report.page import Cell, Details, Table

NUMBERS = ("milli_log2_ns", "knots", "axes")
"""What of a profile is too long to read."""


def profile_details(runs: Sequence[Run]) -> list[Details]:
    """Return each profile that was used, without its grids: sources, versions, residuals."""
    found = []
    for name in dict.fromkeys(str(run.meta["profile"]) for run in runs if run.meta.get("profile")):
        blocks = profile_blocks(name)
        if blocks:
            text = json.dumps(readable(blocks), indent=1, ensure_ascii=False)
            found.append(
                Details(f"Where the hardware profile {name} comes from: {blocks.get('title', '')}", text)
            )
    return found


def readable(block: Any) -> Any:
    """Return a profile's JSON with each grid as its size."""
    if not isinstance(block, dict):
        return block
    kept = {key: readable(value) for key, value in block.items() if key not in NUMBERS}
    if "milli_log2_ns" in block:
        kept["grid"] = " x ".join(
            f"{len(k)} {a}" for a, k in zip(block["axes"], block["knots"], strict=False)
        )
    return kept


def links_table(runs: Sequence[tuple[str, Run]]) -> Table | None:
    """Return what each link carried in each run, its speed while busy, and its share of capacity over the run."""
    rows = []
    for label, run in runs:
        for name, link in (run.meta.get("links") or {}).items():
            if link.get("bytes"):
                rows.append([Cell(name), Cell(label), *_link(link)])
    if not rows:
        return None
    head = (
        "link",
        "system",
        "carried, GB",
        "busy, s",
        "GB/s while busy",
        "capacity, GB/s",
        "share of capacity over the makespan",
    )
    return Table(head, rows)


def _link(link: dict[str, float]) -> list[Cell]:
    busy = link.get("busy_s") or 0.0
    speed = link["bytes"] / busy / 1e9 if busy else 0.0
    return [
        Cell(f"{link['bytes'] / 1e9:,.1f}"),
        Cell(f"{busy:,.2f}"),
        Cell(f"{speed:,.0f}"),
        Cell(f"{link.get('capacity', 0.0) / 1e9:,.0f}"),
        Cell(f"{link.get('share', 0.0):.2%}"),
    ]
