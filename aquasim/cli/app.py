"""`aquasim`: the commands, their options and their errors."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from aquasim import __version__
from aquasim.cli import (
    calibrate,
    capacity,
    coordinator,
    donate,
    explore,
    place,
    report,
    reproduce,
    serve,
    surplus,
    sweep,
    validation,
)
from aquasim.cli.failures import interrupt, one_line
from aquasim.cli.options import (
    AccelerateOption,
    CsvOption,
    DeviceOption,
    JsonOption,
    OneSystemOption,
    OutOption,
    OverwriteOption,
    PeersOption,
    ScenarioArg,
    SetOption,
    SystemOption,
    WeightsOption,
)
from aquasim.cli.output import form_of
from aquasim.errors import UserError

app = typer.Typer(
    name="aquasim",
    help="Who runs, whose state moves, and where to, when GPU memory runs out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    scenario: ScenarioArg,
    system: OneSystemOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    csv: CsvOption = False,
    on: Annotated[str, typer.Option(metavar="simulation|hardware", help="Where to run it.")] = "simulation",
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    accelerate: AccelerateOption = 1.0,
    check: Annotated[
        str, typer.Option(metavar="off|sampled|always", help="Hardware: checksums of pages.")
    ] = "off",
    peers: PeersOption = None,
) -> None:
    """Run one system of a scenario: simulated, or a real model on this machine."""
    form = form_of(json, csv)
    if on not in ("simulation", "hardware"):
        raise UserError(f"--on {on!r}: valid are simulation, hardware")
    if on == "hardware":
        from aquasim.cli.hardware import hardware_command

        hardware_command(
            scenario, system, set_ or [], out, overwrite, form, weights, device, accelerate, check, peers
        )
        return
    from aquasim.cli.simulate import run_command

    run_command(scenario, system, set_ or [], out, overwrite, form)


@app.command()
def compare(
    scenario: ScenarioArg,
    system: SystemOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Simulate several systems under one workload and print one table, best values marked."""
    from aquasim.cli.simulate import compare_command

    compare_command(scenario, system or [], set_ or [], out, overwrite, form_of(json, csv))


@app.command()
def scenarios(
    name: Annotated[str | None, typer.Argument(help="Print this one's file, to begin from.")] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="All keys of a scenario file, with defaults and meaning.")
    ] = False,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """List the scenarios that ship with aquasim, with the question each one asks; or what a file may say."""
    from aquasim.cli import scenarios as command

    if keys:
        command.show_keys(form_of(json, csv))
    elif name is not None:
        command.show_file(name)
    else:
        command.show_all(form_of(json, csv))


@app.command()
def trace(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="RUN/trace.json.gz if left out.")
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(help="From this second on. What reaches into the time shown is shown whole."),
    ] = None,
    end: Annotated[float | None, typer.Option(help="Up to this second.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a run's time line for ui.perfetto.dev or chrome://tracing."""
    from aquasim.cli.inspect import trace_command

    trace_command(run, out, start, end, overwrite)


@app.command()
def schedule(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="Limits and arrivals by iteration.")],
    policy: Annotated[str, typer.Option(metavar="NAME", help="Scheduling policy.")] = "fcfs",
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="A policy option.")
    ] = None,
) -> None:
    """Print a policy's decisions, one JSON line per iteration, without a clock."""
    from aquasim.cli.inspect import schedule_command

    schedule_command(file, policy, option or [])


@app.command()
def profiles(json: JsonOption = False, csv: CsvOption = False) -> None:
    """List the hardware profiles that ship, what they were fitted to and how far off they are."""
    from aquasim.cli.profiles import profiles_command

    profiles_command(form_of(json, csv))


@app.command()
def doctor(socket: coordinator.SocketOption = None, json: JsonOption = False, csv: CsvOption = False) -> None:
    """Say which memory can be lent on this machine and how fast, and why not the rest."""
    from aquasim.cli.doctor import doctor_command

    doctor_command(socket, form_of(json, csv))


app.add_typer(coordinator.app, name="coordinator")
app.command()(calibrate.calibrate)
app.command()(place.place)
app.command()(donate.donate)
app.command()(validation.validate)
app.command()(reproduce.reproduce)
app.command()(report.report)
app.command()(serve.serve)
app.command()(surplus.surplus)
app.command()(sweep.sweep)
app.command()(capacity.capacity)
app.command()(capacity.size)
app.command()(explore.explore)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"aquasim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's error is one line on stderr and exit code 2."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, interrupt)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins costs 20 ms a start
    with one_line():
        sys.exit(app(standalone_mode=False) or 0)
