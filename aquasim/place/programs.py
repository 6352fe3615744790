"""The linear and integer programs of the search, all solved by HiGHS."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from aquasim.place.patterns import Limits
from aquasim.place.problem import Instance, Ints

BUILD_S = 8.0
"""Longest time to build a placement from patterns; most take milliseconds."""
NUMBER_S = 4.0
"""Longest time to build one of numbered servers."""
PATTERN_S = 2.0
"""Longest time to look for one pattern."""
LEAST_S = 0.05
INFEASIBLE = 2  # HiGHS's status as scipy numbers it


@dataclass(frozen=True)
class Answer:
    """What limits allow: a placement, or none; `sure` if none is proven."""

    placed: Ints | None
    sure: bool = True


class Shares(NamedTuple):
    """How many servers follow each pattern, in fractions, if that was found; `refuted`: there is no way."""

    servers: NDArray[np.float64] | None
    refuted: bool


def relax(instance: Instance, jobs: Ints, cost: Ints, deadline: float) -> Shares:
    """Place every job once, fractions of servers following the patterns `jobs`, at the least cost (MiB)."""
    result = _mix(instance, jobs, cost, False, _left(deadline))
    return Shares(result.x, result.status == INFEASIBLE)


def build(instance: Instance, jobs: Ints, cost: Ints, deadline: float) -> Answer:
    """Place every job once, each server following one of the patterns `jobs`, at little cost (MiB)."""
    result = _mix(instance, jobs, cost, True, min(_left(deadline), BUILD_S))
    if result.x is None:
        return Answer(None, result.status == INFEASIBLE)
    placed = np.repeat(jobs, np.rint(result.x).astype(np.int64), axis=0)
    return Answer(placed) if instance.holds(placed) else Answer(None, sure=False)


def _mix(instance: Instance, jobs: Ints, cost: Ints, whole: bool, limit_s: float) -> Any:
    rows = np.column_stack([jobs, np.ones(len(jobs), np.int64)]).T
    right = np.append(instance.count, instance.servers)
    return milp(
        cost / 1024,
        constraints=LinearConstraint(csr_array(rows), right, right),
        integrality=np.full(len(jobs), int(whole)),
        bounds=Bounds(0, instance.servers),
        options={"time_limit": limit_s, "mip_rel_gap": 0.01},
    )


def number(instance: Instance, limits: Limits, deadline: float) -> Answer:
    """Place every job once: how many of each kind on each of a few servers, within limits."""
    servers, kinds = instance.servers, len(instance.tp)
    weights, least, most = zip(*limits.rows(instance), strict=True)
    rows = [np.kron(np.ones(servers), np.eye(kinds)), *(np.kron(np.eye(servers), w) for w in weights)]
    result: Any = milp(
        np.zeros(servers * kinds),
        constraints=LinearConstraint(
            csr_array(np.vstack(rows)),
            np.concatenate([instance.count, np.repeat(least, servers)]),
            np.concatenate([instance.count, np.repeat(most, servers)]),
        ),
        integrality=np.ones(servers * kinds),
        bounds=Bounds(0, np.tile(_most_of_each(instance), servers)),
        options={"time_limit": min(_left(deadline), NUMBER_S)},
    )
    if result.x is None:
        return Answer(None, result.status == INFEASIBLE)
    placed = np.rint(result.x).astype(np.int64).reshape(servers, kinds)
    kept = instance.holds(placed) and len(limits.kept_by(placed, instance)) == servers
    return Answer(placed) if kept else Answer(None, sure=False)


class Prices(NamedTuple):
    """How much is missing or too much at the least, what a job of each kind is worth, and what a server is."""

    missing: float
    worth: NDArray[np.float64]
    server: float


def price(instance: Instance, jobs: Ints) -> Prices:
    """Place as much as fractions of servers can by the patterns `jobs`, and price what would help most."""
    rows = np.column_stack([jobs, np.ones(len(jobs), np.int64)]).T
    extra = np.eye(len(rows))
    result: Any = linprog(
        np.concatenate([np.zeros(len(jobs)), np.ones(2 * len(rows))]),
        A_eq=csr_array(np.hstack([rows, extra, -extra])),
        b_eq=np.append(instance.count, instance.servers),
        method="highs",
    )
    duals = result.eqlin.marginals
    return Prices(float(result.fun), duals[:-1], float(duals[-1]))


class Best(NamedTuple):
    """The pattern worth most that was found, if any, and a worth that none exceeds."""

    jobs: Ints | None
    bound: float


def best_pattern(instance: Instance, limits: Limits, worth: NDArray[np.float64], deadline: float) -> Best:
    """Find the pattern within limits whose jobs are worth most."""
    weights, least, most = zip(*limits.rows(instance), strict=True)
    result: Any = milp(
        -worth,
        constraints=LinearConstraint(np.array(weights), least, most),
        integrality=np.ones(len(worth)),
        bounds=Bounds(0, _most_of_each(instance)),
        options={"time_limit": min(_left(deadline), PATTERN_S)},
    )
    if result.status == INFEASIBLE:
        return Best(None, -np.inf)
    dual = result.mip_dual_bound
    bound = np.inf if dual is None else -float(dual)
    return Best(None if result.x is None else np.rint(result.x).astype(np.int64), bound)


def _most_of_each(instance: Instance) -> Ints:
    """Return how many jobs of each kind a server can have."""
    most: Ints = np.minimum(instance.count, instance.gpus // instance.tp)
    return most


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), LEAST_S)
