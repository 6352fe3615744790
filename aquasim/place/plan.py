"""A placement in the user's terms: which jobs are on which GPUs, who lends to whom, and how good that is."""

from dataclasses import dataclass
from math import inf
from typing import Any

from aquasim.place.pair import Pair, Side, most_lent, pair_up
from aquasim.place.problem import MIB, Instance, Ints, Model, Problem, Score, kinds

GIB = 1 << 30


@dataclass(frozen=True)
class Job:
    """One replica of a model and its GPUs, numbered from 0 within the server."""

    model: Model
    replica: int
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Server:
    """One server's jobs, the GPUs without one, and its pairs."""

    jobs: tuple[Job, ...]
    idle: tuple[int, ...]
    pairs: tuple[Pair, ...]
    most_lent_bytes: int
    """By an optimal assignment, to compare the pairs with."""

    @property
    def surplus_bytes(self) -> int:
        """What its GPUs give minus what they need."""
        return sum(job.model.spare_bytes * job.model.tp for job in self.jobs)

    @property
    def need_bytes(self) -> int:
        """What its consumers need."""
        return sum(-job.model.spare_bytes * job.model.tp for job in self.jobs if job.model.spare_bytes < 0)

    @property
    def donors(self) -> int:
        """GPUs that give memory."""
        return sum(job.model.tp for job in self.jobs if job.model.spare_bytes > 0)

    @property
    def consumers(self) -> int:
        """GPUs that need memory."""
        return sum(job.model.tp for job in self.jobs if job.model.spare_bytes < 0)

    def coordinator_map(self) -> dict[str, list[dict[str, Any]]]:
        """Return what the server's coordinator takes: for each consumer GPU its donor GPUs with GiB."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pair in self.pairs:
            found.setdefault(str(pair.consumer), []).append({"gpu": pair.donor, "gib": gib(pair.bytes)})
        return found


@dataclass(frozen=True)
class Plan:
    """A placement, its objective, and how far from the optimum it can be. Amounts are bytes."""

    problem: Problem
    method: str
    """"paper", "greedy" or "random"."""
    formulation: str
    """For "paper": "patterns", or "exchanges" where those are too many. Else as `method`."""
    servers: tuple[Server, ...]
    score: Score
    """In MiB, as the solver counts."""
    bound_bytes: int
    """No placement has a smaller objective."""
    seconds: float

    @property
    def objective_bytes(self) -> int:
        """The paper's objective: greatest surplus plus HBM size times greatest imbalance."""
        return self.score.objective * MIB

    @property
    def optimal(self) -> bool:
        """Whether this is proven to be the optimum."""
        return self.objective_bytes == self.bound_bytes

    @property
    def gap(self) -> float:
        """(objective - bound) / |objective|; infinite where the objective is 0 and the bound is not."""
        over = self.objective_bytes - self.bound_bytes
        return over / abs(self.objective_bytes) if self.objective_bytes else (inf if over else 0.0)

    @property
    def consumers(self) -> int:
        """GPUs that need memory."""
        return sum(server.consumers for server in self.servers)

    @property
    def paired(self) -> int:
        """Consumer GPUs with a donor on their server."""
        return sum(len({pair.consumer for pair in server.pairs}) for server in self.servers)

    @property
    def lent_bytes(self) -> int:
        """What the pairs lend."""
        return sum(pair.bytes for server in self.servers for pair in server.pairs)

    @property
    def most_lent_bytes(self) -> int:
        """What optimal assignments would lend on the same servers."""
        return sum(server.most_lent_bytes for server in self.servers)

    @property
    def need_bytes(self) -> int:
        """What all consumers need."""
        return sum(server.need_bytes for server in self.servers)

    def note(self) -> str | None:
        """Say in a line what a placement without pairs means, or None."""
        if not self.consumers:
            return "no job needs memory: there is nothing to pair"
        if not any(server.donors for server in self.servers):
            return "no job gives memory: every consumer has to page to the host"
        return None


def gib(amount: int) -> float:
    """Bytes in GiB, to the MiB."""
    return round(amount / GIB, 3)


def lay_out(problem: Problem, instance: Instance, placed: Ints) -> tuple[Server, ...]:
    """Name the jobs of a placement [servers, kinds] and give them GPUs, equal servers side by side.

    Replicas of a model are dealt to servers in turn with those of other models of their kind.
    """
    assert instance.holds(placed)
    waiting = [
        sorted(((model, i) for model in models for i in range(model.replicas)), key=lambda job: job[1])[::-1]
        for models in kinds(problem).values()
    ]
    rows = sorted(placed.tolist(), reverse=True)
    return tuple(
        _server(problem, [waiting[k].pop() for k, n in enumerate(row) for _ in range(n)]) for row in rows
    )


def _server(problem: Problem, members: list[tuple[Model, int]]) -> Server:
    """Put jobs on GPUs in order, the widest first, and pair the GPUs."""
    jobs: list[Job] = []
    start = 0
    for model, replica in members:
        jobs.append(Job(model, replica, tuple(range(start, start + model.tp))))
        start += model.tp
    needs = [_side(job, gpu) for job in jobs for gpu in job.gpus if job.model.spare_bytes < 0]
    gifts = [_side(job, gpu) for job in jobs for gpu in job.gpus if job.model.spare_bytes > 0]
    pairs = pair_up(needs, gifts, problem.donors)
    idle = tuple(range(start, problem.gpus))
    return Server(tuple(jobs), idle, tuple(pairs), most_lent(needs, gifts, problem.donors))


def _side(job: Job, gpu: int) -> Side:
    bandwidth = inf if job.model.bandwidth is None else job.model.bandwidth
    return Side(gpu, abs(job.model.spare_bytes), bandwidth)


def document(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data for JSON; amounts in GiB."""
    return {
        "method": plan.method,
        "formulation": plan.formulation,
        "optimal": plan.optimal,
        "objective_gib": gib(plan.objective_bytes),
        "bound_gib": gib(plan.bound_bytes),
        "gap": None if plan.gap == inf else round(plan.gap, 6),
        "seconds": round(plan.seconds, 3),
        "max_surplus_gib": gib(plan.score.surplus * MIB),
        "max_imbalance_gpus": plan.score.imbalance,
        "consumer_gpus": plan.consumers,
        "paired_gpus": plan.paired,
        "need_gib": gib(plan.need_bytes),
        "lent_gib": gib(plan.lent_bytes),
        "assignment_lends_gib": gib(plan.most_lent_bytes),
        "note": plan.note(),
        "servers": [_server_document(i, server) for i, server in enumerate(plan.servers)],
    }


def _server_document(index: int, server: Server) -> dict[str, Any]:
    return {
        "server": index,
        "surplus_gib": gib(server.surplus_bytes),
        "donor_gpus": server.donors,
        "consumer_gpus": server.consumers,
        "idle_gpus": list(server.idle),
        "jobs": [
            {
                "model": j.model.name,
                "kind": j.model.kind,
                "replica": j.replica,
                "gpus": list(j.gpus),
                "gib": gib(j.model.spare_bytes),
            }
            for j in server.jobs
        ],
        "map": server.coordinator_map(),
    }


def maps(plan: Plan) -> dict[str, Any]:
    """Return the coordinators' maps, a server each: consumer GPU to donor GPUs with GiB."""
    return {"servers": [{"server": i, "map": s.coordinator_map()} for i, s in enumerate(plan.servers)]}
