"""What one page explores: a scenario with its controls, and answers to what a browser asks."""

from typing import Any

from aquasim.core import POLICIES
from aquasim.errors import UserError
from aquasim.explore.answer import Job
from aquasim.explore.controls import Control, capped, changes_of, controls_of
from aquasim.explore.workers import Workers
from aquasim.figures.text import shown
from aquasim.scenario import Scenario, load_scenario

FIRST, MOST_SYSTEMS = 5, 8
"""Systems shown at first, and at most: as many as there are colours."""


class Session:
    """A scenario, what of it can be turned, and the processes that simulate it."""

    def __init__(self, name: str, given: tuple[str, ...]) -> None:
        """Read the scenario.

        Raises:
            UserError: it is faulty, or has tenants.
        """
        from aquasim.sim.simulate import Plan

        scenario = load_scenario(name, given)
        if not isinstance(scenario, Scenario):
            raise UserError(
                f"{name}: explore is for scenarios of one engine; this one has tenants: aquasim compare"
            )
        self.name, self.given, self.scenario = name, given, scenario
        self.controls = controls_of(scenario)
        self.cap = capped(scenario)
        Plan.of(load_scenario(name, (*given, *(f"{key}={value}" for key, value in self.cap))))  # type: ignore[arg-type]
        self.systems = tuple(scenario.systems)
        self.workers = Workers()

    @property
    def first(self) -> tuple[str, ...]:
        """The systems shown at first: the baseline, and the last of those that know no output lengths."""
        base = self.scenario.baseline or self.systems[0]
        fair = [name for name in self.systems if not POLICIES[self.scenario.systems[name].policy].oracle]
        others = [name for name in fair if name != base][1 - FIRST :]
        return (base, *others)

    def answer(self, asked: Any) -> dict[str, Any]:
        """Answer what a browser sent: `values`, stops by control, and `systems`.

        Raises:
            UserError: it is no such thing.
            StaleError: newer input came meanwhile.
        """
        values, systems = self._read(asked)
        changes = (*self.cap, *changes_of(self.controls, values))
        found = self.workers.run(Job(self.name, self.given, changes, systems))
        if "error" in found:
            return {**found, "control": self._culprit(found["error"], values)}
        return {**found, "changed": self._changed(values)}

    def _read(self, asked: Any) -> tuple[dict[str, int], tuple[str, ...]]:
        if not isinstance(asked, dict) or asked.keys() != {"values", "systems"}:
            raise UserError("an object with values and systems is needed")
        values, systems = asked["values"], asked["systems"]
        if not isinstance(values, dict):
            raise UserError("values: an object is needed")
        if not isinstance(systems, list) or not all(isinstance(name, str) for name in systems):
            raise UserError("systems: a list of names is needed")
        if unknown := [name for name in systems if name not in self.systems]:
            raise UserError(f"no system {unknown[0]!r}; the scenario has: {', '.join(self.systems)}")
        chosen = tuple(name for name in self.systems if name in systems)
        if not 1 <= len(chosen) <= MOST_SYSTEMS:
            raise UserError(f"systems: choose 1 to {MOST_SYSTEMS}")
        return values, chosen

    def _culprit(self, error: str, values: dict[str, int]) -> str | None:
        """Return the control whose key an error names, one that was moved before others."""
        named = [control for control in self.controls if any(key in error for key in control.keys)]
        named.sort(key=lambda control: control.id not in values)
        if not named and len(values) == 1:
            return next(iter(values))
        return named[0].id if named else None

    def _changed(self, values: dict[str, int]) -> list[str]:
        """Say what differs from the scenario."""
        moved = [control for control in self.controls if self._differs(control, values)]
        words = []
        for control in moved:
            new = control.text(control.stops[values[control.id]])
            words.append(f"{control.label}: {new} instead of {control.text(control.now)}")
        if self.cap and not any(control.id == "requests" for control in moved):
            count = self.scenario.workload.requests
            words.insert(
                0, f"Requests: {self.cap[0][1]} instead of {f'{count:,}' if count else 'the whole trace'}"
            )
        return [shown(word) for word in words]

    def _differs(self, control: Control, values: dict[str, int]) -> bool:
        return control.id in values and control.stops[values[control.id]] != control.now
