"""What a process does for a sweep: batches of points in, rows out. Equal points give equal rows, wherever."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from aquasim.errors import UserError
from aquasim.hardware.local import LOCAL
from aquasim.scenario.schema import Scenario
from aquasim.scenario.server import ServerScenario
from aquasim.sweep.base import Point, fingerprint, resolved

if TYPE_CHECKING:
    from aquasim.hardware.profile import Profile

OK, FAILED = "ok", "failed"
DIED_TEXT = "the process that simulated it died: killed, or out of memory"
LONGEST = 1000
"""Characters of an error that are kept."""

Row = dict[str, Any]
"""key, status, error, system, seed, changes (JSON), and metrics by name, None where undefined."""


class Batch(NamedTuple):
    """Points of one scenario; a worker with another source refuses them."""

    fingerprint: str
    data: Mapping[str, Any]
    points: tuple[Point, ...]


class Reply(NamedTuple):
    """What came of a batch, in its order, the processor time it took, and the time."""

    rows: list[Row]
    cpu_s: float
    busy_s: float


class OtherSourceError(Exception):
    """The worker would run another aquasim than whoever asks."""


def run_batch(batch: Batch) -> Reply:
    """Run points one after the other; a point that fails is a row with its error."""
    if fingerprint() != batch.fingerprint:
        raise OtherSourceError("a worker has another version of aquasim; install the same one on every node")
    started, began = time.thread_time(), time.perf_counter()
    rows = [run_point(batch.data, point) for point in batch.points]
    return Reply(rows, time.thread_time() - started, time.perf_counter() - began)


def run_point(data: Mapping[str, Any], point: Point) -> Row:
    """Simulate one point of a scenario's tables."""
    try:
        metrics = dict(flat(_summary(resolved(data, point.changes, point.system, point.seed), point.system)))
    except UserError as error:
        return row_of(point, str(error))
    except ValidationError as error:
        return row_of(point, _first(error))
    except Exception as error:
        return row_of(point, f"{type(error).__name__}: {error}")
    return {**row_of(point, None), "metrics": metrics}


def row_of(point: Point, error: str | None) -> Row:
    """Return a row without metrics: a failed one if there is an error."""
    return {
        "key": point.key,
        "status": OK if error is None else FAILED,
        "error": None if error is None else " ".join(error.split())[:LONGEST],
        "system": point.system,
        "seed": point.seed,
        "changes": json.dumps(dict(point.changes), default=str),
        "metrics": {},
    }


def flat(summary: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float | None]]:
    """List a summary's numbers by dotted names."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{within}{name}.")
        elif value is None or isinstance(value, int | float):
            yield f"{within}{name}", None if value is None else float(value)


def _summary(tables: Mapping[str, Any], system: str) -> Mapping[str, Any]:
    if "tenants" in tables:
        from aquasim.sim.tenants.plan import SystemPlan
        from aquasim.sim.tenants.simulate import simulate_tenants

        return simulate_tenants(SystemPlan.of(ServerScenario.model_validate(tables), system)).summary()
    from aquasim.sim.simulate import Plan, simulate_system

    scenario = Scenario.model_validate(tables)
    machine = scenario.machine
    profile = None if machine.server == LOCAL else _profile(machine.server, machine.profile)
    return simulate_system(Plan.of(scenario, profile), system).summary()


@cache
def _profile(server: str, profile: str | None) -> "Profile":
    """Keep profiles, and the curves made of them, for the points to come."""
    from aquasim.sim.simulate import find_server

    return find_server(server, profile)[1]


def _first(error: ValidationError) -> str:
    """Put the first of a validation's complaints in one line."""
    first = error.errors()[0]
    keys = ".".join(str(part) for part in first["loc"])
    value: Any = first.get("input")
    shown = "" if isinstance(value, Mapping | Sequence) and not isinstance(value, str) else f" is {value!r}"
    return f"{keys}{shown}: {first['msg'][0].lower()}{first['msg'][1:]}"
