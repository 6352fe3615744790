"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ScenarioArg = Annotated[str, typer.Argument(metavar="SCENARIO", help="A scenario's name, or a TOML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value: --set workload.arrivals.rate=2"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")]
SystemOption = Annotated[
    list[str] | None, typer.Option("--system", "-s", metavar="NAME", help="Only these systems.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Write the records to this new folder.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run's folder.")]
OneSystemOption = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="NAME", help="Which system; the baseline if left out."),
]
WeightsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Hardware: GGUF or safetensors; random if left out.")
]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Hardware: what computes.")]
AccelerateOption = Annotated[
    float, typer.Option(metavar="TIMES", help="Hardware: arrivals so many times as fast.")
]
PeersOption = Annotated[
    Path | None,
    typer.Option(metavar="SOCKET|own", help="Hardware: the coordinator for tier peer; own: start one."),
]
