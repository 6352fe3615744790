"""Pages of validations: what a table and a figure of replayed runs hold."""

from typing import Any

import pytest

from aquasim.report.page import Table
from aquasim.report.validation import replays_page

MEASURED = {
    ("a", "ttft", "p50"): 2.0,
    ("a", "ttft", "p90"): 3.0,
    ("a", "itl", "mean"): 0.5,
    ("b", "ttft", "p99"): 4.0,
}


def error(run: str, metric: str, statistic: str, measured: float, off: float | None = 0.1) -> dict[str, Any]:
    """Return an error as `validate --json` writes it."""
    simulated = measured * (1 + (off or 0.0))
    return {
        "dataset": "d", "run": run, "part": "2/s", "group": "g", "metric": metric, "statistic": statistic,
        "measured": measured, "simulated": simulated, "error": off,
    }  # fmt: skip


def page(*errors: dict[str, Any]) -> Any:
    """Return a page of these errors."""
    return replays_page({"errors": list(errors), "sums": [], "skipped": []})


def test_a_row_per_run_with_the_median_or_what_stands_for_it() -> None:
    """Columns: medians and p99; the mean where no run has a median; figures below the errors, a dash for none."""
    found = page(*(error(*key, value) for key, value in MEASURED.items()))
    (table,) = (part for part in found.sections[1].parts if isinstance(part, Table))
    assert table.head == ("run", "TTFT p50", "ITL mean", "TTFT p99")
    cells = [[(cell.text, cell.note) for cell in row] for row in table.rows]
    assert cells == [
        [("a 2/s", ""), ("+10.0%", "2 → 2.2"), ("+10.0%", "0.5 → 0.55"), ("-", "")],
        [("b 2/s", ""), ("-", ""), ("-", ""), ("+10.0%", "4 → 4.4")],
    ]


def test_times_lie_beside_each_other_and_throughput_does_not() -> None:
    """The figure of agreement has a dot per time, by metric; tokens per second are no time."""
    errors = [error(*key, value) for key, value in MEASURED.items()]
    found = page(*errors, error("a", "throughput", "mean", 900.0))
    (figure,) = (figure for figure in found.figures if figure.name == "agreement")
    assert figure.legend == ("TTFT", "ITL")
    assert figure.data["rows"]["x"] == [2.0, 3.0, 0.5, 4.0]
    assert figure.data["rows"]["y"] == pytest.approx([2.2, 3.3, 0.55, 4.4])
    assert figure.data["line"]["x"] == pytest.approx([0.5, 4.4])


def test_what_could_not_be_compared_is_left_out() -> None:
    """Nothing measured, nothing drawn; a page there is all the same."""
    found = page(error("a", "ttft", "p50", 0.0, None))
    assert found.figures == []
    assert "Run by run" in found.html()
