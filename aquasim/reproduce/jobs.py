"""Simulations to run: a scenario, a system, changed values. Several at a time, each once, in processes."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from aquasim.processes import processes
from aquasim.scenario import ServerScenario, load_scenario
from aquasim.scenario.changes import with_changes

NS = 1e9


class Job(NamedTuple):
    """One simulation. `changes` are (path, value as JSON), so that a job can be a key; `series`: keep time lines."""

    scenario: str
    system: str
    changes: tuple[tuple[str, str], ...] = ()
    series: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a claim may ask of a simulation: summaries, what paging took, and time lines if they were wanted.

    `load[engine]`: NEO's metrics, mean seconds per output token from arrival to end without the first quarter of
    the requests (`latency_s`), and prompt and output tokens over the whole time (`tokens_per_s`).
    `paging[engine]`: GB moved, seconds of transfers, preemptions. `series`: rows of `work`, `leases`, `memory` and
    requests' (arrival, TTFT) by engine.
    """

    summary: dict[str, Any]
    paging: dict[str, dict[str, float]]
    load: dict[str, dict[str, float]]
    series: dict[str, Any]

    def tenant(self, name: str) -> dict[str, Any]:
        """Return one tenant's figures."""
        found: dict[str, Any] = self.summary["tenants"][name]
        return found


@cache
def shared(name: str) -> ServerScenario:
    """Load a scenario with tenants."""
    scenario = load_scenario(name)
    assert isinstance(scenario, ServerScenario), name
    return scenario


def points(name: str) -> list[tuple[tuple[str, str], ...]]:
    """Return every combination of the values that a scenario's `ranges` give."""
    ranges = shared(name).ranges
    return [
        tuple((path, json.dumps(value)) for path, value in zip(ranges, values, strict=True))
        for values in product(*ranges.values())
    ]


def grid(name: str, systems: Iterable[str], series: bool = False) -> list[Job]:
    """Return a job per system and point of a scenario's ranges."""
    chosen = list(systems)
    return [Job(name, system, point, series) for point in points(name) for system in chosen]


def run_job(job: Job) -> Outcome:
    """Run one simulation."""
    changes = {path: json.loads(value) for path, value in job.changes}
    scenario = load_scenario(job.scenario)
    if isinstance(scenario, ServerScenario):
        from aquasim.sim.tenants.plan import SystemPlan
        from aquasim.sim.tenants.simulate import simulate_tenants

        run = simulate_tenants(SystemPlan.of(scenario, job.system, changes))
    else:
        from aquasim.scenario import Scenario
        from aquasim.sim.simulate import Plan, simulate_system

        data = with_changes(scenario.model_dump(exclude_unset=True), changes.items())
        run = simulate_system(Plan.of(Scenario.model_validate(data)), job.system)
    return Outcome(run.summary(), _paging(run), _load(run), _series(run) if job.series else {})


def _load(run: Any) -> dict[str, dict[str, float]]:
    found = {}
    for index, engine in enumerate(run.engines):
        rows = run.columns("requests", index)
        if not len(rows["request"]):
            continue
        late = np.argsort(rows["arrival_ns"], kind="stable")[len(rows["request"]) // 4 :]
        each = (rows["finished_ns"] - rows["arrival_ns"]) / np.maximum(1, rows["output_tokens"]) / NS
        tokens = float((rows["prompt_tokens"] + rows["output_tokens"]).sum())
        seconds = float(rows["finished_ns"].max()) / NS
        found[engine] = {"latency_s": float(each[late].mean()), "tokens_per_s": tokens / seconds}
    return found


def _paging(run: Any) -> dict[str, dict[str, float]]:
    found = {}
    for index, engine in enumerate(run.engines):
        rows = run.columns("transfers", index)
        size = run.meta["block_bytes"]
        size = size[engine] if isinstance(size, Mapping) else size
        found[engine] = {
            "gb": float(rows["blocks"].sum()) * size / 1e9,
            "seconds": float((rows["end_ns"] - rows["start_ns"]).sum()) / NS,
            "preemptions": float(len(run.columns("preemptions", index)["request"])),
        }
    return found


def _series(run: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for index, engine in enumerate(run.engines):
        tables = {
            table: {
                name: column.tolist()
                for name, column in run.columns(table, index).items()
                if name != "engine"
            }
            for table in ("work", "leases", "memory")
        }
        requests = run.columns("requests", index)
        tables["requests"] = {
            "arrival_s": (requests["arrival_ns"] / NS).tolist(),
            "ttft_s": ((requests["first_token_ns"] - requests["arrival_ns"]) / NS).tolist(),
        }
        found[engine] = tables
    found["labels"] = {key: run.labels[key] for key in ("event", "tier")}
    return found


def run_jobs(
    jobs: Iterable[Job], workers: int, progress: Callable[[int, int], None] | None = None
) -> dict[Job, Outcome]:
    """Run every different job once, `workers` at a time; `progress(done, of)` after each."""
    todo = list(dict.fromkeys(jobs))
    outcomes: dict[Job, Outcome] = {}
    if workers == 1:
        for job in todo:
            outcomes[job] = run_job(job)
            if progress is not None:
                progress(len(outcomes), len(todo))
        return outcomes
    with processes(workers) as pool:
        futures = {pool.submit(run_job, job): job for job in todo}
        for future in as_completed(futures):
            outcomes[futures[future]] = future.result()
            if progress is not None:
                progress(len(outcomes), len(todo))
    return outcomes
