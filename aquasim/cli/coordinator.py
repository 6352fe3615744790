"""`aquasim coordinator`: run one, or look at one."""

import logging
import sys
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquasim.cli.options import CsvOption, JsonOption
from aquasim.cli.output import emit, form_of
from aquasim.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(invoke_without_command=True, help="Run the process that matches lent memory with wants.")
SocketOption = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="$XDG_RUNTIME_DIR/aquasim/coordinator.sock if left out."),
]
MIB = 1 << 20


@app.callback()
def coordinator(
    context: typer.Context,
    socket: SocketOption = None,
    lease_s: Annotated[
        float, typer.Option("--lease-s", metavar="SECONDS", help="How long a lease lasts unrenewed.")
    ] = 10.0,
    drain_s: Annotated[
        float, typer.Option("--drain-s", metavar="SECONDS", help="When a drain is reported overdue.")
    ] = 5.0,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pairs", metavar="CONSUMER=DONOR,...", help="The only donors of a consumer, nearest first."
        ),
    ] = None,
    map_: Annotated[
        Path | None,
        typer.Option(
            "--map", metavar="FILE", help="Pairs that `aquasim place --out` wrote; GPU 3 is `gpu3`."
        ),
    ] = None,
    server: Annotated[int, typer.Option(min=0, metavar="N", help="Which server of the map.")] = 0,
    allow_uid: Annotated[
        list[int] | None, typer.Option("--allow-uid", metavar="UID", help="Let this user connect too.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", min=0, max=65535, help="Serve /metrics on 127.0.0.1 too.")
    ] = None,
) -> None:
    """Run the coordinator until SIGTERM or Ctrl-C; `aquasim coordinator status` looks at it."""
    if context.invoked_subcommand is not None:
        context.obj = socket
        return
    from aquasim.runtime.coordinator import Settings, default_socket, serve

    for name, value in (("--lease-s", lease_s), ("--drain-s", drain_s)):
        if not 0.5 <= value <= 86400:
            raise UserError(f"{name}: {value:g} is not between 0.5 and 86400 seconds")
    path = socket or default_socket()
    near = {**(_map(map_, server) if map_ is not None else {}), **_pairs(pairs or [])}
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings(path, lease_s, drain_s, near, tuple(allow_uid or ()), metrics_port)
    serve(settings, lambda: print(f"listening at {path}", flush=True))


@app.command()
def status(
    context: typer.Context,
    socket: SocketOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print Prometheus metrics.")] = False,
) -> None:
    """Show leases, donors and consumers; changes nothing."""
    from aquasim.runtime.coordinator import default_socket, query

    form = form_of(json, csv)
    if metrics and form != "table":
        raise UserError(f"--metrics and --{form}: one of them")
    path = socket or context.obj or default_socket()
    text = query(path, "metrics" if metrics else "status")
    if metrics:
        print(text, end="")
        return
    seen = loads(text)
    emit(form, lambda: seen, lambda: _rows(seen), lambda: _print(seen))


def _rows(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for everything that the tables show."""
    kinds = ("donors", "consumers", "extents")
    return [{"kind": kind.removesuffix("s"), **row} for kind in kinds for row in seen[kind]]


def _pairs(texts: list[str]) -> dict[str, tuple[str, ...]]:
    """Read "gpu0=gpu1,gpu2": a consumer and its donors, nearest first."""
    near: dict[str, tuple[str, ...]] = {}
    for text in texts:
        consumer, _, donors = text.partition("=")
        names = tuple(donors.split(","))
        if not consumer or not all(names) or consumer in near:
            raise UserError(f"--pairs: {text!r} is not CONSUMER=DONOR,... with each consumer once")
        near[consumer] = names
    return near


def _map(file: Path, server: int) -> dict[str, tuple[str, ...]]:
    """Read one server's pairs from a placement's map: `gpu4` may have memory of `gpu3`."""
    try:
        servers = {each["server"]: each["map"] for each in loads(file.read_text(encoding="utf-8"))["servers"]}
        pairs = {
            gpu: tuple(f"gpu{int(d['gpu'])}" for d in near) for gpu, near in servers.get(server, {}).items()
        }
    except OSError as error:
        raise UserError(f"--map {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--map {file}: not a map that `aquasim place --out` writes") from None
    if server not in servers:
        raise UserError(f"--server {server}: {file} has {len(servers)} servers, 0 to {len(servers) - 1}")
    return {f"gpu{consumer}": donors for consumer, donors in pairs.items()}


def _print(seen: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    for title, columns, key in (("donors", _DONORS, "donors"), ("consumers", _CONSUMERS, "consumers")):
        console.print(_table(columns, seen[key]) if seen[key] else f"no {title}")
    if seen["extents"]:
        console.print(_table(_EXTENTS, seen["extents"]))
    late = sum(extent["overdue"] for extent in seen["extents"])
    console.print(
        f"up {seen['uptime_s']:.0f} s, leases of {seen['lease_s']:g} s, {late} drains overdue",
        highlight=False,
    )


def _mib(key: str) -> Any:
    return lambda row: f"{row[key] / MIB:,.0f}"


def _who(row: dict[str, Any]) -> str:
    return f"{row['name']} ({row['pid']})" + ("" if row["connected"] else ", away")


def _rate(row: dict[str, Any]) -> str:
    if row["transport"] is None:
        return "-"
    return (
        f"{row['transport']}, {row['write_bytes_per_s'] / 1e9:.3g} / {row['read_bytes_per_s'] / 1e9:.3g} GB/s"
    )


def _seconds(key: str) -> Any:
    return lambda row: "-" if row[key] is None else f"{row[key]:.1f}"


_DONORS = (
    ("donor", _who),
    ("heard s ago", _seconds("age_s")),
    ("MiB donated", _mib("donated_bytes")),
    ("lent", _mib("lent_bytes")),
    ("wanted back", _mib("owed_bytes")),
)
_CONSUMERS = (
    ("consumer", _who),
    ("heard s ago", _seconds("age_s")),
    ("MiB wanted", _mib("want_bytes")),
    ("held", _mib("held_bytes")),
)
_EXTENTS = (
    ("extent", lambda row: f"{row['donor']}/{row['number']}"),
    ("MiB", _mib("bytes")),
    ("epoch", lambda row: str(row["epoch"])),
    ("state", lambda row: row["state"] + (", overdue" if row["overdue"] else "")),
    ("consumer", lambda row: row["consumer"] or "-"),
    ("expires s", _seconds("expires_in_s")),
    ("path, write / read", _rate),
)


def _table(columns: Any, rows: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    from aquasim.cli.text import shown

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading, _ in columns:
        table.add_column(heading, no_wrap=heading is not columns[-1][0])
    for row in rows:
        table.add_row(*(shown(cell(row)) for _, cell in columns))
    return table
