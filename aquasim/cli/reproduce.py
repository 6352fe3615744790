"""`reproduce`: a paper's evaluation run again, claim by claim."""

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquasim import __version__
from aquasim.cli.options import CsvOption, JsonOption
from aquasim.cli.output import Form, emit, form_of
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.reproduce.finding import Claim, Finding

PAPERS = ("aqua", "neo")


def reproduce(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help=f"One of: {', '.join(PAPERS)}.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CLAIM", help="This claim; may be given again.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write report.md, report.json and figures there."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes; the machine's cores, at most 8.")
    ] = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Run a paper's evaluation again and set its claims beside what is simulated."""
    reproduce_command(paper, only or [], out, overwrite, workers, form_of(json, csv))


def reproduce_command(
    paper: str, claims: list[str], out: Path | None, overwrite: bool, workers: int | None, form: Form
) -> None:
    """Simulate what the claims need, print the table, and write report and figures if asked."""
    if paper not in PAPERS:
        raise UserError(f"unknown paper {paper!r}; known: {', '.join(PAPERS)}")
    title, known = _paper(paper)
    chosen = [_claim(name, known) for name in claims] or list(known.values())
    if out is not None:
        from aquasim.cli.simulate import check_target

        check_target(out, overwrite, [])
    count = workers or min(os.cpu_count() or 1, 8)
    started = time.monotonic()
    findings = _find(chosen, count)
    about = _about(paper, claims, count, time.monotonic() - started)
    emit(
        form,
        lambda: {"title": title, **about, "claims": [f.as_json() for f in findings]},
        lambda: (
            {"claim": f.key, "title": f.title, "paper": f.paper, "range": f.over, **row}
            for f in findings
            for row in f.as_json()["simulated"]
        ),
        lambda: _print(title, findings, about),
    )
    if out is not None:
        _write(out, title, findings, about)


def _paper(name: str) -> tuple[str, dict[str, "Claim"]]:
    """Return a paper's title and its claims by key."""
    if name == "neo":
        from aquasim.reproduce import neo

        return neo.TITLE, neo.CLAIMS
    from aquasim.reproduce import aqua

    return aqua.TITLE, aqua.CLAIMS


def _claim(name: str, claims: dict[str, "Claim"]) -> "Claim":
    if name not in claims:
        close = get_close_matches(name, claims, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"--only {name}: unknown claim; {hint}known: {', '.join(claims)}")
    return claims[name]


def _find(chosen: Sequence["Claim"], workers: int) -> list["Finding"]:
    from aquasim.reproduce.jobs import run_jobs

    jobs = [job for claim in chosen for job in claim.jobs()]
    with _progress(len(set(jobs))) as show:
        outcomes = run_jobs(jobs, workers if len(jobs) > 1 else 1, show)
        return [finding for claim in chosen for finding in claim.find(outcomes)]


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Give what is called with (done, of): a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty() or not total:
        yield None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulations", total=total)
        yield lambda done, of: bar.update(task, completed=done)


def _about(paper: str, claims: list[str], workers: int, seconds: float) -> dict[str, Any]:
    only = "".join(f" --only {name}" for name in claims)
    return {
        "command": f"aquasim reproduce {paper}{only}",
        "version": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {workers} processes",
        "seconds": round(seconds, 1),
    }


def _write(out: Path, title: str, findings: Sequence["Finding"], about: dict[str, Any]) -> None:
    from aquasim.reproduce.report import write

    try:
        written = write(out, title, findings, about)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    print(f"{out}: {len(written)} files, report.md first", file=sys.stderr)


def _print(title: str, findings: Sequence["Finding"], about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from aquasim.cli.text import shown

    console = Console()
    console.print(f"[bold]{shown(title)}[/bold]", highlight=False)
    for finding in findings:
        console.print(f"\n[bold]{shown(finding.title)}[/bold]", highlight=False)
        console.print(f"the paper: {shown(finding.says)}; range: {shown(finding.over)}", highlight=False)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for row in finding.rows:
            table.add_row(shown(row.label), row.value.text(row.unit))
        console.print(table)
        for line in (finding.why, *finding.notes):
            if line:
                console.print(f"[dim]{shown(line)}[/dim]", highlight=False)
    console.print(f"\n[dim]{about['seconds']} s, {about['machine']}[/dim]", highlight=False)
