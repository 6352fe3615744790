"""`aquasim doctor`: what of the runtime works on this machine, and why not the rest."""

import sys
from pathlib import Path
from typing import Any

from aquasim.cli.output import Form, emit


def doctor_command(socket: Path | None, form: Form) -> None:
    """Examine, print, and exit with 0 if memory can be lent here by at least one back end, else 1."""
    from aquasim.runtime.coordinator import default_socket
    from aquasim.runtime.peers.doctor import examine

    found = examine(socket or default_socket())
    emit(form, lambda: found, lambda: found["arenas"], lambda: _print(found))
    sys.exit(0 if any(arena["works"] for arena in found["arenas"]) else 1)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from aquasim.cli.text import shown

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("arena", "transport", "write GB/s", "read GB/s", "why not"):
        table.add_column(heading)
    for arena in found["arenas"]:
        rates = [
            f"{arena[key] / 1e9:.3g}" if arena["works"] else "-"
            for key in ("write_bytes_per_s", "read_bytes_per_s")
        ]
        table.add_row(arena["backend"], arena["transport"] or "-", *rates, shown(arena["reason"] or ""))
    checks = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    marks = {True: "[green]ok[/green]", False: "[red]no[/red]", None: "[yellow]note[/yellow]"}
    for check in found["checks"]:
        checks.add_row(marks[check["ok"]], check["name"], shown(check["text"]))
    console = Console()
    console.print(table)
    console.print(checks)
