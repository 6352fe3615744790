"""Tables on terminals of any width: lines fit, and no figure loses a digit."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from rich.text import Text

from aquasim.cli.tables import COLUMNS, print_comparison, rows_of
from aquasim.scenario import Scenario, load_scenario

Command = Callable[..., tuple[int, str, str]]
NAMES = ("fcfs", "fcfs-swap", "cfs-host-scattered", "aqua", "a-system-with-a-rather-long-name")


def summary(factor: float) -> dict[str, Any]:
    """Return figures that are long and all different."""
    keys = ("ttft_p50", "ttft_p99", "rct_p50", "rct_p99")
    found: dict[str, Any] = {key: (1234.567 + place) * factor for place, key in enumerate(keys)}
    found |= {"tpot_p50": 0.0987 * factor, "itl_p99": 12.345 * factor, "throughput_tok_s": 54321.6 * factor}
    return found | {
        "preemptions": int(98765 * factor), "paged_bytes": {"host_out": 7e12 * factor}, "requests_rejected": 1,
    }  # fmt: skip


RESULTS = {name: summary(1 + place / 7) for place, name in enumerate(NAMES)}


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_every_figure_is_whole(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any width every cell of the table is a word of its own, and no line is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    scenario = load_scenario("small-h100")
    assert isinstance(scenario, Scenario)
    print_comparison(scenario, RESULTS)
    shown = capsys.readouterr().out
    words = Counter(shown.split())
    cells = Counter(Text.from_markup(c).plain for row in rows_of(COLUMNS, RESULTS).values() for c in row)
    assert {cell: count for cell, count in cells.items() if words[cell] < count} == {}
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "aqua: 1 request rejected" in " ".join(shown.split())


@pytest.mark.parametrize("width", [40, 60])
def test_tenants_are_whole_too(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Tables of tenants are turned in the same way."""
    monkeypatch.setenv("COLUMNS", str(width))
    code, shown, error = command(
        "compare", "aqua/s5-elastic-h100", "--set", "duration_s=10", "-s", "intended"
    )
    assert (code, error) == (0, "")
    assert ("items/min" in shown) == (width == 40)
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown


@pytest.mark.parametrize("width", [40, 80, 165])
def test_profiles_keep_to_80_columns(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """No line of `profiles` is longer than 80 characters or the terminal; every profile has its source."""
    monkeypatch.setenv("COLUMNS", str(width))
    code, shown, _ = command("profiles")
    assert code == 0
    assert max(map(len, shown.splitlines())) <= min(width, 80)
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert "NVIDIA H100 SXM 80 GB" in " ".join(shown.split())
