"""AQUA's requirement M18: the profiler's signed GB, and the placer's objective, constraints and map."""

from itertools import product

import pytest

from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.place import Model, Problem, load_problem, place
from aquasim.producers import load_producer
from aquasim.reproduce.aqua.placement import MIXES, SERVERS, scaled
from aquasim.reproduce.jobs import shared
from aquasim.scenario.load import FOLDER
from aquasim.surplus import Serve, judge, sweep
from aquasim.surplus.produce import producer_room, producer_sweep

GIB = 1 << 30


def test_m18_the_profiler_gives_signed_bytes_from_a_sweep() -> None:
    """A producer that saturates has memory to give, an LLM that climbs to its last batch lacks it, by one rule."""
    profile, producer = load_profile("a100"), load_producer("sd")
    image = judge(producer_sweep(producer, profile), producer_room(producer, profile))
    serve = Serve(profile, load_model("CodeLlama-34B"), 1, 512, 256, max_num_seqs=64)
    text = judge(sweep(serve), serve.room)
    assert image.surplus_bytes > 20 * GIB
    assert image.saturated
    assert text.surplus_bytes < 0
    assert not text.saturated


@pytest.mark.parametrize(("mix", "servers"), list(product(MIXES, SERVERS)))
def test_m18_the_placer_minimises_surplus_plus_imbalance(mix: str, servers: int) -> None:
    """Every study mix to the proven optimum; one model per GPU, every job once, objective as the paper's."""
    problem = scaled(load_problem(FOLDER / f"{mix}.place.toml"), servers)
    plan = place(problem)
    assert plan.optimal
    surplus = max(server.surplus_bytes for server in plan.servers)
    excess = max(server.donors - server.consumers for server in plan.servers)
    assert plan.objective_bytes == surplus + 80 * GIB * excess
    for server in plan.servers:
        gpus = [gpu for job in server.jobs for gpu in job.gpus]
        assert sorted([*gpus, *server.idle]) == list(range(8))
    placed = [(job.model.name, job.replica) for server in plan.servers for job in server.jobs]
    assert len(set(placed)) == len(placed) == sum(model.replicas for model in problem.models)
    assert plan.objective_bytes <= place(problem, "random").objective_bytes


def test_m18_shards_stay_on_one_server() -> None:
    """A job's shards share a server, and its consumers are paired there."""
    models = (Model("seventy", -20 * GIB, 4, tp=2), Model("donor", 30 * GIB, 8))
    plan = place(Problem(2, models))
    for server in plan.servers:
        assert all(len(job.gpus) == job.model.tp for job in server.jobs)
        assert {pair.consumer for pair in server.pairs} == {
            gpu for job in server.jobs if job.model.name == "seventy" for gpu in job.gpus
        }


def test_m18_the_map_is_what_the_scenario_of_the_whole_server_uses() -> None:
    """The pairs of s11 are the placer's own."""
    plan = place(load_problem(FOLDER / "aqua/s11-server.place.toml"))
    (server,) = plan.servers
    names = {gpu: job.model.name for job in server.jobs for gpu in job.gpus}
    pairs = {names[pair.consumer]: (names[pair.donor],) for pair in server.pairs}
    assert pairs == shared("aqua/s11-server").pairs
