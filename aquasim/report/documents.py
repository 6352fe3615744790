"""One page of everything that was found: documents first, then the runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.report import calibration, reproduction, sweeps, validation
from aquasim.report.page import Page
from aquasim.report.runs import runs_page
from aquasim.report.sources import Sources, labelled

MAKERS: dict[str, Callable[[dict[str, Any]], Page]] = {
    "hardware": validation.hardware_page,
    "replays": validation.replays_page,
    "reproduction": reproduction.reproduction_page,
    "calibration": calibration.calibration_page,
    "sweep": sweeps.sweep_page,
}


def page_of(found: Sources) -> Page:
    """Return the page of some sources.

    Raises:
        UserError: a document is not as the command that its keys tell of writes it.
    """
    pages = [_made(kind, path, value) for kind, path, value in found.documents]
    if found.runs:
        pages.append(runs_page(labelled(found.runs)))
    first = pages[0]
    sections = [section for page in pages for section in page.sections]
    foot = next((page.foot for page in reversed(pages) if page.foot), "")
    return Page(first.title, sections, first.lead, foot)


def _made(kind: str, path: Path, value: dict[str, Any]) -> Page:
    try:
        return MAKERS[kind](value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not as aquasim wrote it: {type(error).__name__}: {text}") from None
