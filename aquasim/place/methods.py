"""Places a problem's jobs by the paper's objective or by a baseline."""

import time

from aquasim.errors import UserError
from aquasim.place.baselines import greedy_placement, random_placement
from aquasim.place.plan import Plan, lay_out
from aquasim.place.problem import MIB, Instance, Problem
from aquasim.place.solve import Solution, pack, quick_bound, solve

METHODS = ("paper", "greedy", "random")


def place(problem: Problem, method: str = "paper", time_limit_s: float = 60.0) -> Plan:
    """Place every job and pair consumers with donors.

    The objective is that of AQUA-PLACER (ASPLOS 2025), "paper": the greatest surplus of a server, what its GPUs give
    minus what they need, plus the HBM of one GPU times the greatest excess of donor over consumer GPUs on a server.
    Both maxima may be negative; AQUA's release bounds them by 0. Among placements of equal objective, one that
    leaves little need without a donor on the same server is chosen.

    Args:
        problem: servers and models.
        method: "paper" minimises the objective; "greedy" and "random" are baselines.
        time_limit_s: for "paper"; after it, the best placement found, with its gap.

    Returns:
        The plan. The same problem and method give the same plan unless time runs out.

    Raises:
        UserError: the jobs do not fit, or the baseline did not find a way.
    """
    started = time.monotonic()
    complaint = problem.complaint()
    if complaint is not None:
        keys, why = complaint
        raise UserError(f"{'.'.join(keys)} {why}")
    instance = Instance.of(problem)
    if method == "paper":
        found = solve(instance, time_limit_s)
    else:
        found = _baseline(problem, instance, method, started + time_limit_s)
    seconds = time.monotonic() - started
    servers = lay_out(problem, instance, found.placed)
    score = instance.score(found.placed)
    return Plan(problem, method, found.formulation, servers, score, found.bound * MIB, seconds)


def _baseline(problem: Problem, instance: Instance, method: str, deadline: float) -> Solution:
    """Place without a solver; the bound is that of averages and packing."""
    bound = quick_bound(instance, pack(instance, deadline))
    if method == "greedy":
        placed = greedy_placement(instance)
    elif method == "random":
        placed = random_placement(instance, problem.seed)
    else:
        raise UserError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    if placed is None:
        raise UserError(f"{method} placement found no server with room for every job; the optimum may")
    return Solution(placed, bound, method)
