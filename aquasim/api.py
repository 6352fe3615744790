"""The Python interface: scenarios in, runs out."""

from collections.abc import Iterable
from os import PathLike, fspath

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
    if isinstance(changes, str):
        raise UserError(f"changes is {changes!r}; a list of such strings is needed")
    if not isinstance(scenario, Scenario | ServerScenario):
        scenario = load_scenario(fspath(scenario), changes)
    elif list(changes):
        raise UserError("changes apply to a scenario's name or file, not to a Scenario")
    chosen = system or scenario.baseline or next(iter(scenario.systems))
    if isinstance(scenario, ServerScenario):
        from aquasim.sim.tenants.plan import SystemPlan
        from aquasim.sim.tenants.simulate import simulate_tenants

        return simulate_tenants(SystemPlan.of(scenario, chosen))
    return simulate_system(Plan.of(scenario), chosen)
