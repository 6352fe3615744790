"""The placer's study: mixes of models on 2 to 32 servers, against random and greedy placement."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from aquasim.place import Plan, Problem, load_problem, place
from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome
from aquasim.scenario.load import FOLDER

MIXES = ("aqua/s8-llm-donors", "aqua/s8-mixed")
SERVERS = (2, 4, 6, 8, 12, 16, 32)


def scaled(problem: Problem, servers: int) -> Problem:
    """Return the mix on so many servers, full, shares kept by largest remainders."""
    gpus = servers * problem.gpus
    shares = [model.replicas * gpus / (problem.servers * problem.gpus) for model in problem.models]
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in order[: gpus - sum(counts)]:
        counts[i] += 1
    models = tuple(
        replace(model, replicas=count) for model, count in zip(problem.models, counts, strict=True) if count
    )
    return replace(problem, servers=servers, models=models)


class Placement:
    """Optimal placement by size of the cluster."""

    key = "placer"

    def jobs(self) -> Sequence[Job]:
        """None: nothing is simulated."""
        return ()

    @cached_property
    def _plans(self) -> dict[str, dict[str, list[Plan]]]:
        """Plans by mix and method, one per size."""
        found: dict[str, dict[str, list[Plan]]] = {}
        for mix in MIXES:
            problem = load_problem(FOLDER / f"{mix}.place.toml")
            sizes = [scaled(problem, servers) for servers in SERVERS]
            found[mix] = {method: [place(size, method) for size in sizes] for method in ("paper", "random")}
        return found

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """Time to the proven optimum, and consumers with a donor on their server, against random placement."""
        rows, notes = [], []
        for mix, plans in self._plans.items():
            name = mix.removeprefix("aqua/s8-")
            best, random = plans["paper"], plans["random"]
            rows.append(Row(f"{name}: seconds to the optimum", Range.of(p.seconds for p in best), " s"))
            for label, group in (("placed", best), ("random", random)):
                share = Range.of(100 * plan.paired / plan.consumers for plan in group)
                rows.append(Row(f"{name}: consumers with a donor on their server, {label}", share, " %"))
            even = "with as many donors as consumers everywhere"
            proven = sum(plan.optimal for plan in best)
            balanced = sum(plan.score.imbalance == 0 for plan in best)
            notes.append(f"{name}: {proven} of {len(best)} proven optimal, {balanced} {even}")
        return [
            Finding(
                self.key,
                "AQUA-PLACER's mixed-integer program, 16 to 256 GPUs",
                "balances donors and consumers on every server (solve times not found)",
                None,
                tuple(rows),
                "2, 4, 6, 8, 12, 16, 32 servers of 8 GPUs",
                "Models of one kind are interchangeable, so the program counts patterns of servers instead of"
                " placing each model: 256 GPUs take less than a second, one variable per model and server"
                " minutes.",
                tuple(f"{mix}.place" for mix in MIXES),
                notes=tuple(notes),
            )
        ]
