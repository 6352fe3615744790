"""`profiles`: what hardware profiles ship, what they were fitted to, how far off they are."""

from typing import Any

from aquasim.cli.output import Form, emit


def profiles_command(form: Form) -> None:
    """List the profiles that ship: what they describe, what they were fitted to, how far off they are."""
    from aquasim.hardware.profile import profile_names

    rows = {name: _summary(name) for name in profile_names()}
    emit(
        form,
        lambda: rows,
        lambda: ({"profile": name, **row} for name, row in rows.items()),
        lambda: _print_profiles(rows),
    )


OPERATORS = ("gemm", "decode_attention", "prefill_attention", "mixed_attention", "all_reduce", "elementwise")


def _summary(name: str) -> dict[str, Any]:
    from aquasim.calibrate.published import residuals
    from aquasim.hardware.profile import load_profile

    profile = load_profile(name)
    found = residuals(profile.blocks)
    worst = {
        operator: max(
            (row for key, row in found.items() if key.split(".")[0] == operator),
            key=lambda row: row["median"],
        )
        for operator in OPERATORS
        if any(key.split(".")[0] == operator for key in found)
    }
    kernels = dict(profile.blocks["kernels"])
    return {
        "title": profile.title,
        "memory_gib": round(profile.memory_bytes / 2**30, 1),
        "fitted_from": kernels.pop("source"),
        "versions": kernels,
        "all_reduce_gpus": sorted(profile.all_reduce),
        "links": sorted(profile.links),
        "residuals": {name: {key: row[key] for key in ("median", "p90")} for name, row in worst.items()},
    }


WIDEST = 80
"""Columns of a terminal that are used at most."""


def _print_profiles(rows: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console

    from aquasim.cli.narrow import print_figures
    from aquasim.cli.text import shown

    console = Console(highlight=False)
    if console.width > WIDEST:
        console = Console(highlight=False, width=WIDEST)
    titles = ["\nGiB", *(_TITLES.get(operator, f"\n{operator}") for operator in OPERATORS)]
    print_figures(console, "profile", titles, {name: _cells(row) for name, row in rows.items()})
    console.print("[dim]relative errors on samples held out, median / 90th percentile in percent[/dim]")
    for name, row in rows.items():
        versions = ", ".join(f"{key} {value}" for key, value in row["versions"].items())
        says = "; ".join(text for text in (row["fitted_from"], versions) if text)
        console.print(f"[bold]{name}[/bold] {shown(row['title'] + ': ' + says)}")


def _cells(row: dict[str, Any]) -> list[str]:
    errors = (_error(row["residuals"].get(operator)) for operator in OPERATORS)
    return [f"{row['memory_gib']:.0f}", *errors]


_TITLES = {
    "decode_attention": "decode\nattention",
    "prefill_attention": "prefill\nattention",
    "mixed_attention": "mixed\nattention",
    "all_reduce": "all-\nreduce",
    "elementwise": "element-\nwise",
}


def _error(residual: dict[str, float] | None) -> str:
    return f"{100 * residual['median']:.1f}/{100 * residual['p90']:.0f}" if residual else "-"
