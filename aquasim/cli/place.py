"""`place`: which job goes on which server, and which GPU lends memory to which."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquasim.cli.options import CsvOption, JsonOption
from aquasim.cli.output import Form, emit, form_of
from aquasim.cli.targets import check_file
from aquasim.cli.text import shown
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.place import Plan, Problem
    from aquasim.place.plan import Server


def place(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A TOML file (servers and models), or one that ships: aqua/s8-llm-donors."
        ),
    ],
    json: JsonOption = False,
    csv: CsvOption = False,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="random|greedy", help="Place without the solver, to compare."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="Take the best placement found by then.")
    ] = 60.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the consumer-to-donor maps here, as JSON."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Place jobs on servers so that spare memory is where it is needed, and pair consumers with donors."""
    place_command(file, form_of(json, csv), baseline, time_limit, out, overwrite)


def place_command(
    file: Path, form: Form, baseline: str | None, time_limit_s: float, out: Path | None, overwrite: bool
) -> None:
    """Place a file's jobs, print the plan beside the other methods', and write the coordinators' maps."""
    from aquasim.place import METHODS, load_problem

    if baseline is not None and baseline not in METHODS[1:]:
        raise UserError(f"--baseline {baseline}: valid: {', '.join(METHODS[1:])}")
    if not 0 < time_limit_s < inf:
        raise UserError(f"--time-limit {time_limit_s:g}: a number of seconds above 0 is needed")
    if out is not None:
        check_file(out, overwrite)
    problem = load_problem(_shipped(file))
    method = baseline or METHODS[0]
    plans = {
        name: _plan(file, problem, name, time_limit_s, name == method) for name in {method, *METHODS[1:]}
    }
    plan = plans[method]
    assert plan is not None
    compared = {name: plans[name] for name in METHODS if name in plans}
    if out is not None:
        _write_maps(plan, out)
    emit(
        form,
        lambda: _document(plan, compared),
        lambda: ({"method": name, **row} for name, row in _compared(compared).items()),
        lambda: _print_plan(problem, plan, compared),
    )


def _shipped(file: Path) -> Path:
    """Return the placement file that ships under a name, or the path as given."""
    from aquasim.scenario.load import FOLDER

    if file.exists() or file.suffix:
        return file
    shipped = FOLDER / f"{file}.place.toml"
    if not shipped.is_file():
        names = sorted(
            str(p.relative_to(FOLDER)).removesuffix(".place.toml") for p in FOLDER.rglob("*.place.toml")
        )
        raise UserError(f"no placement file {str(file)!r}; shipped: {', '.join(names)}")
    return shipped


def _plan(file: Path, problem: "Problem", method: str, time_limit_s: float, needed: bool) -> "Plan | None":
    """Place by one method; None if that fails and is not `needed`."""
    from aquasim.place import place

    try:
        with _spinner() if needed else nullcontext(), _quiet():
            return place(problem, method, time_limit_s)
    except UserError as error:
        if needed:
            raise UserError(f"{file}: {error}") from None
        return None


