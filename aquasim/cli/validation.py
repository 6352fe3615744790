"""`aquasim validate`: published runs replayed, or a scenario run on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aquasim.cli.options import (
    AccelerateOption,
    CsvOption,
    DeviceOption,
    JsonOption,
    SetOption,
    SystemOption,
    WeightsOption,
)
from aquasim.cli.output import form_of
from aquasim.errors import UserError


def validate(
    datasets: Annotated[
        list[Path],
        typer.Argument(metavar="DATASET...", help="Folders of measured runs; --on hardware: SCENARIO."),
    ],
    json: JsonOption = False,
    csv: CsvOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw measured against simulated distributions there.")
    ] = None,
    every: Annotated[bool, typer.Option("--runs", help="A row per run, however many there are.")] = False,
    on: Annotated[
        str | None, typer.Option(metavar="hardware", help="Run a scenario here, and simulate it.")
    ] = None,
    system: SystemOption = None,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Hardware: real runs of each system.")] = 2,
    set_: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Hardware: write records and figures there."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Hardware: replace an earlier one.")] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    accelerate: AccelerateOption = 1.0,
    peers: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET", help="Hardware: a coordinator; if left out, one is started with a donor."
        ),
    ] = None,
    clock: Annotated[
        str,
        typer.Option(
            metavar="wall|cpu", help="Hardware: cpu leaves out time that other programs had the core."
        ),
    ] = "wall",
    strict: Annotated[
        bool, typer.Option("--strict", help="Hardware: a missed target is exit code 1.")
    ] = False,
) -> None:
    """Set simulated figures beside measured ones: of published serving runs, or of this machine (--on hardware)."""
    form = form_of(json, csv)
    if on is None:
        from aquasim.cli.validate import validate_command

        validate_command(datasets, form, plot, every)
        return
    if on != "hardware" or len(datasets) != 1:
        raise UserError(f"validate --on {on}: write validate SCENARIO --on hardware, with one scenario")
    from aquasim.cli.validate_hardware import Wishes, hardware_command

    wishes = Wishes(
        system or [],
        set_ or [],
        repeats,
        out,
        overwrite,
        form,
        weights,
        device,
        accelerate,
        peers,
        clock,
        strict,
    )
    sys.exit(hardware_command(str(datasets[0]), wishes))
