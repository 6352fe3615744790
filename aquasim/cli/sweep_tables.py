"""Tables of sweeps and bisections on a terminal, as JSON and as CSV, and their progress."""

import math
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aquasim.cli.text import shown, visible

if TYPE_CHECKING:
    import pandas as pd

EVERY_S = 10.0
"""Between lines of progress where there is no terminal."""


class Ticker:
    """Progress with points per second and the time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = self._told = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Ticker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, of: int) -> None:
        """Show how many points are done."""
        if sys.stderr.isatty():
            self._show(done, of)
        elif time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            rate = done / (self._told - self._started)
            left = f", {(of - done) / rate:.0f} s left" if rate else ""
            print(f"{self._what}: {done:,} of {of:,} points, {rate:.3g}/s{left}", file=sys.stderr, flush=True)

    def _show(self, done: int, of: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            rate = TextColumn("{task.fields[rate]}")
            columns = (
                *Progress.get_default_columns()[:-1],
                MofNCompleteColumn(),
                rate,
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=of, rate="")
        speed = done / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, completed=done, total=of, rate=f"{speed:.3g} points/s")


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a table's rows for JSON: None for what is undefined."""
    return [{str(key): clean(value) for key, value in row.items()} for row in table.to_dict("records")]


def clean(value: Any) -> Any:
    """Return a value for JSON."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short(keys: Sequence[str]) -> list[str]:
    """Return what tells keys apart: their last parts, as many as it takes."""
    parts = [key.split(".") for key in keys]
    found = []
    for mine in parts:
        depth = 1
        while sum(other[-depth:] == mine[-depth:] for other in parts) > 1 and depth < len(mine):
            depth += 1
        found.append(".".join(mine[-depth:]))
    return found


def number(value: Any) -> str:
    """Return a value in four digits."""
    value = clean(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return shown(str(value))


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun, singular where it is one."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def half_width(mean: Any, high: Any) -> str:
    """Return a mean with half its interval, if there is one."""
    half = clean(high - mean) if high is not None and mean is not None else None
    if half is None:
        return number(mean)
    return f"{number(float(f'{mean:.3g}'))}±{number(float(f'{half:.2g}'))}"


def wrapped(head: str, width: int = 9) -> str:
    """Return a heading in short lines, broken between words."""
    lines = [""]
    for word in visible(head).replace("_", " ").split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 0) -> Any:
    """Return a table with the numbers at the right, `left` columns of names before them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim")
    for index, head in enumerate(heads):
        table.add_column(
            Text(head), justify="left" if index < left else "right", overflow="fold", vertical="bottom"
        )
    for row in rows:
        table.add_row(*row)
    return table
