"""The placer against exhaustive search, another formulation, its baselines, and its own constraints."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from placements import GIB, MIXES, brute_force, check, problems, study
from scipy.optimize import Bounds, LinearConstraint, milp

from aquasim.errors import UserError
from aquasim.place import METHODS, Model, Problem, place, sources
from aquasim.place.patterns import all_patterns, how_many
from aquasim.place.problem import Instance


def placed_or_refused(problem: Problem, best: int | None, **options: Any) -> Any:
    """Place, or assert that a refusal is right."""
    if best is None:
        with pytest.raises(UserError):
            place(problem, **options)
        return None
    return place(problem, **options)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_optimum_is_that_of_exhaustive_search(problem: Problem) -> None:
    """Over all placements of small problems none has a smaller objective; what cannot be placed is refused."""
    best = brute_force(problem)
    plan = placed_or_refused(problem, best)
    if plan is not None:
        assert (plan.objective_bytes, plan.optimal) == (best, True)
        check(plan)


@settings(deadline=None, max_examples=60)
@given(problems(tight=True))
def test_without_patterns_the_bound_and_the_constraints_hold(problem: Problem) -> None:
    """With too many patterns to enumerate the bound is never above the optimum, nor the placement below it."""
    best = brute_force(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "MOST_PATTERNS", 0)
        plan = placed_or_refused(problem, best)
    if plan is not None:
        assert plan.bound_bytes <= best <= plan.objective_bytes
        check(plan)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from(METHODS[1:]), st.integers(0, 3))
def test_baselines_keep_the_constraints_and_never_beat_the_optimum(
    problem: Problem, method: str, seed: int
) -> None:
    """A baseline's placement is one, its bound holds, and its objective is at least the optimum."""
    problem = Problem(problem.servers, problem.models, problem.gpus, problem.hbm_bytes, seed, problem.donors)
    try:
        plan = place(problem, method)
    except UserError:
        assume(False)
    check(plan)
    best = place(problem)
    assert plan.bound_bytes <= best.objective_bytes <= plan.objective_bytes


@settings(deadline=None, max_examples=50)
@given(problems())
def test_patterns_are_all_that_fit_a_server(problem: Problem) -> None:
    """Every multiset of kinds that fits and leaves not too many GPUs idle is there once; their count is known."""
    instance = Instance.of(problem)
    assume(instance.idle >= 0)
    boxes = np.indices([int(n) + 1 for n in instance.count]).reshape(len(instance.count), -1).T
    used = boxes @ instance.tp
    assert how_many(instance) == int((used <= instance.gpus).sum())
    expected = boxes[(used <= instance.gpus) & (instance.gpus - used <= instance.idle)]
    assert sorted(map(tuple, all_patterns(instance).tolist())) == sorted(map(tuple, expected.tolist()))


