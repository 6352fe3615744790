"""`aquasim report`: a page of what other commands left behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.report.page import Page


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that run, compare, sweep, validate, reproduce or calibrate wrote."
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
    report_command(runs, out or Path("report.html"), figures, overwrite)


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
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out}: exists; name a new one, or give --overwrite")
    if figures is not None and figures.exists():
        if not figures.is_dir():
            raise UserError(f"--figures {figures}: exists and is not a folder")
        if any(figures.iterdir()) and not overwrite:
            raise UserError(
                f"--figures {figures}: the folder is not empty; name a new one, or give --overwrite"
            )


DAMAGED = (LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError)
"""What folding tables that do not fit together may end in."""


def _page(paths: list[Path]) -> "Page":
    """Return the page of everything the paths hold; what cannot be understood is one line."""
    import warnings

    from aquasim.report.documents import page_of
    from aquasim.report.sources import find

    found = find(paths)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers out of all bounds, in damaged records
            return page_of(found)
    except UserError:
        raise
    except DAMAGED as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{paths[0]}: its records do not fit together: {text}") from None
