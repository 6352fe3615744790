"""Pages: sections of text, tables and figures, written as one HTML file that loads nothing."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from aquasim.figures.text import clean, shown
from aquasim.figures.theme import CATEGORY, KINDS, Figure, config, spec, stems, vega_lite


class Text(NamedTuple):
    """A paragraph; `strong` for the one that matters."""

    text: str
    strong: bool = False


class Points(NamedTuple):
    """A list."""

    points: Sequence[str]


class Cell(NamedTuple):
    """A figure in a table: a note below it, `tone` "better" or "worse", and whether it is the best of its column."""

    text: str
    note: str = ""
    tone: str = ""
    best: bool = False
    title: str = ""


class Table(NamedTuple):
    """A table; the first column names the rows. `series` colours their names as in the figures.

    `prose`: its cells hold words rather than numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    series: Sequence[str] = ()
    prose: bool = False


class Details(NamedTuple):
    """Text as it is, or a table, folded away under a line."""

    summary: str
    text: "str | Table"


Part = Text | Points | Table | Details | Figure


class Section(NamedTuple):
    """A part of a page. `overview` is a figure of the whole time; the section's figures show what it selects."""

    title: str
    parts: Sequence[Part]
    overview: Figure | None = None


@dataclass(frozen=True)
class Page:
    """A page: what it is about, in a line below the title, and its sections."""

    title: str
    sections: Sequence[Section]
    lead: str = ""
    foot: str = ""
    figures: list[Figure] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        for section in self.sections:
            self.figures.extend([section.overview] if section.overview else [])
            self.figures.extend(part for part in section.parts if isinstance(part, Figure))

    def html(self) -> str:
        """Return the page."""
        places = {id(figure): number for number, figure in enumerate(self.figures)}
        blobs = _Blobs(_document(self.figures), _read("page.js"), bundle())
        return str(
            _template().render(
                page=self,
                place=lambda figure: places[id(figure)],
                series=_series,
                palette=CATEGORY,
                kinds=KINDS,
                style=_read("page.css"),
                policy=blobs.policy(),
                **blobs._asdict(),
            )
        )

    def write(self, path: Path) -> None:
        """Write the page; the file appears whole or not at all."""
        from aquasim.records.atomic import new_file

        page = self.html().encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part:
            part.write_bytes(page)


class _Blobs(NamedTuple):
    """What goes into script elements as it is: it must not be able to end one."""

    document: str
    script: str
    library: str

    def policy(self) -> str:
        """Return a content security policy: these scripts run, nothing is fetched. Vega compiles expressions."""
        hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (self.library, self.script))
        return (
            f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'"
        )


def _digest(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _series(names: Sequence[str], name: str) -> int:
    """Return which colour of the palette a series has."""
    return list(names).index(name) % len(CATEGORY["light"]) if name in names else -1


def _document(figures: Sequence[Figure]) -> str:
    """Return all figures as JSON without any character that HTML or a script gives a meaning."""
    names = stems([figure.name for figure in figures])
    document = {
        "config": {mode: config(mode, legend=False) for mode in CATEGORY},
        "figures": [_entry(figure, name) for figure, name in zip(figures, names, strict=True)],
    }
    text = json.dumps(clean(document), separators=(",", ":"), allow_nan=False)  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _entry(figure: Figure, name: str) -> dict[str, Any]:
    tables = {key: {k: _packed(v) for k, v in columns.items()} for key, columns in figure.data.items()}
    return {"name": name, "spec": spec(figure), "tables": tables, "window": figure.window}


def _packed(values: list[Any]) -> Any:
    """Return a column; repeated strings as a list of them and indices."""
    if len(values) > 8 and all(isinstance(value, str) for value in values):
        levels = {value: index for index, value in enumerate(dict.fromkeys(values))}
        if len(levels) * 2 < len(values):
            return {"levels": list(levels), "codes": [levels[value] for value in values]}
    return values


@cache
def bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, from the installed vl-convert: nothing is loaded."""
    import vl_convert

    text = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vega_lite()))
    assert "</script" not in text.lower()
    assert "<!--" not in text
    return text


def _read(name: str) -> str:
    return files("aquasim.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    place = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    place.filters["kind"] = lambda part: type(part).__name__
    return place.from_string(_read("page.html"))
