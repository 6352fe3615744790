"""Problems to place: AQUA's study mixes, random small ones, and what a placement must satisfy."""

import random
from collections import Counter
from fractions import Fraction
from itertools import product

from hypothesis import strategies as st

from aquasim.place import Model, Plan, Problem
from aquasim.place.problem import MIB

GIB = 1024 * MIB
AUDIO = {"audiogen": 35, "musicgen": 15}
VISION = {"stable-diffusion": 30, "sdxl": 20, "kandinsky": 40}
LLM = {"mistral": 45, "llama": 40}
CONSUMERS = {"opt-30b": -20, "lora": -10, "cfs": -30}
MIXES = {
    "llm": (Fraction(0), Fraction(0), Fraction(1, 2)),
    "all": (Fraction(1, 6), Fraction(1, 6), Fraction(1, 6)),
    "thirds": (Fraction(1, 3), Fraction(1, 3), Fraction(0)),
    "donors": (Fraction(1, 3), Fraction(1, 3), Fraction(1, 3)),
}
"""Shares of audio, vision and LLM donors; the rest are consumers. "llm" is the setting of AQUA's release."""


def study(gpus: int, mix: str, spare: int = 0, seed: int = 4) -> Problem:
    """Draw as AQUA's placer study does, from bags refilled when empty; `spare` servers more than needed."""
    rng = random.Random(seed)
    audio, vision, llm = (int(gpus * share) for share in MIXES[mix])
    drawn: Counter[str] = Counter()
    rest = gpus - audio - vision - llm
    for group, number in ((AUDIO, audio), (VISION, vision), (LLM, llm), (CONSUMERS, rest)):
        bag: list[str] = []
        for _ in range(number):
            bag = bag or rng.sample(sorted(group), len(group))
            drawn[bag.pop()] += 1
    spare_gib = AUDIO | VISION | LLM | CONSUMERS
    models = tuple(Model(name, spare_gib[name] * GIB, replicas) for name, replicas in sorted(drawn.items()))
    return Problem(gpus // 8 + spare, models)


@st.composite
def problems(draw: st.DrawFn, tight: bool = False) -> Problem:
    """Few jobs on few small servers, so that all placements can be tried; not all of them can be placed."""
    gpus = draw(st.integers(1, 4))
    amounts = st.integers(-12, 12).map(lambda n: n * GIB // 4) | st.integers(-5000, 5000).map(
        lambda n: n * MIB
    )
    models = draw(
        st.lists(
            st.builds(
                Model,
                st.just("model"),
                amounts,
                st.integers(1, 3),
                st.integers(1, gpus),
                bandwidth=st.none() | st.sampled_from([1e9, 5e10]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    named = tuple(
        Model(f"m{i}", m.spare_bytes, m.replicas, m.tp, "llm", m.bandwidth) for i, m in enumerate(models)
    )
    needed = sum(m.replicas * m.tp for m in named)
    servers = max(1, -(-needed // gpus)) + (0 if tight else draw(st.integers(0, 1)))
    hbm = draw(st.sampled_from([1, 5, 80])) * GIB
    return Problem(min(servers, 4), named, gpus, max(hbm, 12 * GIB), donors=draw(st.integers(1, 2)))


def jobs_of(problem: Problem) -> list[Model]:
    """Return the model of every job."""
    return [model for model in problem.models for _ in range(model.replicas)]


def objective_of(problem: Problem, where: tuple[int, ...]) -> int | None:
    """Return the paper's objective in bytes, written down anew, of jobs on servers; None if they do not fit."""
    surplus, lean, used = ([0] * problem.servers for _ in range(3))
    for model, server in zip(jobs_of(problem), where, strict=True):
        sign = (model.spare_bytes > 0) - (model.spare_bytes < 0)
        surplus[server] += model.tp * model.spare_bytes
        lean[server] += model.tp * sign * problem.hbm_bytes
        used[server] += model.tp
    return None if max(used) > problem.gpus else max(surplus) + max(lean)


def brute_force(problem: Problem) -> int | None:
    """Return the least objective over all placements, or None if there are none."""
    places = product(range(problem.servers), repeat=len(jobs_of(problem)))
    objectives = [found for where in places if (found := objective_of(problem, where)) is not None]
    return min(objectives, default=None)


def check(plan: Plan) -> None:
    """Assert every constraint on a plan, from its public data alone."""
    problem = plan.problem
    placed = Counter((job.model.name, job.replica) for server in plan.servers for job in server.jobs)
    assert placed == Counter((model.name, i) for model in problem.models for i in range(model.replicas))
    assert len(plan.servers) == problem.servers
    where = {(j.model.name, j.replica): i for i, server in enumerate(plan.servers) for j in server.jobs}
    keys = [(model.name, i) for model in problem.models for i in range(model.replicas)]
    assert objective_of(problem, tuple(where[key] for key in keys)) == plan.objective_bytes
    assert plan.bound_bytes <= plan.objective_bytes
    for server in plan.servers:
        gpus = [gpu for job in server.jobs for gpu in job.gpus]
        assert all(len(job.gpus) == job.model.tp for job in server.jobs)
        assert sorted([*gpus, *server.idle]) == list(range(problem.gpus))
        _check_pairs(
            plan, {gpu: job.model.spare_bytes for job in server.jobs for gpu in job.gpus}, server.pairs
        )


def _check_pairs(plan: Plan, spare: dict[int, int], pairs: tuple[tuple[int, int, int], ...]) -> None:
    needed: Counter[int] = Counter()
    lent: Counter[int] = Counter()
    for consumer, donor, amount in pairs:
        assert amount > 0
        needed[consumer] += amount
        lent[donor] += amount
    assert all(amount <= -spare[gpu] for gpu, amount in needed.items())
    assert all(amount <= spare[gpu] for gpu, amount in lent.items())
    most = plan.problem.donors
    assert max(Counter(pair[0] for pair in pairs).values(), default=0) <= most
    if most == 1:
        assert max(Counter(pair[1] for pair in pairs).values(), default=0) <= 1
