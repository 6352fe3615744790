"""`sweep`: many points of a scenario, stored as they come, and the best of them."""

import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquasim.cli.options import CsvOption, JsonOption, SetOption, SystemOption
from aquasim.cli.output import Form, emit, form_of
from aquasim.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from aquasim.sweep.results import Results
    from aquasim.sweep.run import Outcome

MOST_ROWS = 30
TABLES = ("summary", "points", "front", "failed")

WorkersOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Processes; the machine's cores, at most 8.")
]
RayOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Run on this Ray cluster: HOST:PORT, or auto.")
]


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sweep file, or one that ships, by name.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Store points here: sweeps/NAME if left out."),
    ] = None,
    system: SystemOption = None,
    set_: SetOption = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, metavar="N", help="Seeds per point.")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", metavar="'min METRIC'", help="What is sought; may be repeated."),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", metavar="'METRIC <= TERM'", help="What has to hold; may be repeated."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="Trials of a search.")] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run points that failed again.")
    ] = False,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME", help="Show this metric, too.")
    ] = None,
    table: Annotated[
        str, typer.Option(metavar="|".join(TABLES), help="Which table, with --csv or --json.")
    ] = "summary",
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Run a scenario at many points, several seeds each; stored as they come, resumed where it stopped."""
    from aquasim.scenario.changes import parse_change
    from aquasim.sweep.file import find_sweep
    from aquasim.sweep.plan import Overrides, load_sweep

    if table not in TABLES:
        raise UserError(f"--table {table}: valid are {', '.join(TABLES)}")
    form = form_of(json, csv)
    if form == "table" and table != "summary":
        raise UserError(f"--table {table}: is for --csv or --json; give one of them")
    path = find_sweep(file)
    changes = tuple(parse_change(each) for each in set_ or [])
    given = Overrides(
        tuple(system or ()), changes, seeds, tuple(objective or ()), tuple(constraint or ()), trials
    )
    plan = load_sweep(path, given)
    more = ("*",) if table == "points" and form != "table" else _metrics(plan, metric or [])
    folder = out or Path("sweeps") / (re.sub(r"[^A-Za-z0-9._-]|^\.+", "_", plan.name) or "_")
    outcome, seconds = _run(plan, folder, workers, ray, retry_failed, more)
    failed = 0 < len(outcome.results.points) == len(outcome.results.failures)
    if form != "table" or not failed:
        _print(outcome, folder, seconds, table, form)
    if failed:
        raise UserError(f"{path}: {_failures(outcome.results)}")


def _metrics(plan: Any, names: list[str]) -> tuple[str, ...]:
    from aquasim.sweep.check import metric_names
    from aquasim.sweep.terms import Metrics

    known = Metrics(metric_names(plan.base.scenario), ())
    return tuple(known.name(name, "--metric").metric for name in names)


def _run(
    plan: Any, folder: Path, workers: int | None, ray: str | None, retry: bool, metrics: tuple[str, ...]
) -> "tuple[Outcome, float]":
    from aquasim.cli.sweep_tables import Ticker
    from aquasim.sweep.run import backend, run_sweep, write_tables

    started = time.monotonic()
    with Ticker("sweep") as ticker:
        outcome = run_sweep(plan, folder, partial(backend, workers, ray), ticker, retry, metrics)
    if metrics != ("*",):
        write_tables(outcome.results, folder)
    for note in outcome.notes[:10]:
        print(f"note: {note}", file=sys.stderr)
    return outcome, time.monotonic() - started


def _print(outcome: "Outcome", folder: Path, seconds: float, table: str, form: Form) -> None:
    from aquasim.cli.sweep_tables import records

    emit(
        form,
        lambda: _document(outcome, folder, seconds, table),
        lambda: records(_table(outcome.results, table)),
        lambda: _print_table(outcome, folder, seconds),
        lambda: _table(outcome.results, table).columns,
    )


def _document(outcome: "Outcome", folder: Path, seconds: float, table: str) -> dict[str, Any]:
    from aquasim.cli.sweep_tables import records

    results = outcome.results
    best, nearest = results.best, results.nearest
    return {
        "sweep": results.sweep.name,
        "scenario": results.sweep.base.name,
        "folder": str(folder),
        "points": len(results.points),
        "simulated": outcome.ran,
        "stored": outcome.found,
        "failed": len(results.failures),
        "cpu_s": round(outcome.cpu_s, 3),
        "seconds": round(seconds, 3),
        "objectives": [each.text for each in results.sweep.objectives],
        "constraints": [each.text for each in results.sweep.constraints],
        "confidence": results.sweep.file.confidence,
        "best": None if best is None else records(best.to_frame().T)[0],
        "nearest": None if nearest is None else records(nearest.to_frame().T)[0],
        table: records(_table(results, table)),
    }


def _table(results: "Results", name: str) -> "pd.DataFrame":
    from aquasim.sweep.counts import with_counts

    summary = results.summary
    if name == "points":
        return with_counts(results.points)
    return {"summary": summary, "front": summary[summary["front"]], "failed": results.failures}[name]


def _print_table(outcome: "Outcome", folder: Path, seconds: float) -> None:
    from rich.console import Console

    from aquasim.cli.sweep_tables import counted, grid, half_width, number, short, wrapped
    from aquasim.cli.text import shown

    results, console = outcome.results, Console()
    sweep, table = results.sweep, _ordered(results)
    console.print(
        f"[bold]{shown(sweep.file.question or sweep.base.scenario.question)}[/bold]", highlight=False
    )
    heads = ["", "system", *map(wrapped, short(sweep.keys)), "n", *map(wrapped, results.shown)]
    rows, different = [], table.drop_duplicates(["system", *results.shown, "n", "failed"])
    for row in different.head(MOST_ROWS).to_dict("records"):
        mark = "[bold green]*[/bold green]" if row["best"] else "+" if row["front"] else " "
        cells = [half_width(row[m], row[f"{m}.high"]) for m in results.shown]
        rows.append(
            [mark, shown(row["system"]), *(number(row[k]) for k in sweep.keys), str(row["n"]), *cells]
        )
    console.print(grid(heads, rows, 2), highlight=False)
    for line in _remarks(results, len(table), len(different)):
        console.print(line, highlight=False)
    rate = f" in {seconds:.1f} s ({outcome.ran / seconds:.3g}/s)" if outcome.ran else ""
    were = "was" if outcome.found == 1 else "were"
    stored = f", {outcome.found:,} {were} stored" if outcome.found else ""
    console.print(
        f"[dim]{counted(outcome.ran, 'point')} simulated{rate}{stored}; in {shown(str(folder))}[/dim]",
        highlight=False,
    )


def _ordered(results: "Results") -> "pd.DataFrame":
    """Put the best first where something is sought: the front, what meets, what misses least."""
    table = results.summary
    if not results.sweep.objectives:
        return table
    first = results.sweep.objectives[0]
    cost = table[first.name.metric] * (1 if first.direction == "min" else -1)
    keyed = table.assign(_unmet=~table["met"], _other=~table["front"], _cost=cost)
    order = ["best", "_unmet", "_other", "miss", "_cost"]
    return keyed.sort_values(order, ascending=[False, True, True, True, True], kind="stable").drop(
        columns=order[1:3]
    )


def _remarks(results: "Results", count: int, different: int) -> list[str]:
    from aquasim.cli.sweep_tables import counted
    from aquasim.cli.text import shown

    sweep, found = results.sweep, []
    if different > MOST_ROWS:
        found.append(f"[dim]and {different - MOST_ROWS:,} more: --csv lists all[/dim]")
    if different < count:
        left = counted(count - different, "row is", "rows are")
        found.append(f"[dim]{left} left out, equal to another of the same system[/dim]")
    if sweep.objectives:
        found.append(f"[dim]{_legend(results)}[/dim]")
    if len(sweep.seeds) > 1:
        percent = f"{sweep.file.confidence:.0%}"
        found.append(f"[dim]±: {percent} interval of the mean over n seeds (Student's t)[/dim]")
    if sweep.constraints and (near := results.nearest) is not None:
        found.append(
            f"[yellow]nothing meets {shown(_sought(results))}; nearest: {_who(results, near)}[/yellow]"
        )
    elif sweep.constraints and not results.summary["met"].any():
        found.append(f"[yellow]nothing meets {shown(_sought(results))}[/yellow]")
    if len(results.failures):
        found.append(f"[yellow]{shown(_failures(results))}[/yellow]")
    return found


def _failures(results: "Results") -> str:
    """Say how many points failed, which was the first, by what varies, and why."""
    from aquasim.cli.sweep_tables import clean, counted
    from aquasim.cli.text import visible
    from aquasim.sweep.check import describe

    first = results.failures.iloc[0]
    values = {key: clean(first[key]) for key in results.sweep.keys}
    where = describe((key, value) for key, value in values.items() if value is not None)
    count = counted(len(results.failures), "point")
    every = "all " if 1 < len(results.failures) == len(results.points) else ""
    who = f"{first['system']} at {where}, seed {first['seed']}"
    return visible(f"{every}{count} failed; the first: {who}: {first['error']}")


def _sought(results: "Results") -> str:
    return " and ".join(each.text for each in results.sweep.constraints)


def _legend(results: "Results") -> str:
    from aquasim.cli.text import shown

    objectives = results.sweep.objectives
    given = f", where {_sought(results)}" if results.sweep.constraints else ""
    front = "; +: no other is better in everything" if len(objectives) > 1 else ""
    return shown(f"*: {objectives[0].text}{given}{front}")


def _who(results: "Results", row: Any) -> str:
    """Say which candidate, and how far it is from the constraints."""
    from aquasim.cli.sweep_tables import number
    from aquasim.cli.text import shown

    where = ", ".join(f"{key}={number(row[key])}" for key in results.sweep.keys)
    figures = ", ".join(f"{metric} {number(row[metric])}" for metric in results.shown)
    return f"{shown(row['system'])} at {shown(where)} ({figures}; {results.off} off)"
