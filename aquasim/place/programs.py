"""The linear and integer programs over patterns, and the one that finds a pattern, all solved by HiGHS."""

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from aquasim.place.patterns import Limits
from aquasim.place.problem import Instance, Ints

PROGRAM_S = 8.0
"""Longest time for one integer program; most take milliseconds."""
PRICING_S = 2.0
"""Longest time to look for one pattern."""
LEAST_S = 0.05
INFEASIBLE = 2  # HiGHS's status as scipy numbers it


class Shares(NamedTuple):
    """How many servers follow each pattern; None if none was found. `refuted`: there is no way."""

    servers: NDArray[np.float64] | None
    refuted: bool


def mix(instance: Instance, jobs: Ints, cost: Ints, whole: bool, deadline: float) -> Shares:
    """Place every job once, every server following one of the patterns `jobs`, at little cost (MiB)."""
    rows = np.column_stack([jobs, np.ones(len(jobs), np.int64)]).T
    right = np.append(instance.count, instance.servers)
    left_s = max(deadline - time.monotonic(), LEAST_S)
    result = milp(
        cost / 1024,
        constraints=LinearConstraint(csr_array(rows), right, right),
        integrality=np.full(len(jobs), int(whole)),
        bounds=Bounds(0, instance.servers),
        options={"time_limit": min(left_s, PROGRAM_S) if whole else left_s, "mip_rel_gap": 0.01},
    )
    return Shares(result.x, result.status == INFEASIBLE)


class Prices(NamedTuple):
    """How much is missing or too much at the least, what each kind's job is worth, and what a server costs."""

    missing: float
    worth: NDArray[np.float64]
    server: float
    servers: NDArray[np.float64]


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
    return Prices(float(result.fun), duals[:-1], float(duals[-1]), result.x[: len(jobs)])


class Best(NamedTuple):
    """The pattern worth most that was found, if any, and what none can exceed."""

    jobs: Ints | None
    bound: float


def most_worth(instance: Instance, limits: Limits, worth: NDArray[np.float64], deadline: float) -> Best:
    """Find the pattern within limits whose jobs are worth most."""
    weights, least, most = zip(*limits.rows(instance), strict=True)
    result: Any = milp(
        -worth,
        constraints=LinearConstraint(np.array(weights), least, most),
        integrality=np.ones(len(worth)),
        bounds=Bounds(0, np.minimum(instance.count, instance.gpus // instance.tp)),
        options={"time_limit": min(max(deadline - time.monotonic(), LEAST_S), PRICING_S)},
    )
    if result.status == INFEASIBLE:
        return Best(None, -np.inf)
    dual = result.mip_dual_bound
    bound = np.inf if dual is None else -float(dual)
    return Best(None if result.x is None else np.rint(result.x).astype(np.int64), bound)
