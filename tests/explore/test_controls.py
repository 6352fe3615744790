"""Controls: those that a scenario has, at whose stops every scenario is still one."""

import pytest

from aquasim.errors import UserError
from aquasim.explore.controls import CAP, Control, capped, changes_of, controls_of
from aquasim.scenario import Scenario, load_scenario, scenario_names
from aquasim.scenario.changes import as_toml


def loaded(name: str, *changes: str) -> Scenario:
    """Return a scenario of one engine."""
    scenario = load_scenario(name, changes)
    assert isinstance(scenario, Scenario)
    return scenario


def ids(scenario: Scenario) -> list[str]:
    """Return its controls' names."""
    return [control.id for control in controls_of(scenario)]


SINGLE = [
    name for name in scenario_names() if isinstance(load_scenario(name), Scenario) and "local" not in name
]


@pytest.mark.parametrize("name", SINGLE)
def test_every_stop_is_a_scenario(name: str) -> None:
    """Each control begins where the scenario is, its stops rise, and any of them gives a valid scenario file."""
    scenario = loaded(name)
    for control in controls_of(scenario):
        assert list(control.stops) == sorted({*control.stops})
        assert control.now is None or control.stops[control.place] == control.now
        for place in {0, control.place, len(control.stops) - 1}:
            changes = changes_of(controls_of(scenario), {control.id: place})
            loaded(name, *(f"{key}={as_toml(value)}" for key, value in changes))


@pytest.mark.parametrize("name", SINGLE)
def test_where_it_stands_nothing_changes(name: str) -> None:
    """A control at the scenario's own stop gives the scenario itself."""
    scenario = loaded(name)
    for control in controls_of(scenario):
        if control.now is None or control.id in ("requests", "link", "pcie", "slice"):
            continue  # shortened, or a default that the scenario leaves out
        changes = changes_of([control], {control.id: control.place})
        assert loaded(name, *(f"{key}={as_toml(value)}" for key, value in changes)) == scenario, control.id


def test_only_what_the_scenario_has() -> None:
    """No peer's slider without a peer tier, no burst without phases, no slice without a policy with slices."""
    assert ids(loaded("small-h100")) == [
        "rate", "burst", "requests", "kv", "peer", "host", "link", "pcie", "slice", "seed",
    ]  # fmt: skip
    assert not {"peer", "link", "burst"} & {*ids(loaded("neo/length-a10g"))}
    assert {"host", "pcie"} <= {*ids(loaded("neo/length-a10g"))}
    poisson = loaded("small-h100", 'workload.arrivals={kind = "poisson", rate = 2}')
    assert "burst" not in ids(poisson)
    assert "rate" in ids(poisson)
    assert "rate" not in ids(loaded("small-h100", 'workload.arrivals={kind = "at-once"}'))


def test_burst_and_rate_go_together() -> None:
    """Both moved: the burst's height is set, then everything is scaled."""
    controls = {control.id: control for control in controls_of(loaded("small-h100"))}
    places = {
        "rate": controls["rate"].stops.index(2.0),
        "burst": controls["burst"].stops.index(80.0),
    }
    assert dict(changes_of(tuple(controls.values()), places)) == {
        "workload.arrivals.phases": [[2.0, 10], [160.0, 3], [2.0, 600]]
    }


def test_without_memory_a_tier_is_gone() -> None:
    """A peer that lends nothing is in no system's tiers."""
    changes = changes_of(controls_of(loaded("small-h100")), {"peer": 0})
    scenario = loaded("small-h100", *(f"{key}={as_toml(value)}" for key, value in changes))
    assert all("peer" not in table.tiers for table in scenario.systems.values())
    assert scenario.systems["aqua"].tiers == ("host",)


def test_runs_are_capped() -> None:
    """Whatever the scenario's size, no run has more requests than the cap."""
    for name in SINGLE:
        scenario = loaded(name)
        count = dict(capped(scenario)).get("workload.requests", scenario.workload.requests)
        assert count is not None
        assert count <= CAP
        (control,) = [control for control in controls_of(scenario) if control.id == "requests"]
        assert control.stops[-1] <= CAP


def test_unknown_controls_and_stops_are_refused() -> None:
    """One line says which there are."""
    controls: tuple[Control, ...] = controls_of(loaded("small-h100"))
    for places, words in (({"x": 1}, "no control 'x'"), ({"seed": 100}, "valid are 0 to 99")):
        with pytest.raises(UserError, match=words):
            changes_of(controls, places)
