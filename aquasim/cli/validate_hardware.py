"""`validate SCENARIO --on hardware`: simulated and measured figures of this machine side by side."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aquasim.cli.output import Form, emit
from aquasim.cli.simulate import check_target, save_run
from aquasim.errors import UserError
from aquasim.scenario import Scenario, ServerScenario, load_scenario

if TYPE_CHECKING:
    from aquasim.calibrate.hardware.judge import Figure
    from aquasim.calibrate.hardware.study import Real, Study

CLOCKS = ("wall", "cpu")


class Wishes(NamedTuple):
    """What the command line says beside the scenario."""

    systems: list[str]
    changes: list[str]
    repeats: int
    out: Path | None
    overwrite: bool
    form: Form
    weights: Path | None
    device: str
    accelerate: float
    peers: Path | None
    clock: str
    strict: bool


def hardware_command(name: str, wishes: Wishes) -> int:
    """Measure, simulate, compare and replay; return the exit code: 1 for another decision (strict: or a miss)."""
    scenario = _scenario(name, wishes)
    if wishes.out is not None:
        check_target(wishes.out, wishes.overwrite, [])
    _check_words(scenario, wishes)
    need_torch()
    study = _prepare(scenario, wishes)
    study.predict()
    _say(f"profile {study.hash}{' (measured now)' if study.measured_now else ''}")
    if wishes.out is not None:
        _write(wishes.out / "predicted.json", {"profile": study.hash, "figures": study.predicted})
    study.measure(wishes.repeats, wishes.clock, lambda system, turn, real: _ran(system, turn, real, wishes))
    found = study.judge()
    document = study.document(found, Path(name).stem)
    if wishes.out is not None:
        _write(wishes.out / "validation.json", document)
        _write(wishes.out / "profile.json", study.profile.blocks)
    emit(wishes.form, lambda: document, lambda: document["figures"], lambda: _print(found, study))
    return 1 if not study.replayed or (wishes.strict and document["missed"]) else 0


def _check_words(scenario: Scenario, wishes: Wishes) -> None:
    """Refuse what can be refused before torch is loaded, which takes seconds."""
    from aquasim.calibrate.hardware.study import check_scenario

    if wishes.clock not in CLOCKS:
        raise UserError(f"--clock {wishes.clock!r}: valid are {', '.join(CLOCKS)}")
    if wishes.weights is not None and not wishes.weights.exists():
        raise UserError(f"--weights {wishes.weights}: no such file")
    check_scenario(scenario, wishes.systems)


def need_torch() -> None:
    """Raise UserError where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("--on hardware needs torch: pip install 'aquasim[runtime]'") from None


def _scenario(name: str, wishes: Wishes) -> Scenario:
    scenario = load_scenario(name, wishes.changes)
    if isinstance(scenario, ServerScenario):
        raise UserError(f"{name}: scenarios with tenants are simulated only")
    return scenario


def _prepare(scenario: Scenario, wishes: Wishes) -> "Study":
    from aquasim.calibrate.hardware.study import prepare
    from aquasim.cli.calibrate import CalibrationBar
    from aquasim.runtime.local import Options

    options = Options(
        device=wishes.device, weights=wishes.weights, accelerate=wishes.accelerate, peers=wishes.peers
    )
    with CalibrationBar() as bar:
        return prepare(scenario, wishes.systems, options, bar.show)


def _ran(system: str, turn: int, real: "Real", wishes: Wishes) -> None:
    """Say what came of a run, and store it."""
    meta, replayed = real.run.meta, real.replayed
    transports = f", pages over {', '.join(meta['transports'])}" if meta["transports"] else ""
    _say(
        f"{system}, run {turn + 1}: {real.run.summary()['makespan_s']:.1f} s, core {1 / real.slowdown:.2f} times as"
        f" fast as at calibration, {real.waited_s:.1f} s without a core{transports}"
    )
    for note in meta["notes"]:
        _say(f"note: {system}: {note}")
    if replayed.differs is not None:
        _say(f"{system}, run {turn + 1}: {replayed.differs}")
    if wishes.out is not None:
        save_run(real.run, wishes.out / "runs" / f"{system}-{turn + 1}", wishes.overwrite)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(path: Path, value: Any) -> None:
    from aquasim.records.atomic import new_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part:
            part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror or error}") from None


def _print(found: list["Figure"], study: "Study") -> None:
    from rich.console import Console
    from rich.table import Table

    from aquasim.cli.text import shown

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("system", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    for head in ("measured", "±", "simulated", "error", "allowed", "profile\nalone", ""):
        table.add_column(head, justify="right", no_wrap=True)
    last = ""
    for figure in found:
        table.add_row("" if figure.system == last else shown(figure.system), *_cells(figure))
        last = figure.system
    console = Console()
    console.print(table)
    runs = [real for reals in study.real.values() for real in reals]
    events = sum(real.replayed.events for real in runs)
    commands = sum(real.replayed.commands for real in runs)
    verdict = "every command equal" if study.replayed else "NOT EQUAL"
    console.print(
        f"replayed {events:,} events through the core, {commands:,} commands: {verdict}", highlight=False
    )


def _cells(figure: "Figure") -> list[str]:
    error, alone = figure.error, figure.predicted_error
    marks = {True: "[green]ok[/green]", False: "[red]missed[/red]", None: ""}
    return [
        _short(figure.name), _number(figure.measured), f"{figure.spread:.1%}", _number(figure.simulated),
        "-" if error is None else f"{error:+.1%}",
        "" if figure.allowed is None else f"{figure.allowed:.1%}",
        "-" if alone is None else f"{alone:+.1%}", marks[figure.ok],
    ]  # fmt: skip


def _short(name: str) -> str:
    """Return a figure's name with its unit."""
    units = {"throughput_tok_s": "tok/s", "paged_bytes": "bytes paged", "preemptions": "preemptions"}
    return units.get(name, name.replace("_", " ") + " s")


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1e6 else f"{value:.3e}"
