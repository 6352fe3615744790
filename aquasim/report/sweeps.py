"""A page of a sweep: what was asked, the best points, what each key does, what failed."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.figures.sweeps import Found, Row, heat_figures, pareto_figure, response_figures, text
from aquasim.figures.theme import Figure
from aquasim.report.page import Cell, Details, Page, Part, Points, Section, Table, Text
from aquasim.sweep.run import ABOUT, POINTS, SUMMARY

BEST, FAILED = 12, 50
"""Rows of the tables of the best points and of those that failed."""
RESPONSES = 2
"""Metrics whose answer to each key is drawn."""
FLAGS = ("met", "front", "best")
LARGEST = 256 * 2**20


def is_sweep(path: Path) -> bool:
    """Say whether a folder is where a sweep was stored."""
    return (path / ABOUT).is_file() and (path / "store.json").is_file()


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return what a sweep left in its folder: `about`, and the rows of `summary` and `points`.

    Raises:
        UserError: its tables are not there (it was stopped), or are damaged.
    """
    for name in (SUMMARY, POINTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: no {name}; run aquasim sweep once more, to its end, with the same --out"
            )
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return {"about": about, "summary": _rows(folder / SUMMARY), "points": _rows(folder / POINTS)}
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{folder}: damaged: {str(error).splitlines()[0]}") from None


def _rows(path: Path) -> list[dict[str, str]]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST >> 20} MiB")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path.name}: a row is not as long as its head")
    return rows


def sweep_page(value: dict[str, Any]) -> Page:
    """Return the page of a sweep as `read_sweep` gives it."""
    about, found = value["about"], found_of(value)
    title = str(about["question"] or f"Sweep {about['name']}")
    sections = [
        Section("What was asked", _asked(about, found)),
        Section("The best points" if about["objectives"] else "The points", _best(about, found)),
        Section("What each key does", _responses(found)),
        Section("Two keys at once", _heats(found)),
        Section("One objective against another", _pareto(about, found)),
        Section("Points that failed", _failed(value["points"], found)),
        Section("What this sweep cannot tell", [Points(list(_limits(about, found)))]),
        Section("Where the numbers come from", [
            Details("The sweep as it ran", json.dumps(about, indent=1, ensure_ascii=False)),
        ]),
    ]  # fmt: skip
    from aquasim import __version__

    foot = f"Made by aquasim {__version__}. This file holds all it shows; it loads nothing."
    return Page(title, [section for section in sections if section.parts], _lead(about, found), foot)


def found_of(value: dict[str, Any]) -> Found:
    """Return the candidates with numbers where their columns hold some."""
    about, rows = value["about"], value["summary"]
    heads = list(rows[0]) if rows else []
    metrics = [name for name in heads if f"{name}.low" in heads]
    keys = [str(key) for key in about["keys"]]
    numeric = {key for key in keys if all(_number(row[key]) is not None for row in rows)}
    parsed = []
    for row in rows:
        made: dict[str, Any] = {"system": row["system"], "n": int(row["n"]), "failed": int(row["failed"])}
        made |= {key: _number(row[key]) if key in numeric else row[key] for key in keys}
        made |= {f"{m}{end}": _number(row[f"{m}{end}"]) for m in metrics for end in ("", ".low", ".high")}
        made |= {flag: row[flag] == "True" for flag in FLAGS}
        parsed.append(made)
    systems = [str(name) for name in about["systems"]]
    return Found(keys, systems, metrics, parsed, float(about["confidence"]))


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if value - value == 0 else None  # neither infinite nor undefined


# --- in words ----------------------------------------------------------------------------------------------


def _lead(about: dict[str, Any], found: Found) -> str:
    seeds = len(about["seeds"])
    each = f"{seeds} seeds each" if seeds > 1 else "one seed"
    return (
        f"Simulated: {len(found.rows):,} candidates (a system at one choice of values), {each}; "
        f"scenario {about['scenario']}."
    )


def _asked(about: dict[str, Any], found: Found) -> list[Part]:
    points = [f"{key}: {_values(found.values(key))}" for key in found.keys]
    points.append(f"Systems: {', '.join(found.systems)}")
    points.append(f"Seeds: {', '.join(map(str, about['seeds']))}")
    points.append(f"Sought: {'; '.join(about['objectives']) or 'nothing in particular'}")
    if about["constraints"]:
        points.append(f"Has to hold: {'; '.join(about['constraints'])}")
    points += [f"Fixed: {key} = {value}" for key, value in about["fixed"].items()]
    return [Text(_answer(about, found), strong=True), Points(points)]


def _values(values: list[Any]) -> str:
    if len(values) <= BEST:
        return ", ".join(map(text, values))
    if all(isinstance(value, float) for value in values):
        return f"{len(values)} values from {text(values[0])} to {text(values[-1])}"
    return f"{len(values)} values, {', '.join(map(text, values[:3]))} and others"


