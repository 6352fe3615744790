"""The Python interface: scenarios in, runs out."""

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from aquasim.errors import UserError
from aquasim.records.run import Run
from aquasim.scenario import Scenario, ServerScenario, load_scenario
from aquasim.sim.simulate import Plan, simulate_system


def simulate(
    scenario: str | PathLike[str] | Scenario | ServerScenario,
    system: str | None = None,
    *,
    changes: Iterable[str] = (),
) -> Run:
    """Simulate one system of a scenario.

    Args:
        scenario: a shipped scenario's name, a TOML file, or a `Scenario` or `ServerScenario`.
        system: which of its systems; its baseline, else its first one, if left out.
        changes: "path.to.key=value" each, as `--set` on the command line.

    Returns:
        The run: `summary()`, and DataFrames `requests`, `steps`, `spans`, `chunks`, `transfers`, ...

    Raises:
        UserError: (a ValueError) one line that names what is wrong and what is valid.
    """
    wanted = _texts(changes)
    if system is not None and not isinstance(system, str):
        raise UserError(f"system is {system!r}; a system's name is needed")
    if not isinstance(scenario, Scenario | ServerScenario):
        scenario = load_scenario(_name(scenario), wanted)
    elif wanted:
        raise UserError("changes apply to a scenario's name or file, not to a Scenario")
    chosen = system or scenario.baseline or next(iter(scenario.systems))
    if isinstance(scenario, ServerScenario):
        from aquasim.sim.tenants.plan import SystemPlan
        from aquasim.sim.tenants.simulate import simulate_tenants

        return simulate_tenants(SystemPlan.of(scenario, chosen))
    return simulate_system(Plan.of(scenario), chosen)


def _texts(changes: Any) -> list[str]:
    """Return changes as a list, if that is what they are."""
    needed = 'a list of texts such as "workload.arrivals.rate=2" is needed'
    if isinstance(changes, str | bytes | Mapping) or not isinstance(changes, Iterable):
        raise UserError(f"changes is {changes!r}; {needed}")
    texts = list(changes)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"changes holds {text!r}; {needed}")
    return texts


def _name(scenario: Any) -> str:
    """Return a scenario's name or path as text."""
    name = fspath(scenario) if isinstance(scenario, PathLike) else scenario
    if not isinstance(name, str) or not name:
        raise UserError(
            f"scenario is {scenario!r}; a shipped scenario's name, a TOML file or a Scenario is needed"
        )
    return name
