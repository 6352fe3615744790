"""Checks every key of a sweep, and the type of every value, before anything runs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aquasim.core import make_policy
from aquasim.errors import UserError
from aquasim.scenario.changes import Change, as_toml, split
from aquasim.scenario.load import load_scenario
from aquasim.scenario.schema import Scenario
from aquasim.sweep.base import Base

Assignment = tuple[Change, ...]
Axis = Sequence[Assignment]

BOUNDS = re.compile(r"greater than|less than|finite number|at least|at most|more characters")
"""Complaints about a value of the right type: its points fail, the others run."""
ENOUGH = 200
"""Assignments of one kind (same keys, same types) that are looked at."""


class BadKeyError(Exception):
    """A change that no point can have: the key, and what is wrong."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


def check_keys(base: Base, axes: Sequence[Axis], systems: Iterable[str]) -> None:
    """Try each value of each axis in some point.

    Raises:
        BadKeyError: an unknown key, or a value of the wrong type. A value out of bounds is a matter of its points.
    """
    for axis in axes:
        for assignment in _some(axis):
            _check(base, assignment, [other for other in axes if other is not axis], tuple(systems))


def _some(axis: Axis) -> Iterator[Assignment]:
    """Leave out assignments that are like many others."""
    seen: dict[tuple[tuple[str, type], ...], int] = {}
    for assignment in axis:
        kind = tuple((key, type(value)) for key, value in assignment)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= ENOUGH:
            yield assignment


def _check(base: Base, assignment: Assignment, others: Sequence[Axis], systems: Sequence[str]) -> None:
    """Look for a point that the assignment is good in: a key may depend on another axis's value."""
    first: BadKeyError | None = None
    for changes in _around(assignment, others):
        complaint = _complaint(base, changes, systems)
        if complaint is None or complaint.key not in dict(assignment):
            return
        first = first or complaint
    if first is not None:
        raise first


def _around(assignment: Assignment, others: Sequence[Axis]) -> Iterator[Assignment]:
    """List points with the assignment: others at their first values, then one of them elsewhere at a time."""
    middle = [axis[0] for axis in others]
    yield _merged([*middle, assignment])
    for index, axis in enumerate(others):
        for other in _some(axis[1:]):
            yield _merged([*middle[:index], other, *middle[index + 1 :], assignment])


def _merged(assignments: Iterable[Assignment]) -> Assignment:
    return tuple(change for assignment in assignments for change in assignment)


def _complaint(base: Base, changes: Assignment, systems: Sequence[str]) -> BadKeyError | None:
    """Say what the scenario's own checks say against some changes."""
    texts = {f"{key}={as_toml(value)}": key for key, value in changes}
    try:
        scenario = load_scenario(base.file, [*base.fixed, *texts])
    except UserError as error:
        for text, key in texts.items():
            prefix = f"--set {text}: "
            if str(error).startswith(prefix) and not BOUNDS.search(str(error)):
                return BadKeyError(key, str(error).removeprefix(prefix))
        return None
    return _options(scenario, changes, systems) if isinstance(scenario, Scenario) else None


def _options(scenario: Scenario, changes: Assignment, systems: Sequence[str]) -> BadKeyError | None:
    """Check options of policies, which only the policy knows."""
    for key, _ in changes:
        parts = split(key)
        if parts[0] != "systems" or len(parts) < 4 or parts[2] != "options" or parts[1] not in systems:
            continue
        table = scenario.systems[parts[1]]
        name, options = parts[3], table.options
        try:
            make_policy(table.policy, **{name: options[name]})
        except ValueError as error:
            if "must be" not in str(error):
                return BadKeyError(key, str(error))
    return None


def metric_names(scenario: Any) -> set[str]:
    """Return the names that `Run.summary()` may have for a scenario; ones ending in a dot go on in any way."""
    from aquasim.records.run import Run
    from aquasim.records.tables import RunTables
    from aquasim.records.tenants import work_summary

    slo = {"ttft_s": 1.0}
    empty = Run([("engine", RunTables())], {"blocks": 1, "block_bytes": 1})
    serving = {*empty.summary({}), *(empty.summary(slo) if getattr(scenario, "slo", None) else ())}
    nested = {"paged_bytes.", "links."}
    if isinstance(scenario, Scenario):
        return (serving - {"paged_bytes", "links"}) | nested
    work = {*work_summary(empty), "items_per_s", "unit_p50_s", "unit_p99_s", "peer_bytes", "host_bytes"}
    found = {"links."}
    for name, tenant in scenario.tenants.items():
        if tenant.kind == "llm":
            more = {"slo_attainment", "goodput_rps"} if tenant.slo else set()
            names = (serving | more | {"paged_bytes.", "fetches.", "fetched_bytes.", "fetch_s"}) - {
                "paged_bytes",
                "links",
            }
        else:
            names = work
        found |= {f"tenants.{name}.{each}" for each in names}
    return found


def describe(changes: Mapping[str, Any] | Iterable[Change]) -> str:
    """Return changes in a line."""
    pairs = changes.items() if isinstance(changes, Mapping) else changes
    return ", ".join(f"{key}={value if isinstance(value, str) else as_toml(value)}" for key, value in pairs)
