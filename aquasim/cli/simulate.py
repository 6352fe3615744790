"""`run` and `compare`."""

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquasim.cli.output import Form, emit
from aquasim.errors import UserError
from aquasim.scenario import load_scenario
from aquasim.scenario.schema import Scenario
from aquasim.scenario.server import ServerScenario

if TYPE_CHECKING:
    from aquasim.records.run import Run

Progress = Callable[[float], None]


def run_command(
    name: str,
    system: str | None,
    changes: list[str],
    out: Path | None,
    overwrite: bool,
    form: Form,
) -> None:
    """Simulate one system, print its summary, and write its records if asked."""
    scenario = load_scenario(name, changes)
    chosen = system or scenario.baseline or next(iter(scenario.systems))
    results = simulate(scenario, [chosen], out, overwrite, single=True)
    print_run(scenario, Path(name).stem, chosen, results[chosen], form)


def print_run(
    scenario: Scenario | ServerScenario, name: str, system: str, summary: dict[str, Any], form: Form
) -> None:
    """Print what one system did."""

    def table() -> None:
        from aquasim.cli.tables import print_summary

        print_summary(scenario, system, summary)

    emit(
        form,
        lambda: {"scenario": name, "system": system, **summary},
        lambda: _rows({system: summary}),
        table,
    )


def compare_command(
    name: str,
    systems: list[str],
    changes: list[str],
    out: Path | None,
    overwrite: bool,
    form: Form,
) -> None:
    """Simulate several systems under one workload and print one table."""
    scenario = load_scenario(name, changes)
    chosen = systems or list(scenario.systems)
    results = simulate(scenario, chosen, out, overwrite)
    emit(
        form,
        lambda: {"scenario": Path(name).stem, "systems": results},
        lambda: _rows(results),
        lambda: _print_comparison(scenario, results),
    )


def _rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per system (and tenant): every single figure."""
    rows: list[dict[str, Any]] = []
    for name, summary in results.items():
        tenants = summary.get("tenants")
        if tenants is None:
            rows.append({"system": name, **summary})
        else:
            rows += [{"system": name, "tenant": tenant, **each} for tenant, each in tenants.items()]
    return rows


def _print_comparison(scenario: Scenario | ServerScenario, results: dict[str, dict[str, Any]]) -> None:
    if isinstance(scenario, ServerScenario):
        from aquasim.cli.tenants import print_tenants

        print_tenants(scenario, results)
    else:
        from aquasim.cli.tables import print_comparison

        print_comparison(scenario, results)


def simulate(
    scenario: Scenario | ServerScenario,
    systems: list[str],
    out: Path | None,
    overwrite: bool,
    single: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run `systems` one after the other; each one's records are written as soon as it ends.

    Returns:
        Each system's summary.
    """
    from aquasim.cli.progress import Bar

    for system in systems:
        if system not in scenario.systems:
            raise UserError(f"unknown system {system!r}; the scenario has: {', '.join(scenario.systems)}")
    targets = {system: out if single else out / system for system in systems} if out is not None else {}
    if out is not None:
        check_target(out, overwrite, targets.values())
    runs, notes = _prepare(scenario, systems)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    results = {}
    with Bar(systems) as bar:
        for system in systems:
            run = runs[system](bar.progress(system))
            results[system] = run.summary()
            if system in targets:
                save_run(run, targets[system], overwrite)
    return results


def _prepare(
    scenario: Scenario | ServerScenario, systems: list[str]
) -> tuple[dict[str, Callable[[Progress | None], "Run"]], list[str]]:
    """Resolve every system before one runs: what runs each, and what a reader ought to know."""
    if isinstance(scenario, ServerScenario):
        from aquasim.sim.tenants.plan import SystemPlan
        from aquasim.sim.tenants.simulate import simulate_tenants

        plans = {system: SystemPlan.of(scenario, system) for system in systems}
        notes = dict.fromkeys(note for plan in plans.values() for note in plan.notes)
        return {system: partial(simulate_tenants, plan) for system, plan in plans.items()}, list(notes)
    from aquasim.sim.simulate import Plan, simulate_system

    plan = Plan.of(scenario)

    def runner(system: str) -> Callable[[Progress | None], "Run"]:
        return lambda progress: simulate_system(plan, system, progress=progress)

    return {system: runner(system) for system in systems}, list(plan.notes)


def check_target(out: Path, overwrite: bool, targets: Iterable[Path]) -> None:
    """Refuse, before anything runs, a folder that could not be written to afterwards."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: exists and is not a folder")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise UserError(f"--out {out}: the folder is not empty; name a new one, or give --overwrite")
    for target in targets:
        if target.is_dir() and any(target.iterdir()) and not (target / "meta.json").is_file():
            raise UserError(f"--out {out}: {target} is not a run folder, so --overwrite leaves it alone")
    parent = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--out {out}: {parent} cannot be written to")


def save_run(run: Any, target: Path, overwrite: bool) -> None:
    """Write a run folder; UserError where that is not possible."""
    from aquasim.records.store import save

    try:
        save(run, target, overwrite=overwrite)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--out {target}: cannot be written: {reason}") from None
