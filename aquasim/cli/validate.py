"""`validate`: replays measured runs and prints how far the simulator is off."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquasim import __version__
from aquasim.cli.output import Form, emit
from aquasim.cli.progress import Bar
from aquasim.cli.text import shown
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.calibrate.validate.errors import Error, Sum
    from aquasim.calibrate.validate.runs import MeasuredRun, Skipped

MOST_PARTS = 60
"""Rows of a table of runs; larger datasets are shown by group."""


def validate_command(datasets: list[Path], form: Form, plot: Path | None, every: bool) -> None:
    """Replay every run of every dataset; print errors by run and in sum, or JSON."""
    from aquasim.calibrate.validate.errors import sums
    from aquasim.calibrate.validate.readers import read_dataset
    from aquasim.calibrate.validate.runs import DataError, MeasuredRun

    try:
        read = {folder: read_dataset(folder) for folder in datasets}
    except DataError as error:
        raise UserError(str(error)) from None
    found: list[Error] = []
    skipped: list[Skipped] = []
    for folder, entries in read.items():
        runs = [entry for entry in entries if isinstance(entry, MeasuredRun)]
        here, left = _replay(folder, runs, plot)
        left = [entry for entry in entries if not isinstance(entry, MeasuredRun)] + left
        found += here
        skipped += left
        if form == "table":
            _print_dataset(here, left, every)
    emit(
        form,
        lambda: _document(found, sums(found), skipped),
        lambda: (error._asdict() for error in found),
        lambda: _print_sums("all datasets", sums(found) if len(read) > 1 else []),
    )


def _replay(
    folder: Path, runs: list["MeasuredRun"], plot: Path | None
) -> tuple[list["Error"], list["Skipped"]]:
    """Simulate the runs of one dataset. One whose model does not fit the GPU by our account is skipped."""
    from aquasim.calibrate.validate.errors import errors_of
    from aquasim.calibrate.validate.plots import plot_run
    from aquasim.calibrate.validate.replay import replay
    from aquasim.calibrate.validate.runs import Skipped

    found: list[Error] = []
    skipped = []
    with Bar([folder.name]) as bar:
        show = bar.progress(folder.name)
        for i, measured in enumerate(runs):
            try:
                replayed = replay(measured)
            except ValueError as error:
                skipped.append(Skipped(dataset=measured.dataset, name=measured.name, reason=str(error)))
                continue
            found += errors_of(measured, replayed)
            if plot is not None:
                plot_run(measured, replayed, plot)
            if show is not None:
                show((i + 1) / len(runs))
    return found, skipped


def _document(found: list["Error"], summed: list["Sum"], skipped: list["Skipped"]) -> dict[str, Any]:
    return {
        "version": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "errors": [error._asdict() for error in found],
        "sums": [entry._asdict() for entry in summed],
        "skipped": [{"dataset": s.dataset, "run": s.name, "reason": s.reason} for s in skipped],
    }


def _print_dataset(found: list["Error"], skipped: list["Skipped"], every: bool) -> None:
    from aquasim.calibrate.validate.errors import sums

    if found:
        parts = {(error.run, error.part) for error in found}
        if every or len(parts) <= MOST_PARTS:
            _print_errors(found, lambda error: (error.run, error.part), ("run", "load"))
        else:
            _print_errors(found, lambda error: (error.group,), ("GPU, model, GPUs",))
        _print_sums(found[0].dataset, sums(found))
    for reason, names in _by_reason(skipped).items():
        which = names[0] if len(names) == 1 else f"{len(names)} runs ({names[0]}, ...)"
        print(f"skipped {which}: {reason}", file=sys.stderr)


def _by_reason(skipped: Iterable["Skipped"]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for entry in skipped:
        reasons.setdefault(entry.reason, []).append(entry.name)
    return reasons


def _print_errors(found: list["Error"], key: Any, heads: tuple[str, ...]) -> None:
    """Print one row per key: the median signed error of each statistic."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys((error.metric, error.statistic) for error in found))
    listed = [column for column in columns if column[1] in ("p50", "p99") or not _has_median(columns, column)]
    rows: dict[Any, dict[Any, list[float]]] = {}
    for error in found:
        rows.setdefault(key(error), {}).setdefault((error.metric, error.statistic), []).append(error.error)
    table = Table(title=f"{shown(found[0].dataset)}: simulated against measured, signed error")
    for head in heads:
        table.add_column(head)
    for metric, statistic in listed:
        table.add_column(f"{metric.upper()}\n{statistic}", justify="right")
    for name, errors in rows.items():
        cells = (errors.get(column) for column in listed)
        table.add_row(*map(shown, name), *(f"{np.median(cell):+.1%}" if cell else "" for cell in cells))
    Console().print(table)


def _has_median(columns: list[tuple[str, str]], column: tuple[str, str]) -> bool:
    return (column[0], "p50") in columns


def _print_sums(name: str, summed: list["Sum"]) -> None:
    if not summed:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{shown(name)}: sum; floor: how far repeated identical runs differ")
    for head in ("", "parts", "median, signed", "median", "p90", "floor"):
        table.add_column(head, justify="left" if not head else "right")
    for entry in summed:
        table.add_row(
            f"{entry.metric.upper()} {entry.statistic}",
            str(entry.parts),
            f"{entry.signed:+.1%}",
            f"{entry.median:.1%}",
            f"{entry.p90:.1%}",
            f"{entry.floor:.0%}",
        )
    Console().print(table)
