"""Tables of figures on any terminal: where they are too wide, they are turned on their side; no digit is cut."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aquasim.cli.text import shown

Rows = Mapping[str, Sequence[str]]
"""A figure per heading, with markup, by the name of the row."""


def print_figures(console: Console, name: str, titles: Sequence[str], rows: Rows) -> None:
    """Print a row per name under its titles, or a column per name, as many side by side as there is room for."""
    table = _flat(name, titles, rows)
    if _fits(console, table):
        console.print(table)
        return
    for number, names in enumerate(_groups(console, titles, rows)):
        if number:
            console.print()
        console.print(_upright(titles, {each: rows[each] for each in names}))


def _flat(name: str, titles: Sequence[str], rows: Rows) -> Table:
    table = _empty()
    table.add_column(f"\n{name}", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row, cells in rows.items():
        table.add_row(shown(row), *cells)
    return table


def _upright(titles: Sequence[str], rows: Rows) -> Table:
    """Return a row per figure and a column per name; a long name is broken, figures are not."""
    table = _empty()
    table.add_column("", overflow="fold")
    for name, cells in rows.items():
        table.add_column(shown(name), justify="right", overflow="fold", min_width=_widest(cells))
    for place, title in enumerate(titles):
        table.add_row(_joined(title), *(cells[place] for cells in rows.values()))
    return table


def _groups(console: Console, titles: Sequence[str], rows: Rows) -> Iterator[list[str]]:
    """Give names whose columns fit side by side; one that does not fit alone is alone."""
    group: list[str] = []
    for name in rows:
        wider = {each: rows[each] for each in (*group, name)}
        if group and not _fits(console, _upright(titles, wider)):
            yield group
            group = []
        group.append(name)
    yield group


def _empty() -> Table:
    return Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim")


def _fits(console: Console, table: Table) -> bool:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width


def _widest(cells: Sequence[str]) -> int:
    return max((Text.from_markup(cell).cell_len for cell in cells), default=1)


def _joined(title: str) -> str:
    """Return a heading of two lines as one: its parts of a word together, others with a space."""
    first, _, second = title.partition("\n")
    if first.endswith("-"):
        return first[:-1] + second
    return f"{first}{second}" if second.startswith("/") else f"{first} {second}".strip()
