"""Peer memory and the host's cores at once: what neither paper has, and where it wins and does not."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome
from aquasim.reproduce.neo.lengths import OUTPUTS, Cell, cell_job, throughput

Outcomes = dict[Job, Outcome]
BURST = "burst-h100"
SEEDS = (1, 2, 3, 4, 5)
SHOWN = (
    ("ttft_p99", "TTFT p99"),
    ("itl_max", "longest wait between two tokens"),
    ("rct_mean", "mean completion time"),
    ("rct_p99", "completion time p99"),
)
AGAINST = ("fcfs", "cfs-peer", "aqua", "neo")
CELLS: tuple[tuple[str, Cell], ...] = (
    *(("neo/length-t4", ("", 200, output)) for output in OUTPUTS),
    *(("neo/length-a10g", (server, 1000, n)) for server in ("g5.2xlarge", "g5.8xlarge") for n in OUTPUTS),
    *(("neo/length-2xh100", ("", prompt, output)) for prompt in (1000, 2000) for output in (50, 100, 200)),
)


@dataclass(frozen=True)
class Burst:
    """Hybrid over others on the burst whose cache outgrows two H100s, with a peer's memory at hand."""

    key: str = "hybrid-burst"

    def jobs(self) -> Sequence[Job]:
        """Every system under every seed."""
        return [self._job(system, seed) for system in (*AGAINST, "hybrid") for seed in SEEDS]

    def _job(self, system: str, seed: int) -> Job:
        return Job(BURST, system, (("seed", json.dumps(seed)),))

    def _ratios(self, outcomes: Outcomes, system: str, figure: str) -> list[float]:
        return [
            outcomes[self._job("hybrid", seed)].summary[figure]
            / outcomes[self._job(system, seed)].summary[figure]
            for seed in SEEDS
        ]

    def find(self, outcomes: Outcomes) -> Sequence[Finding]:
        """Latencies over those of each other system."""
        rows = [
            Row(f"{title}, over {system}", Range.of(self._ratios(outcomes, system, figure)))
            for figure, title in SHOWN
            for system in AGAINST
        ]
        return [
            Finding(
                self.key,
                "Hybrid on the burst of burst-h100, over the others",
                "in neither paper",
                None,
                tuple(rows),
                f"{len(SEEDS)} seeds",
                "With a peer at hand the host's cores add little: what is left is fewer moves. Under neo a prompt"
                " starts sooner and then may stand still for half a minute; in slices nobody does.",
                (BURST,),
            )
        ]


@dataclass(frozen=True)
class Hosted:
    """Hybrid over the GPU alone and over NEO where there is no peer: NEO's workloads, all requests at once."""

    key: str = "hybrid-hosts"

    def jobs(self) -> Sequence[Job]:
        """Every cell under the three."""
        systems = ("hybrid", "neo", "gpu-only")
        return [cell_job(name, system, cell) for name, cell in CELLS for system in systems]

    def find(self, outcomes: Outcomes) -> Sequence[Finding]:
        """Throughput over each of the two, by server."""
        found = {
            against: {
                place: throughput(outcomes, cell_job(place[0], "hybrid", place[1]))
                / throughput(outcomes, cell_job(place[0], against, place[1]))
                for place in CELLS
            }
            for against in ("gpu-only", "neo")
        }
        rows = [
            Row(f"{server}, over {against}", Range.of(values))
            for against, ratios in found.items()
            for server, values in _by_server(ratios).items()
        ]
        return [
            Finding(
                self.key,
                "Throughput of hybrid without a peer, over the GPU alone and over NEO",
                "in neither paper",
                None,
                tuple(rows),
                "all lengths",
                "Its copies run beside compute, and it takes turns, which costs memory while pages are on their"
                " way: it loses where requests are few and large and the host decodes little.",
                tuple(dict.fromkeys(name for name, _ in CELLS)),
                figures={self.key: partial(self._figure, found["neo"])},
            )
        ]

    def _figure(self, ratios: dict[tuple[str, Cell], float]) -> Any:
        from aquasim.reproduce.neo.charts import length_chart

        rows = [
            {"series": _series(name, cell), "output": cell[2], "ratio": r}
            for (name, cell), r in ratios.items()
        ]
        return length_chart("Throughput of hybrid over neo", rows, [])


def _server(name: str, cell: Cell) -> str:
    return cell[0] or {"neo/length-t4": "T4", "neo/length-2xh100": "2xH100"}[name]


def _series(name: str, cell: Cell) -> str:
    return f"{_server(name, cell)}, input {cell[1]:,}"


def _by_server(ratios: dict[tuple[str, Cell], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (name, cell), ratio in ratios.items():
        found.setdefault(_server(name, cell), []).append(ratio)
    return found
