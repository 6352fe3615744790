"""`aquasim report`: a page of what other commands left behind."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aquasim.cli.targets import check_file
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.report.page import Page


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders or files that run, compare, sweep, validate, reproduce or calibrate wrote.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The page; report.html if left out.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure there, as SVG and PNG.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
) -> None:
    """Make one HTML file of runs, side by side: tables and figures that need no network."""
    if not all(runs):
        raise UserError("RUN '': a folder's or a file's name is needed")
    report_command([Path(run) for run in runs], out or Path("report.html"), figures, overwrite)


def report_command(paths: list[Path], out: Path, figures: Path | None, overwrite: bool) -> None:
    """Read what the paths hold, make the page, write it and print where it is."""
    _check(out, figures, overwrite)
    page = _page(paths)
    try:
        page.write(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    print(out)
    if figures is not None:
        from aquasim.figures.theme import save_all

        try:
            written = save_all(page.figures, figures)
        except OSError as error:
            raise UserError(f"--figures {figures}: cannot be written: {error.strerror}") from None
        print(f"{figures}: {len(written)} files")


def _check(out: Path, figures: Path | None, overwrite: bool) -> None:
    """Refuse, before anything is read, what could not be written afterwards."""
    check_file(out, overwrite)
    if figures is not None and figures.exists():
        if not figures.is_dir():
            raise UserError(f"--figures {figures}: exists and is not a folder")
        if any(figures.iterdir()) and not overwrite:
            raise UserError(
                f"--figures {figures}: the folder is not empty; name a new one, or give --overwrite"
            )


def _page(paths: list[Path]) -> "Page":
    """Return the page of everything the paths hold; what cannot be understood is one line."""
    import warnings

    from aquasim.records.store import DAMAGED, reason
    from aquasim.report.documents import page_of
    from aquasim.report.sources import find

    found = find(paths)
    _say_deep(paths, [place for place, _ in found.runs])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers out of all bounds, in damaged records
            return page_of(found)
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{paths[0]}: its records do not fit together: {reason(error)}") from None


def _say_deep(paths: list[Path], places: list[Path]) -> None:
    """Say how many runs were found where some lie in folders of the folders that were named."""
    given = {path.resolve() for path in paths}
    deep = [place for place in places if place.parent.parent in given and not {place, place.parent} & given]
    if deep:
        print(f"note: {len(places)} runs found, {len(deep)} of them two folders deep", file=sys.stderr)
