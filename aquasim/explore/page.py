"""The page: controls as a form, an empty table and figures, which its script fills."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from aquasim.explore.session import MOST_SYSTEMS, Session
from aquasim.figures.text import clean, shown
from aquasim.figures.theme import CATEGORY, config
from aquasim.report.page import bundle

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Scripts and answers come from here alone. Vega compiles expressions, and its tooltip brings its style along."""


SCRIPT = "text/javascript; charset=utf-8"


def assets(session: Session) -> dict[str, tuple[str, bytes]]:
    """Return what a browser may get, by path, but for the library: its type and what it is."""
    return {
        "/": ("text/html; charset=utf-8", html(session).encode()),
        "/explore.js": (SCRIPT, _read("aquasim.explore", "explore.js").encode()),
        "/style.css": ("text/css; charset=utf-8", _style().encode()),
    }


@cache
def library() -> tuple[str, bytes]:
    """Return the library that draws; its first time takes a second or two."""
    return SCRIPT, bundle().encode()


def html(session: Session) -> str:
    """Return the page."""
    return str(
        _template().render(
            session=session,
            scenario=session.scenario,
            first=session.first,
            most=MOST_SYSTEMS,
            document=_document(session),
        )
    )


def _document(session: Session) -> str:
    """Return what the script needs to know, without any character that HTML gives a meaning."""
    controls = [
        {"id": control.id, "place": control.place, "texts": [control.text(stop) for stop in control.stops]}
        | {"unset": None if control.now is not None else control.text(None)}
        for control in session.controls
    ]
    value: dict[str, Any] = {
        "controls": controls,
        "config": {mode: config(mode, legend=False) for mode in CATEGORY},
        "colors": len(CATEGORY["light"]),
    }
    text = json.dumps(clean(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _style() -> str:
    palette = ""
    for mode, colors in CATEGORY.items():
        rules = "".join(f"--c{place}: {color}; " for place, color in enumerate(colors))
        palette += f"@media (prefers-color-scheme: {mode}) {{ :root {{ {rules}}} }}\n"
    swatches = "".join(f".c{n} {{ background: var(--c{n}); }}\n" for n in range(len(CATEGORY["light"])))
    return palette + swatches + _read("aquasim.report", "page.css") + _read("aquasim.explore", "explore.css")


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


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
    return place.from_string(_read("aquasim.explore", "explore.html"))
