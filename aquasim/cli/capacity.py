"""`capacity` and `size`: the highest rate, and the least memory, bandwidth and slices, that meet an SLO."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquasim.cli.options import CsvOption, JsonOption, ScenarioArg, SetOption, SystemOption
from aquasim.cli.output import Form, emit, form_of
from aquasim.cli.sweep import RayOption, WorkersOption
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.sweep.base import Base
    from aquasim.sweep.evaluate import Evaluator
    from aquasim.sweep.knobs import Size
    from aquasim.sweep.limits import Limit
    from aquasim.sweep.slo import Verdict
    from aquasim.sweep.terms import Constraint

SloOption = Annotated[
    list[str] | None,
    typer.Option("--slo", metavar="'METRIC <= X'", help="What has to hold; may be repeated."),
]
SeedsOption = Annotated[
    int, typer.Option(min=1, max=1_000_000, metavar="N", help="Seeds per value, the same for all values.")
]
ConfidenceOption = Annotated[
    float, typer.Option(min=0.5, max=0.9999, help="Of what is assured about other runs.")
]
StoreOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Store points here, and go on from there.")
]


def capacity(
    scenario: ScenarioArg,
    system: SystemOption = None,
    slo: SloOption = None,
    set_: SetOption = None,
    seeds: SeedsOption = 10,
    confidence: ConfidenceOption = 0.95,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Turn this scenario value instead of the arrivals' rate."),
    ] = None,
    low: Annotated[float | None, typer.Option(help="The least value tried.")] = None,
    high: Annotated[float | None, typer.Option(help="The greatest value tried.")] = None,
    precision: Annotated[float, typer.Option(min=0.001, max=0.5, help="As a share of the value.")] = 0.02,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: StoreOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Find the highest request rate at which systems meet an SLO, with its confidence."""
    from dataclasses import replace

    from aquasim.sweep.knobs import key_knob, rate_knob
    from aquasim.sweep.limits import Judge, lasting, parse_slo
    from aquasim.sweep.limits import capacity as find

    form = form_of(json, csv)
    base, systems, bounds = _setting(scenario, set_ or [], system or [], slo or [], parse_slo)
    knob = rate_knob(base) if key is None else key_knob(base, key)
    knob = replace(knob, scale=replace(knob.scale, precision=precision))
    with _evaluator(base, workers, ray, out, "capacity") as evaluator:
        judges = [
            Judge(base, each, knob, bounds, _seeds(base, seeds), confidence, evaluator) for each in systems
        ]
        limits = [lasting(judge, find(judge, low, high)) for judge in judges]
    rows = [_row("capacity", limit) for limit in limits]
    _print("capacity", rows, bounds, seeds, confidence, knob.about, form)