def one_variable_per_model_and_server(problem: Problem) -> int:
    """Solve AQUA's own formulation, a binary per job and server, and return its objective in GiB."""
    gains = [model.spare_bytes // GIB for model in problem.models for _ in range(model.replicas)]
    jobs, servers = len(gains), problem.servers
    signs = np.sign(gains)
    each = np.kron(np.eye(jobs), np.ones(servers))
    rows, upper = [], []
    for s in range(servers):
        here = np.kron(np.ones(jobs), np.eye(servers)[s])
        for weights, column, limit in ((np.ones(jobs), None, 8), (gains, 0, 0), (80 * signs, 1, 0)):
            row = np.concatenate([here * np.repeat(weights, servers), np.zeros(2)])
            if column is not None:
                row[jobs * servers + column] = -1
            rows.append(row)
            upper.append(limit)
    result = milp(
        np.concatenate([np.zeros(jobs * servers), [1, 1]]),
        constraints=[
            LinearConstraint(np.column_stack([each, np.zeros((jobs, 2))]), 1, 1),
            LinearConstraint(np.array(rows), -np.inf, upper),
        ],
        integrality=np.concatenate([np.ones(jobs * servers), [0, 0]]),
        bounds=Bounds(
            np.concatenate([np.zeros(jobs * servers), [-np.inf] * 2]),
            np.concatenate([np.ones(jobs * servers), [np.inf] * 2]),
        ),
    )
    assert result.status == 0
    least: int = round(result.fun)
    return least


@pytest.mark.parametrize("mix", MIXES)
def test_patterns_agree_with_one_variable_per_model_and_server(mix: str) -> None:
    """AQUA's formulation, solved as it stands for 16 GPUs, has the same optimum."""
    problem = study(16, mix)
    assert place(problem).objective_bytes // GIB == one_variable_per_model_and_server(problem)


def test_the_same_problem_gives_the_same_plan() -> None:
    """Placements, pairs and figures repeat, whichever the method."""
    problem = study(64, "all")
    for method in METHODS:
        first, second = place(problem, method), place(problem, method)
        assert (first.servers, first.score, first.bound_bytes) == (
            second.servers,
            second.score,
            second.bound_bytes,
        )


def test_the_order_of_models_does_not_change_the_objective() -> None:
    """Listing models backwards gives the same optimum, as they have no rank."""
    problem = study(64, "all")
    turned = Problem(problem.servers, problem.models[::-1])
    assert place(problem).score == place(turned).score


def test_consumers_alone_are_placed() -> None:
    """Without donors the objective may be negative (AQUA's release bounds it by 0); a note says what it means."""
    plan = place(Problem(2, (Model("cfs", -30 * GIB, replicas=10),)))
    assert plan.objective_bytes == -5 * (30 + 80) * GIB
    assert (plan.paired, plan.consumers) == (0, 10)
    assert plan.note() == "no job gives memory: every consumer has to page to the host"
    check(plan)


def test_donors_alone_are_placed() -> None:
    """Without consumers donors are spread, and a note says that there is nothing to pair."""
    plan = place(Problem(2, (Model("sd", 30 * GIB, replicas=10),)))
    assert plan.objective_bytes == 5 * (30 + 80) * GIB
    assert plan.note() == "no job needs memory: there is nothing to pair"
    check(plan)


def test_among_equal_objectives_need_is_covered() -> None:
    """Two placements have the same objective; the one that lends each consumer all it needs is chosen."""
    models = (
        Model("large", 30 * GIB, 2),
        Model("small", 10 * GIB, 2),
        Model("starved", -30 * GIB, 2),
        Model("hungry", -10 * GIB, 2),
    )
    plan = place(Problem(2, models, gpus=4))
    assert plan.objective_bytes == 0
    assert plan.lent_bytes == plan.need_bytes == 80 * GIB


def test_a_time_limit_still_gives_a_placement_and_a_valid_bound() -> None:
    """With next to no time the plan is complete, and its bound is below the optimum found with time."""
    problem = study(256, "all")
    hurried, best = place(problem, time_limit_s=1e-6), place(problem)
    check(hurried)
    assert hurried.bound_bytes <= best.objective_bytes <= hurried.objective_bytes


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (Problem(2, (Model("sd", GIB, 17),)), "servers.count is 2: the jobs need 17 GPUs, there are 16"),
        (
            Problem(2, (Model("big", GIB, 1, tp=16),)),
            "models.big.tp is 16: all shards go on one server, which has 8 GPUs",
        ),
        (Problem(2, (Model("sd", 90 * GIB),)), "models.sd.gib is 90: a GPU has 80 GiB to give"),
        (
            Problem(2, (Model("odd", GIB, 3, tp=5),)),
            "the jobs cannot be packed: groups of 5 GPUs do not fit 2 servers of 8, "
            "although 1 GPU would stay idle",
        ),
        (Problem(2, ()), "models is empty"),
    ],
)
def test_what_cannot_be_placed_is_refused_in_one_line(problem: Problem, why: str) -> None:
    """Too few GPUs, groups that fit no server or cannot be packed, gifts above the memory: the line says which."""
    with pytest.raises(UserError) as caught:
        place(problem)
    assert str(caught.value) == why
