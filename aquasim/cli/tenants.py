"""Tables of runs with several tenants: one per tenant, a row per system."""

from typing import Any

from rich.console import Console

from aquasim.cli.narrow import print_figures
from aquasim.cli.tables import COLUMNS, Column, rows_of
from aquasim.cli.text import shown
from aquasim.scenario.server import ServerScenario


def _key(name: str, scale: float = 1.0) -> Any:
    return lambda summary: None if summary.get(name) is None else summary[name] * scale


WORK = (
    Column("items\n/s", _key("items_per_s"), 1, 2),
    Column("items\n/min", _key("items_per_s", 60), 1, 1),
    Column("unit\np50 ms", _key("unit_p50_s", 1e3), -1, 1),
    Column("unit\np99 ms", _key("unit_p99_s", 1e3), -1, 1),
    Column("peer\nGB", _key("peer_bytes", 1e-9), 0, 0),
    Column("host\nGB", _key("host_bytes", 1e-9), 0, 0),
)


def print_tenants(scenario: ServerScenario, results: dict[str, dict[str, Any]]) -> None:
    """Print a table per tenant that is to be shown; the best value of each column is bold and starred."""
    console = Console()
    console.print(f"[bold]{shown(scenario.question)}[/bold]", highlight=False)
    baseline = scenario.baseline or next(iter(results))
    for name in scenario.show or scenario.tenants:
        found = {s: summary["tenants"][name] for s, summary in results.items() if name in summary["tenants"]}
        if found:
            _print_tenant(console, name, found, baseline)


def _print_tenant(console: Console, name: str, found: dict[str, dict[str, Any]], baseline: str) -> None:
    kind = next(iter(found.values()))["kind"]
    console.print(f"\n[bold]{shown(name)}[/bold] ({kind})", highlight=False)
    columns = COLUMNS if kind == "llm" else WORK
    print_figures(console, "system", [column.title for column in columns], rows_of(columns, found))
    for system, summary in found.items():
        if baseline in found and system != baseline:
            text = _against(summary, found[baseline])
            if text:
                console.print(f"[dim]{shown(system)} / {shown(baseline)}: {text}[/dim]", highlight=False)


def _against(summary: dict[str, Any], base: dict[str, Any]) -> str:
    """Return ratios to the baseline; nothing if all are one."""
    keys = {
        "TTFT p99": "ttft_p99",
        "RCT p50": "rct_p50",
        "RCT p99": "rct_p99",
        "items/s": "items_per_s",
    }
    ratios = {
        title: f"{summary[key] / base[key]:.2g}x"
        for title, key in keys.items()
        if summary.get(key) and base.get(key)
    }
    return (
        ", ".join(f"{title} {ratio}" for title, ratio in ratios.items())
        if {*ratios.values()} - {"1x"}
        else ""
    )
