"""What the commands print on a terminal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from aquasim.cli.narrow import print_figures
from aquasim.cli.text import shown
from aquasim.scenario.schema import Scenario
from aquasim.scenario.server import ServerScenario


@dataclass(frozen=True)
class Column:
    """A figure of a summary: its heading, its scale, and whether less or more is better (0: neither)."""

    title: str
    pick: Callable[[dict[str, Any]], float | None]
    better: int
    digits: int = 2


def _key(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda summary: summary.get(name)


def _milli(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda summary: None if summary.get(name) is None else summary[name] * 1e3


def _paged(summary: dict[str, Any]) -> float:
    return float(sum(summary["paged_bytes"].values())) / 1e9


COLUMNS = (
    Column("TTFT\np50 s", _key("ttft_p50"), -1),
    Column("TTFT\np99 s", _key("ttft_p99"), -1),
    Column("TPOT\np50 ms", _milli("tpot_p50"), -1, 1),
    Column("ITL\np99 ms", _milli("itl_p99"), -1, 0),
    Column("RCT\np50 s", _key("rct_p50"), -1, 1),
    Column("RCT\np99 s", _key("rct_p99"), -1, 1),
    Column("\ntok/s", _key("throughput_tok_s"), 1, 0),
    Column("pre-\nempt", _key("preemptions"), 0, 0),
    Column("paged\nGB", _paged, 0, 0),
)


def print_comparison(scenario: Scenario, results: dict[str, dict[str, Any]]) -> None:
    """Print one row per system; the best value of each column is bold and starred."""
    console = Console()
    console.print(f"[bold]{shown(scenario.question)}[/bold]", highlight=False)
    titles = [column.title for column in COLUMNS]
    print_figures(console, "system", titles, rows_of(COLUMNS, results))
    _print_remarks(console, scenario, results)


def rows_of(columns: Sequence[Column], results: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return each system's cells, the best of each column marked."""
    best = [_best(column, results) for column in columns]
    return {
        name: [_cell(c, summary, b) for c, b in zip(columns, best, strict=True)]
        for name, summary in results.items()
    }


def _best(column: Column, results: dict[str, dict[str, Any]]) -> float | None:
    values = [v for summary in results.values() if (v := column.pick(summary)) is not None]
    different = {f"{value:.{column.digits}f}" for value in values}
    if not column.better or len(different) < 2:
        return None
    return min(values) if column.better < 0 else max(values)


def _cell(column: Column, summary: dict[str, Any], best: float | None) -> str:
    value = column.pick(summary)
    if value is None:
        return "-"
    text = f"{value:,.{column.digits}f}"
    is_best = best is not None and text == f"{best:,.{column.digits}f}"
    return f"[bold green]*{text}[/bold green]" if is_best else text


def _print_remarks(console: Console, scenario: Scenario, results: dict[str, dict[str, Any]]) -> None:
    baseline = scenario.baseline or next(iter(results))
    base = results.get(baseline)
    for name, summary in results.items():
        lost = summary["requests_rejected"]
        if lost:
            text = f"{shown(name)}: {lost:,} request{'s' * (lost != 1)} rejected"
            console.print(text, style="yellow", highlight=False)
        if base and base is not summary and summary["ttft_p99"] and base["ttft_p99"] and summary["rct_p50"]:
            console.print(f"[dim]{shown(_against(name, summary, baseline, base))}[/dim]", highlight=False)


def _against(name: str, summary: dict[str, Any], baseline: str, base: dict[str, Any]) -> str:
    """Say in a line how a system compares with the baseline; ratios are the system's over the baseline's."""
    ratios = [
        f"{title} {summary[key] / base[key]:.2g}x"
        for title, key in (("TTFT p99", "ttft_p99"), ("RCT p50", "rct_p50"), ("RCT p99", "rct_p99"))
    ]
    return f"{name} / {baseline}: {', '.join(ratios)}"


def print_summary(scenario: Scenario | ServerScenario, system: str, summary: dict[str, Any]) -> None:
    """Print every figure of one run."""
    console = Console()
    console.print(f"[bold]{shown(scenario.question)}[/bold]", highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("system", shown(system))
    for name, value in _flat(summary):
        table.add_row(shown(name), value)
    console.print(table)


def _flat(summary: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """List figures with the path of their names; a link is one figure."""
    for name, value in summary.items():
        if isinstance(value, dict) and "capacity" in value:
            yield f"{within}{name}", _link(value)
        elif isinstance(value, dict):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", _number(value)


def _link(link: dict[str, float]) -> str:
    """Say what a link carried, how fast while busy, and which share of its capacity over the makespan."""
    rate = link["bytes"] / link["busy_s"] / 1e9 if link.get("busy_s") else 0.0
    return f"{link['bytes'] / 1e9:,.1f} GB at {rate:.0f} GB/s, {link.get('share', 0.0):.1%} of capacity"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else shown(str(value))


def print_scenarios(rows: dict[str, dict[str, Any]]) -> None:
    """Print each scenario with its question and systems."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("scenario", no_wrap=True)
    table.add_column("question")
    table.add_column("systems")
    for name, row in rows.items():
        table.add_row(shown(name), shown(row["question"]), shown(" ".join(row["systems"])))
    console.print(table)


def print_keys(rows: list[dict[str, Any]]) -> None:
    """Print each key with what it takes and its default, and below it what it means."""
    console = Console()
    for row in rows:
        default = {None: ", required", "": ""}.get(row["default"], f", {row['default']} if left out")
        console.print(f"[bold]{shown(row['path'])}[/bold]  {shown(row['takes'] + default)}", highlight=False)
        if row["about"]:
            console.print(Padding(f"[dim]{shown(row['about'])}[/dim]", (0, 0, 0, 4)), highlight=False)
