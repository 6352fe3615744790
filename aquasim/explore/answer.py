"""One answer: systems of a scenario simulated, as a table and a few figures, ready for JSON."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from aquasim.errors import UserError
from aquasim.figures.text import clean
from aquasim.scenario.changes import Change, as_toml

FIGURES = ("ttft-distribution", "rct-distribution", "queue", "kv", "paged-out")
MOST_FIGURES = 4


class Job(NamedTuple):
    """What to simulate: a scenario, values that the command line set, values that controls set, systems."""

    scenario: str
    given: tuple[str, ...]
    changes: tuple[Change, ...]
    systems: tuple[str, ...]


def answer(job: Job) -> dict[str, Any]:
    """Simulate and fold; a user's error is the answer's `error`."""
    try:
        found: dict[str, Any] = clean(_answer(job))
        return found
    except UserError as error:
        return clean({"error": str(error)})  # type: ignore[no-any-return]
    except (ValueError, ArithmeticError, MemoryError) as error:
        return clean({"error": (str(error).splitlines() or [type(error).__name__])[0]})  # type: ignore[no-any-return]


def _answer(job: Job) -> dict[str, Any]:
    from aquasim.report.headline import headline, in_short
    from aquasim.scenario import Scenario, load_scenario
    from aquasim.sim.simulate import Plan, simulate_system

    texts = [*job.given, *(f"{key}={as_toml(value)}" for key, value in job.changes)]
    scenario = load_scenario(job.scenario, texts)
    assert isinstance(scenario, Scenario)
    began = time.perf_counter()
    plan = Plan.of(scenario)
    runs = [(name, simulate_system(plan, name)) for name in job.systems]
    took = time.perf_counter() - began
    summaries = {name: run.summary() for name, run in runs}
    baseline = scenario.baseline if scenario.baseline in summaries else job.systems[0]
    table = headline(summaries, baseline)
    return {
        "said": said(len(runs), len(plan.workload), took),
        "short": in_short(summaries, baseline) or "",
        "table": {**table._asdict(), "rows": [[cell._asdict() for cell in row] for row in table.rows]},
        "figures": [_entry(figure) for figure in _figures(runs)],
        "notes": list(plan.notes),
    }


def said(systems: int, requests: int, seconds: float) -> str:
    """Say what was simulated, and in what time."""
    each = f"{requests:,} request{'s' * (requests != 1)}{' each' * (systems > 1)}"
    return f"{systems} system{'s' * (systems != 1)}, {each}, simulated in {seconds:.2f} s"


def _figures(runs: Sequence[tuple[str, Any]]) -> list[Any]:
    from aquasim.figures.distributions import distributions
    from aquasim.figures.load import load_figures

    made = {figure.name: figure for figure in (*distributions(runs), *load_figures(runs))}
    return [made[name] for name in FIGURES if name in made][:MOST_FIGURES]


def _entry(figure: Any) -> dict[str, Any]:
    """Return a figure as the page draws it."""
    from aquasim.figures.theme import spec

    words = {"name": figure.name, "title": figure.title, "text": figure.text, "legend": list(figure.legend)}
    return {**words, "spec": spec(figure), "tables": figure.data}
