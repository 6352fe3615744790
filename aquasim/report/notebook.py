"""A run in a notebook: its figures as a table, and two charts as pictures that need neither scripts nor a network."""

from base64 import b64encode
from html import escape

from aquasim.figures.text import shown
from aquasim.records.run import Run
from aquasim.report.headline import WORK, headline
from aquasim.report.page import Cell, Table

MOST_TENANTS = 8


def run_html(run: Run) -> str:
    """Return what a notebook shows of a run."""
    parts = tenants_of(run) if "tenants" in run.meta else [run]
    question = (run.meta.get("scenario") or {}).get("question") or run.name
    return f"<div><strong>{_text(str(question))}</strong>{''.join(map(_part, parts[:MOST_TENANTS]))}</div>"


def tenants_of(run: Run) -> list[Run]:
    """Return each tenant's run."""
    return [run.only(name) for name in run.meta["tenants"]]


def _part(run: Run) -> str:
    if run.meta.get("kind") in (None, "llm"):
        table = headline({shown(run.name): run.summary()}, None)
        return _table(table) + _pictures(run)
    from aquasim.records.tenants import work_summary

    return _table(headline({shown(run.name): work_summary(run)}, None, WORK))


def _pictures(run: Run) -> str:
    from aquasim.figures.distributions import distributions
    from aquasim.figures.requests import strips
    from aquasim.figures.theme import svg

    runs = [(shown(run.name), run)]
    figures = [*distributions(runs)[:1], *strips(runs)[:1]]
    images = "".join(
        f'<img alt="{_text(figure.title)}" style="max-width:min(100%,560px)" '
        f'src="data:image/svg+xml;base64,{b64encode(svg(figure).encode()).decode()}">'
        for figure in figures
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{images}</div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in table.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(cell: Cell) -> str:
    return f"<td>{_text(cell.text)}</td>"


def _text(text: str) -> str:
    return escape(shown(text))
