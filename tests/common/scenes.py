"""Scenarios of one engine, which most are."""

from collections.abc import Iterable

from aquasim.scenario import Scenario, load_scenario


def load_one(name_or_path: str, changes: Iterable[str] = ()) -> Scenario:
    """Read a scenario without tenants, with changes."""
    scenario = load_scenario(name_or_path, changes)
    assert isinstance(scenario, Scenario)
    return scenario
