"""`calibrate`: measure this machine or read published timings, and fit a profile."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aquasim.cli.options import CsvOption, JsonOption, SetOption
from aquasim.cli.output import Form, emit, form_of
from aquasim.errors import UserError


def calibrate(
    device: Annotated[
        str | None, typer.Option(metavar="cuda|cpu", help="What to measure; the GPU if there is one.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few and small sizes: minutes become seconds.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder to measure into and to go on in (--from: a file)."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The profile's name.")] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop after this long; a rerun goes on.")
    ] = None,
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="PATH", help="Fit to these files or folders instead of measuring."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Take what was not measured from this profile.")
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(metavar="SCENARIO", help="Measure our own engine with its model, for server local."),
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Measure this machine, or read published timings, and fit a hardware profile."""
    form = form_of(json, csv)
    if scenario is not None:
        if from_ or out or name or base or budget is not None:
            raise UserError("--scenario goes with --device, --quick, --set, --json and --csv only")
        from aquasim.cli.calibrate_scenario import scenario_command

        scenario_command(scenario, set_ or [], device, quick, form)
    elif from_:
        if device or quick or budget is not None:
            raise UserError("--device, --quick and --budget are for measuring; --from fits what is there")
        from_command(from_, name, out, base, form)
    else:
        calibrate_command(device, quick, out, name, budget, base, form)


def from_command(paths: list[Path], name: str | None, out: Path | None, base: str | None, form: Form) -> None:
    """Fit a profile to tables and sample files, and print how far off it is."""
    from aquasim.calibrate.assemble import build_profile
    from aquasim.calibrate.importers import read_paths
    from aquasim.calibrate.samples import by_operator

    if not name:
        raise UserError("--from needs --name NAME for the profile")
    target = out or Path(f"{name}.json")
    _check_target(target)
    other = base_profile(base)
    samples, notes = read_paths(paths)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    save(build_profile(name, by_operator(samples), other), target, form)


def base_profile(name: str | None) -> Any:
    """Load the profile that fills gaps, if one was named."""
    from aquasim.hardware.profile import load_profile

    if name is None:
        return None
    try:
        return load_profile(name)
    except ValueError as error:
        raise UserError(f"--base: {error}") from None


def _check_target(target: Path) -> None:
    """Refuse a place that cannot be written to before anything is read or measured."""
    if target.suffix != ".json":
        raise UserError(f"--out {target}: a profile's file must end in .json")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UserError(f"--out {target}: not a file in an existing folder")


def save(block: dict[str, Any], target: Path, form: Form) -> None:
    """Write a profile, check that it can be read back, and print its residuals."""
    from aquasim.calibrate.published import profile_text, residuals
    from aquasim.hardware.profile import load_profile
    from aquasim.records.atomic import new_file

    try:
        with new_file(target) as part:
            part.write_text(profile_text(block), encoding="utf-8")
        load_profile(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    found = residuals(block)

    def table() -> None:
        _print_residuals(found)
        print(target)

    emit(
        form,
        lambda: {"profile": str(target), "residuals": found},
        lambda: ({"fitted": name, **row} for name, row in found.items()),
        table,
    )


def _print_residuals(found: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("fitted", no_wrap=True)
    for title in ("samples", "held out", "median off", "90 % within"):
        table.add_column(title, justify="right")
    for name, row in found.items():
        counts = f"{row.get('rows_fitted', row.get('rows', 0)):,}", f"{row.get('rows_held_out', 0):,}"
        table.add_row(name, *counts, f"{row['median']:.1%}", f"{row['p90']:.1%}")
    Console().print(table)


def calibrate_command(
    device: str | None,
    quick: bool,
    out: Path | None,
    name: str | None,
    budget: float | None,
    base: str | None,
    form: Form,
) -> None:
    """Measure this machine into a folder, fit a profile to what is there, and say how far off it is."""
    from aquasim.calibrate.assemble import build_profile
    from aquasim.calibrate.bench.bench import Bench, pick_device
    from aquasim.calibrate.bench.run import Runner, pieces_for
    from aquasim.calibrate.importers import read_paths
    from aquasim.calibrate.samples import by_operator

    if budget is not None and not budget > 0:
        raise UserError(f"--budget {budget:g}: seconds above 0 are needed")
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: exists and is not a folder")
    other = base_profile(base)
    bench = Bench(pick_device(device), quick=quick)
    called = name or f"{bench.kind}{'-quick' if quick else ''}"
    folder = out or Path(f"calibration-{called}")
    pieces, notes = pieces_for(bench)
    with CalibrationBar() as bar:
        runner = Runner(bench, folder / "samples", budget, bar.show)
        finished = _measure(runner, pieces, folder)
    for note in [*notes, *(f"{point}: {reason}" for point, reason in runner.skipped.items())]:
        print(f"note: {note}", file=sys.stderr)
    if finished:
        samples, _ = read_paths([folder / "samples"])
        block = build_profile(called, by_operator(samples), other)
        _save_thresholds(block, folder / "copy_thresholds.json")
        save(block, folder / f"{called}.json", form)
    else:
        print(f"stopped after {budget:g} s; {_how_to_go_on(folder)}", file=sys.stderr)


def _measure(runner: Any, pieces: list[Any], folder: Path) -> bool:
    """Measure what is left; returns whether that is all. Stopped from outside, it says how to go on."""
    try:
        return bool(runner.run(pieces))
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror or error}") from None
    except UserError:
        raise
    except BaseException:
        print(_how_to_go_on(folder), file=sys.stderr)
        raise


def _save_thresholds(block: dict[str, Any], target: Path) -> None:
    """Write which path copies of pages take, for `aquasim.runtime.copy.Thresholds.load`."""
    from aquasim.records.atomic import new_file

    if "copy_thresholds" in block:
        with new_file(target) as part:
            part.write_text(json.dumps(block["copy_thresholds"], indent=2) + "\n", encoding="utf-8")


def _how_to_go_on(folder: Path) -> str:
    return f"what was measured is in {folder}; the same command goes on from there"


class CalibrationBar:
    """One line with the operator, how much is done and the time left; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "CalibrationBar":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
            )
            self._bar = Progress(
                *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, operator: str, done: int, total: int) -> None:
        """Say what is being measured and how many of all points are done."""
        if self._bar is not None:
            self._bar.update(self._task, description=operator, completed=done, total=total)
