"""Controls of what arrives: how fast, how high the burst is, how many requests, which seed."""

from collections.abc import Iterator
from typing import Any

from aquasim.explore.controls import CAP, USUAL, Control, factors, one, spread
from aquasim.scenario import schema
from aquasim.scenario.changes import Change
from aquasim.scenario.schema import Scenario

PHASES, BURST, RATE = "workload.arrivals.phases", "burst", "rate"
"""The key of phases, and what stands for it until burst and rate are put together."""
SEEDS = 100

Phases = tuple[tuple[float, float], ...]


def arrivals(scenario: Scenario) -> Iterator[Control]:
    """Give the controls of how fast requests come; everything at once has none."""
    table = scenario.workload.arrivals
    key = "workload.arrivals"
    if isinstance(table, schema.PoissonTable | schema.GammaTable):
        yield factors("rate", "Arrival rate", "/s", table.rate, f"{key}.rate", 1 / 8, 8)
    elif isinstance(table, schema.FixedGapTable):
        rate, name = 1 / table.gap_s, f"{key}.gap_s"
        stops = spread(rate, 1 / 8, 8)
        yield Control("rate", "Arrival rate", "/s", stops, rate, lambda now: ((name, 1 / now),), (name,))
    elif isinstance(table, schema.ClosedLoopTable):
        yield factors("rate", "Requests open at once", "", table.cap, f"{key}.cap", 1 / 8, 4, whole=True)
    elif isinstance(table, schema.PiecewiseTable):
        yield from _phases(table.phases)
    elif table is None:
        now = scenario.workload.rate_scale
        yield factors("rate", "Arrival rate, times the trace's", "x", now, "workload.rate_scale", 1 / 8, 8)


def _phases(phases: Phases) -> Iterator[Control]:
    def factor(value: float) -> tuple[Change, ...]:
        return ((RATE, (value, phases)),)

    def height(value: float) -> tuple[Change, ...]:
        return ((BURST, (value, phases)),)

    stops = spread(1.0, 1 / 8, 8)
    yield Control("rate", "Arrivals, times the scenario's", "x", stops, 1.0, factor, (PHASES,))
    rates = {rate for rate, _ in phases}
    if len(rates) > 1:
        peak = max(rates)
        stops = spread(peak, 1 / 16, 4)
        yield Control("burst", "Rate within the burst", "/s", stops, peak, height, (PHASES,))


def together(found: dict[str, Any]) -> dict[str, Any]:
    """Put the height of a burst and a factor of all rates into one value of the phases."""
    burst, rate = found.pop(BURST, None), found.pop(RATE, None)
    if burst is None and rate is None:
        return found
    phases: Phases = (burst or rate)[1]
    peak = max(number for number, _ in phases)
    factor, height = rate[0] if rate else 1.0, burst[0] if burst else peak
    scaled = [[(height if number == peak else number) * factor, seconds] for number, seconds in phases]
    return {**found, PHASES: scaled}


def requests(scenario: Scenario) -> Control:
    """Return the control of how many requests there are."""
    key, count = "workload.requests", scenario.workload.requests
    now = float(count if count is not None and count <= CAP else USUAL)
    stops = tuple(sorted({float(n) for n in range(20, CAP + 1, 20)} | {now}))
    return Control("requests", "Requests", "", stops, now, one(key, whole=True), (key,))


def seed(scenario: Scenario) -> Control:
    """Return the control of the seed."""
    stops = tuple(sorted({float(n) for n in range(SEEDS)} | {float(scenario.seed)}))
    return Control("seed", "Seed", "", stops, float(scenario.seed), one("seed", whole=True), ("seed",))
