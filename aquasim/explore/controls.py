"""What can be turned in a scenario: each control with its stops, and what a stop changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aquasim.errors import UserError
from aquasim.scenario.changes import Change
from aquasim.scenario.schema import Scenario

CAP, USUAL = 400, 180
"""Most requests of a run, and how many of a longer scenario's there are at first: an answer takes about a second."""
STOPS = 25

Changes = Callable[[float], tuple[Change, ...]]


@dataclass(frozen=True)
class Control:
    """A slider: its stops, where it stands in the scenario (None: systems differ), and what a stop changes.

    `keys` are those it changes, to find it again in errors.
    """

    id: str
    label: str
    unit: str
    stops: tuple[float, ...]
    now: float | None
    changes: Changes
    keys: tuple[str, ...]

    def text(self, value: float | None) -> str:
        """Return a value with its unit."""
        return "as in the scenario" if value is None else f"{value:,.4g}{self.unit}"

    @property
    def place(self) -> int:
        """Return the stop at which it begins."""
        return len(self.stops) // 2 if self.now is None else self.stops.index(self.now)


def controls_of(scenario: Scenario) -> tuple[Control, ...]:
    """Return the controls that a scenario has.

    Raises:
        UserError: its machine is unknown.
    """
    from aquasim.explore import machine, traffic

    return (
        *traffic.arrivals(scenario),
        traffic.requests(scenario),
        *machine.controls(scenario),
        traffic.seed(scenario),
    )


def capped(scenario: Scenario) -> tuple[Change, ...]:
    """Return what makes a scenario small enough, nothing if it is."""
    count = scenario.workload.requests
    return () if count is not None and count <= CAP else (("workload.requests", USUAL),)


def changes_of(controls: Sequence[Control], places: Mapping[str, int]) -> tuple[Change, ...]:
    """Return what the controls that were moved change.

    Raises:
        UserError: there is no such control, or it has no such stop.
    """
    known = {control.id: control for control in controls}
    for name, place in places.items():
        if name not in known:
            raise UserError(f"no control {name!r}; there are: {', '.join(known)}")
        if type(place) is not int or not 0 <= place < len(known[name].stops):
            raise UserError(f"{name}: stop {place!r}; valid are 0 to {len(known[name].stops) - 1}")
    found: dict[str, Any] = {}
    for name, control in known.items():
        if name in places:
            found |= dict(control.changes(control.stops[places[name]]))
    from aquasim.explore.traffic import together

    return tuple(together(found).items())


def spread(now: float, low: float, high: float, whole: bool = False) -> tuple[float, ...]:
    """Return stops by equal factors from `low` to `high` times `now`, which is one of them."""
    ratio = (high / low) ** (1 / (STOPS - 1))
    stops = {_round(now * low * ratio**step, whole) for step in range(STOPS)}
    return tuple(sorted({*stops, float(now)}))


def _round(value: float, whole: bool) -> float:
    short = float(f"{value:.3g}")
    return max(1.0, float(round(short))) if whole else short


def one(key: str, whole: bool = False) -> Changes:
    """Return what sets a single key."""
    return lambda value: ((key, int(value) if whole else value),)


def factors(
    id: str, label: str, unit: str, now: float, key: str, low: float, high: float, whole: bool = False
) -> Control:
    """Return the control of a key whose stops go from `low` to `high` times its value."""
    return Control(id, label, unit, spread(now, low, high, whole), float(now), one(key, whole), (key,))
