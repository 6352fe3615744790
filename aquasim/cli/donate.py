"""`aquasim donate`: lend memory from the command line, and take it back before leaving."""

import queue
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aquasim.cli.coordinator import SocketOption
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.runtime.donor import DonorClient

GIB = 1 << 30
MIB = 1 << 20
PATIENCE_S = 1.0
"""Seconds between lines of progress."""


def donate(
    gib: Annotated[float, typer.Option("--gib", metavar="N", help="How much to lend.")],
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="memfd, host, cuda-ipc or cuda-vmm; see aquasim doctor.")
    ] = "memfd",
    extent_mib: Annotated[int, typer.Option("--extent-mib", min=1, help="MiB that are lent as one.")] = 256,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What pairs and status call this donor.")
    ] = "donor",
    device: Annotated[
        str | None, typer.Option(metavar="GPU", help="UUID or visible index, for CUDA; 0 if left out.")
    ] = None,
    socket: SocketOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Asked a second time to stop, leave if all holders are proven dead."),
    ] = False,
) -> None:
    """Lend memory until SIGTERM or Ctrl-C, then take it back: consumers move their pages away first."""
    from aquasim.runtime.arenas import BACKENDS, ArenaError
    from aquasim.runtime.coordinator import LeaseError
    from aquasim.runtime.donor import DonorClient

    if backend not in BACKENDS:
        raise UserError(f"--backend: no {backend!r}; there are {', '.join(BACKENDS)}")
    if not 0 < gib < 1 << 20:
        raise UserError(f"--gib: {gib:g} is not between 0 and {1 << 20}")
    place = int(device) if device is not None and device.isdigit() else device
    stops: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stops.put(number))
    client = DonorClient(socket, name, backend=backend, extent_bytes=extent_mib * MIB, place=place)
    try:
        client.start()
        sys.exit(_lend(client, round(gib * GIB), stops, force))
    except (ArenaError, LeaseError) as error:
        raise UserError(str(error)) from error


def _lend(client: "DonorClient", nbytes: int, stops: "queue.SimpleQueue[int]", force: bool) -> int:
    """Lend, wait for a signal, take back; return the exit code."""
    lent = client.donate(nbytes)
    _say(f"{client.me.name} lends {_amount(lent)} of {client.backend} memory")
    if not client.wait_connected(PATIENCE_S):
        _say("no coordinator yet; waiting for one")
    while _next(stops) is None:
        client.wait_connected(0)  # raises once the coordinator has refused us
    client.reclaim(client.donated)
    told = ""
    while client.donated:
        text = _progress(client)
        if text != told:
            _say(text)
            told = text
        if _next(stops) is not None and not _stay(client, force):
            client.close(force=True, timeout=0)
            return 1
    client.close()
    _say("everything is back")
    return 0


def _next(stops: "queue.SimpleQueue[int]") -> int | None:
    try:
        return stops.get(timeout=PATIENCE_S / 10)
    except queue.Empty:
        return None


def _stay(client: "DonorClient", force: bool) -> bool:
    """Say who holds what; tell whether to wait on: always while somebody who may be alive holds something."""
    for loan in client.loans():
        if loan.owner is not None:
            _say(
                f"extent {loan.extent.number}, {_amount(loan.bytes)}: held by {loan.owner.name}, epoch {loan.epoch}"
            )
    if not force or not client.holders_dead():
        _say(
            "waiting on: memory that is held cannot go"
            + ("" if force else " (--force: unless its holders are dead)")
        )
        return True
    _say("all holders are dead: leaving")
    return False


def _progress(client: "DonorClient") -> str:
    holders: dict[str, int] = {}
    for loan in client.loans():
        if loan.owner is not None:
            holders[loan.owner.name] = holders.get(loan.owner.name, 0) + loan.bytes
    who = ", ".join(f"{name} {_amount(size)}" for name, size in sorted(holders.items()))
    away = "" if client.connected else "; the coordinator is away"
    return f"taking back {_amount(client.donated)}: held by {who or 'nobody'}{away}"


def _amount(nbytes: int) -> str:
    return f"{nbytes / GIB:.3g} GiB"


def _say(text: str) -> None:
    print(text, flush=True)