def _answer(about: dict[str, Any], found: Found) -> str:
    best = next((row for row in found.rows if row["best"]), None)
    if not about["objectives"]:
        return "Nothing was sought: the figures show what each key does."
    if best is None:
        return "No candidate meets the constraints with every seed."
    metric = found.metrics[0]
    where = ", ".join(f"{key} = {text(best[key])}" for key in found.keys)
    met = sum(row["met"] for row in found.rows)
    return (
        f"Best by {about['objectives'][0]}: {best['system']} at {where}, with {metric} {_figure(best, metric)}. "
        f"{met:,} of {len(found.rows):,} candidates meet everything that has to hold."
    )


def _figure(row: Row, metric: str) -> str:
    low, high = row[f"{metric}.low"], row[f"{metric}.high"]
    return text(row[metric]) + ("" if low is None else f" ({text(low)} to {text(high)})")


def _limits(about: dict[str, Any], found: Found) -> Iterator[str]:
    yield "These figures are simulated, and only at the values tried: nothing is said of what lies between or beyond."
    if len(about["seeds"]) == 1:
        yield "One seed: other arrivals and lengths of the same kind give other tails, and another best point."
    else:
        yield (
            f"Intervals are Student's t at {found.confidence:.0%} over {len(about['seeds'])} seeds, of each mean by "
            "itself: the best of many is, in part, the luckiest."
        )
    yield "Response curves go through one point; elsewhere a key may do something else."


# --- tables ------------------------------------------------------------------------------------------------


def _best(about: dict[str, Any], found: Found) -> list[Part]:
    ranked = _ranked(about, found)
    different = {(row["system"], row["n"], *(row[m] for m in found.metrics)): row for row in ranked[::-1]}
    rows = list(different.values())[::-1]
    shown = rows[:BEST]
    head = ("system", *found.keys, "seeds", *found.metrics, "meets")
    table = Table(head, [_row(found, row) for row in shown], _caption(rows, len(ranked)), list(found.systems))
    return [table] if shown else [Text("No point has run.")]


def _caption(rows: Sequence[Row], count: int) -> str:
    same = f" Of candidates with equal figures one is shown: {len(rows):,} of {count:,} differ."
    more = f" {len(rows) - BEST:,} more are in summary.csv." if len(rows) > BEST else ""
    order = "Best first, then the Pareto front, then what meets the constraints."
    return f"{order}{same if len(rows) < count else ''}{more}"


def _ranked(about: dict[str, Any], found: Found) -> list[Row]:
    """Put the best first, then the front, then what meets everything, each by the first objective."""
    if not about["objectives"] or not found.metrics:
        return list(found.rows)
    metric = found.metrics[0]
    sign = -1 if about["objectives"][0].startswith("max") else 1

    def rank(row: Row) -> tuple[bool, bool, bool, float]:
        value = row[metric]
        cost = float("inf") if value is None else sign * value
        return not row["best"], not row["front"], not row["met"], cost

    return sorted(found.rows, key=rank)


def _row(found: Found, row: Row) -> list[Cell]:
    note = "best" if row["best"] else "on the front" if row["front"] else ""
    cells = [Cell(row["system"], note), *(Cell(text(row[key])) for key in found.keys), Cell(str(row["n"]))]
    for metric in found.metrics:
        low, high = row[f"{metric}.low"], row[f"{metric}.high"]
        interval = "" if low is None else f"{text(low)} to {text(high)}"
        cells.append(Cell(text(row[metric]), interval, best=row["best"] and metric in found.metrics[:1]))
    return [*cells, Cell("yes" if row["met"] else "no", f"{row['failed']} failed" if row["failed"] else "")]


def _failed(points: Sequence[dict[str, str]], found: Found) -> list[Part]:
    failed = [row for row in points if row["status"] == "failed"]
    if not failed:
        return [Text("None: every point ran.")]
    rows = [
        [
            Cell(row["system"]),
            *(Cell(text(row[key])) for key in found.keys),
            Cell(row["seed"]),
            Cell(row["error"]),
        ]
        for row in failed[:FAILED]
    ]
    more = f" {len(failed) - FAILED:,} more are in points.csv." if len(failed) > FAILED else ""
    words = f"{len(failed):,} of {len(points):,} points failed; a candidate with one of them is on no front.{more}"
    return [Table(("system", *found.keys, "seed", "error"), rows, words, list(found.systems), prose=True)]


# --- figures -----------------------------------------------------------------------------------------------


def _responses(found: Found) -> list[Part]:
    return list(response_figures(found, found.metrics[:RESPONSES]))


def _heats(found: Found) -> list[Part]:
    metrics = found.metrics[:RESPONSES]
    return [figure for metric in metrics for figure in heat_figures(found, metric)]


def _pareto(about: dict[str, Any], found: Found) -> list[Part]:
    metrics = found.metrics
    figure: Figure | None = pareto_figure(found, metrics[0], metrics[1]) if len(metrics) > 1 else None
    return [figure] if figure is not None and about["objectives"] else []