def _spinner() -> Any:
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("placing")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the solver's library from printing, as it does at times, where JSON goes."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _write_maps(plan: "Plan", out: Path) -> None:
    from aquasim.place.plan import maps
    from aquasim.records.atomic import new_file

    try:
        with new_file(out) as part:
            part.write_text(json.dumps(maps(plan), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None


def _document(plan: "Plan", compared: dict[str, "Plan | None"]) -> dict[str, Any]:
    from aquasim.place.plan import document

    return {**document(plan), "compared": {name: row or None for name, row in _compared(compared).items()}}


def _compared(compared: dict[str, "Plan | None"]) -> dict[str, dict[str, Any]]:
    """Return each method's figures; none where it failed."""
    from aquasim.place.plan import document

    keys = ("objective_gib", "max_surplus_gib", "max_imbalance_gpus", "paired_gpus", "lent_gib")
    return {
        name: {} if p is None else {key: document(p)[key] for key in keys} for name, p in compared.items()
    }


def _print_plan(problem: "Problem", plan: "Plan", compared: dict[str, "Plan | None"]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_headline(problem, plan), markup=False)
    note = plan.note()
    if note is not None:
        console.print(shown(note), style="yellow")
    _print_servers(console, plan)
    _print_methods(console, compared)


def _headline(problem: "Problem", plan: "Plan") -> str:
    """Say what was placed, whether that is the optimum, and how long it took."""
    from aquasim.place.plan import gib

    jobs = sum(model.replicas for model in problem.models)
    used = sum(model.replicas * model.tp for model in problem.models)
    there = problem.servers * problem.gpus
    verdict = "proven optimum" if plan.optimal else f"gap {_percent(plan.gap)}"
    return (
        f"{jobs} jobs on {used} of {there} GPUs, {_servers(problem.servers)} of {problem.gpus}. {plan.method}: "
        f"objective {gib(plan.objective_bytes):g} GiB, bound {gib(plan.bound_bytes):g} GiB, {verdict}, "
        f"{plan.seconds:.2f} s"
    )


def _percent(gap: float) -> str:
    return "unknown" if gap == inf else f"{100 * gap:.2f} %"


def _servers(count: int) -> str:
    return f"{count} server{'s' * (count != 1)}"


def _print_servers(console: Any, plan: "Plan") -> None:
    """Print a row per server, equal neighbours in one."""
    from rich.table import Table

    from aquasim.place.plan import gib

    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim")
    table.add_column("server\n", no_wrap=True)
    table.add_column("GPU:job\n(0+1: shards of one job)")
    table.add_column("donors-\nconsumers", justify="right")
    table.add_column("surplus\nGiB", justify="right")
    table.add_column("consumer>donor:\nGiB lent")
    start = 0
    for (jobs, sides, surplus, pairs), group in groupby(
        (_jobs(s), f"{s.donors}-{s.consumers}", f"{gib(s.surplus_bytes):+g}", _pairs(s)) for s in plan.servers
    ):
        end = start + len(list(group)) - 1
        table.add_row(f"{start}-{end}" if end > start else str(start), jobs, sides, surplus, pairs)
        start = end + 1
    console.print(table)


def _jobs(server: "Server") -> str:
    """List jobs by GPU; neighbours of one model and one GPU each as a range."""
    parts = []
    for (name, tp), group in groupby(server.jobs, key=lambda job: (job.model.name, job.model.tp)):
        jobs = list(group)
        name = shown(name)
        if tp == 1:
            first, last = jobs[0].gpus[0], jobs[-1].gpus[0]
            parts.append(f"{first}-{last}:{name}" if last > first else f"{first}:{name}")
        else:
            parts += [f"{'+'.join(map(str, job.gpus))}:{name}" for job in jobs]
    return " ".join(parts) or "-"


def _pairs(server: "Server") -> str:
    from aquasim.place.plan import gib

    return " ".join(f"{pair.consumer}>{pair.donor}:{gib(pair.bytes):g}" for pair in server.pairs) or "-"


def _print_methods(console: Any, compared: dict[str, "Plan | None"]) -> None:
    """Compare the methods, and what the pairs lend with what optimal assignments would."""
    from rich.table import Table

    from aquasim.place.plan import gib
    from aquasim.place.problem import MIB

    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim")
    for title in (
        "method\n",
        "objective\nGiB",
        "max surplus\nGiB",
        "max donors\n-consumers",
        "consumers\npaired",
    ):
        table.add_column(title, justify="left" if title == "method\n" else "right", no_wrap=True)
    table.add_column("lent of need\nGiB", justify="right", no_wrap=True)
    table.add_column("by assignment\nGiB", justify="right", no_wrap=True)
    for name, other in compared.items():
        if other is None:
            table.add_row(name, *["-"] * 6)
            continue
        table.add_row(
            name,
            f"{gib(other.objective_bytes):,g}",
            f"{gib(other.score.surplus * MIB):,g}",
            str(other.score.imbalance),
            f"{other.paired}/{other.consumers}",
            f"{gib(other.lent_bytes):,g}/{gib(other.need_bytes):,g}",
            f"{gib(other.most_lent_bytes):,g}",
        )
    console.print(table)