def size(
    scenario: ScenarioArg,
    system: SystemOption = None,
    slo: SloOption = None,
    set_: SetOption = None,
    seeds: SeedsOption = 10,
    confidence: ConfidenceOption = 0.95,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: StoreOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Find the least peer memory, link bandwidth and slice length that meet an SLO, each alone."""
    from aquasim.sweep.knobs import size_knobs
    from aquasim.sweep.limits import Judge, least, parse_slo

    form = form_of(json, csv)
    base, systems, bounds = _setting(scenario, set_ or [], system or [], slo or [], parse_slo)
    rows = []
    with _evaluator(base, workers, ray, out, "size") as evaluator:
        for each in systems:
            for found in size_knobs(base, each):
                if found.knob is None:
                    rows.append(_absent(each, found))
                    continue
                judge = Judge(base, each, found.knob, bounds, _seeds(base, seeds), confidence, evaluator)
                rows.append(_row(found.name, least(judge, found)))
    _print("size", rows, bounds, seeds, confidence, "", form)


def _setting(
    scenario: str, changes: list[str], systems: list[str], slo: list[str], parse: Any
) -> "tuple[Base, list[str], tuple[Constraint, ...]]":
    from aquasim.scenario.changes import parse_change
    from aquasim.sweep.base import Base

    base = Base.load(scenario, tuple(parse_change(each) for each in changes))
    for system in systems:
        if system not in base.systems:
            raise UserError(f"unknown system {system!r}; the scenario has: {', '.join(base.systems)}")
    return base, systems or list(base.systems), parse(base, slo)


def _seeds(base: "Base", count: int) -> tuple[int, ...]:
    return base.seeds(count)


@contextmanager
def _evaluator(
    base: "Base", workers: int | None, ray: str | None, out: Path | None, what: str
) -> "Iterator[Evaluator]":
    """Give what simulates points: into a store if there is a folder for it, else for this once."""
    from contextlib import ExitStack

    from aquasim.cli.sweep_tables import Ticker
    from aquasim.sweep.evaluate import Evaluator, Memory, Shelf
    from aquasim.sweep.run import backend, lazily
    from aquasim.sweep.store import Store

    with ExitStack() as stack:
        shelf: Shelf = stack.enter_context(Store(out)) if out is not None else Memory()
        ticker = stack.enter_context(Ticker(what))
        pool = stack.enter_context(lazily(partial(backend, workers, ray)))
        yield Evaluator(base.data, pool, shelf, ticker)


# --- what is said ------------------------------------------------------------------------------------------


def _row(name: str, limit: "Limit") -> dict[str, Any]:
    """Return one limit as a flat row, with what was assured in words."""
    from aquasim.sweep.words import assured

    boundary, knob = limit.boundary, limit.knob
    at, beyond = limit.at, limit.beyond
    said = at or beyond
    row: dict[str, Any] = {
        "system": limit.system,
        "what": name,
        "key": knob.key,
        "unit": knob.unit_of(boundary.value or 0).strip(),
        "now": knob.now,
        "value": boundary.value,
        "beyond": boundary.beyond,
        "seeds": said.n if said else 0,
        "passed": at.passed if at else None,
        "passed_beyond": beyond.passed if beyond else None,
        "share_at_least": at.share if at else None,
    }
    for metric, found in (said.means if said else {}).items():
        row |= {metric: found.mean, f"{metric}.low": found.low, f"{metric}.high": found.high}
    row["monotone"] = not boundary.strays
    row["lasts"] = None if limit.longer is None else limit.longer.meets
    row["assured"] = assured(limit)
    row["tried"] = [_tried(value, limit.verdicts[value]) for value in sorted(boundary.tried)]
    return row


def _tried(value: float, verdict: "Verdict") -> dict[str, Any]:
    means = {name: list(found[1:]) for name, found in verdict.means.items()}
    return {"value": value, "meets": verdict.meets, "passed": verdict.passed, "n": verdict.n} | means


def _absent(system: str, size: "Size") -> dict[str, Any]:
    return {
        "system": system,
        "what": size.name,
        "value": None,
        "assured": f"{system} {size.why_not}",
        "tried": [],
    }


def _print(
    what: str,
    rows: list[dict[str, Any]],
    bounds: "tuple[Constraint, ...]",
    seeds: int,
    confidence: float,
    about: str,
    form: Form,
) -> None:
    from aquasim.sweep.words import rule_of

    slo, rule = [bound.text for bound in bounds], rule_of(seeds, confidence)
    emit(
        form,
        lambda: {"slo": slo, "rule": rule, "confidence": confidence, what: rows},
        lambda: ({key: value for key, value in row.items() if key != "tried"} for row in rows),
        lambda: _print_table(what, rows, " and ".join(slo), rule, about),
    )


def _found(what: str, row: dict[str, Any]) -> str:
    """Say what was found: the highest rate, if any; the least that is needed, which may be none."""
    from aquasim.cli.sweep_tables import number

    if row["value"] is None:
        return "-" if not row["tried"] else "none" if what == "capacity" else "not met"
    return f"{number(row['value'])} {row['unit']}" if row["value"] else "none"


def _print_table(what: str, rows: list[dict[str, Any]], slo: str, rule: str, about: str) -> None:
    from rich.console import Console

    from aquasim.cli.sweep_tables import grid, number
    from aquasim.cli.text import shown

    console = Console()
    console.print(f"[bold]{shown(slo)}[/bold]", highlight=False)
    heads = [
        "system",
        "" if what == "capacity" else "least",
        "now",
        what if what == "capacity" else "needed",
        "not at",
        "seeds",
    ]
    cells = []
    for row in rows:
        passed = "-" if row.get("passed") is None else f"{row['passed']}/{row['seeds']}"
        now, beyond = number(row.get("now")), number(row.get("beyond"))
        name = "" if what == "capacity" else row["what"]
        cells.append([shown(row["system"]), name, now, _found(what, row), beyond, passed])
    console.print(grid(heads, cells, 2), highlight=False)
    for row in rows:
        doubtful = row["value"] is None or not row["monotone"] or row["lasts"] is False
        colour = "yellow" if doubtful else "dim"
        name = f"{row['system']}: " if what == "capacity" else f"{row['system']}, {row['what']}: "
        console.print(f"[{colour}]{shown(name + row['assured'])}[/{colour}]", highlight=False)
    console.print(f"[dim]{shown(about + '. ' if about else '')}{shown(rule)}.[/dim]", highlight=False)
