"""Throughput against output length, relative to the GPU alone (figures 8b, 9, 10a)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome

Outcomes = dict[Job, Outcome]
Cell = tuple[str, int, int]
"""Server ("": the scenario's), tokens of input, tokens of output."""


def uniform(tokens: int) -> str:
    """Return lengths within 10 % of `tokens`, as JSON."""
    return json.dumps({"kind": "uniform", "low": round(0.9 * tokens), "high": round(1.1 * tokens)})


def cell_job(scenario: str, system: str, cell: Cell, changes: tuple[tuple[str, str], ...] = ()) -> Job:
    """Return the simulation of a system in one cell."""
    server, prompt, output = cell
    place = (("machine.server", json.dumps(server)),) if server else ()
    lengths = (("workload.prompt", uniform(prompt)), ("workload.output", uniform(output)))
    return Job(scenario, system, (*lengths, *place, *changes))


def throughput(outcomes: Outcomes, job: Job) -> float:
    """Return prompt and output tokens per second."""
    return outcomes[job].load[job.system]["tokens_per_s"]


@dataclass(frozen=True)
class Lengths:
    """A grid of input and output lengths on some servers. `published`: the paper's ratio by cell.

    `system` is set against the GPU alone; `says` of its greatest ratio.
    """

    key: str
    scenario: str
    title: str
    says: str
    paper: float | None
    cells: tuple[Cell, ...]
    why: str
    system: str = "neo"
    published: tuple[tuple[Cell, float], ...] = ()

    def jobs(self) -> Sequence[Job]:
        """Each cell under the system and the GPU alone; the latter once for all servers, whose GPUs are the same."""
        return [self._job(system, cell) for cell in self.cells for system in (self.system, "gpu-only")]

    def _job(self, system: str, cell: Cell) -> Job:
        return cell_job(self.scenario, system, ("", *cell[1:]) if system == "gpu-only" else cell)

    def ratio(self, outcomes: Outcomes, cell: Cell) -> float:
        """Return the system's throughput over that of the GPU alone."""
        return throughput(outcomes, self._job(self.system, cell)) / throughput(
            outcomes, self._job("gpu-only", cell)
        )

    def find(self, outcomes: Outcomes) -> Sequence[Finding]:
        """Greatest and least ratio, and by server; the distance to what is published."""
        ratios = {cell: self.ratio(outcomes, cell) for cell in self.cells}
        rows = [
            Row("greatest", Range.of([max(ratios.values())])),
            Row("least", Range.of([min(ratios.values())])),
            *(Row(name, Range.of(found)) for name, found in self._groups(ratios).items()),
        ]
        return [
            Finding(
                self.key,
                self.title,
                self.says,
                self.paper,
                (*rows, *self._distance(ratios)),
                "all lengths",
                self.why,
                (self.scenario,),
                figures={self.key: partial(self._figure, ratios)},
            )
        ]

    def _groups(self, ratios: dict[Cell, float]) -> dict[str, list[float]]:
        """Return ratios by what the lines of the chart are: the server, else the input length."""
        found: dict[str, list[float]] = {}
        for cell, ratio in ratios.items():
            found.setdefault(_series(cell), []).append(ratio)
        return found

    def _distance(self, ratios: dict[Cell, float]) -> list[Row]:
        if not self.published:
            return []
        gaps = [ratios[cell] - ratio for cell, ratio in self.published]
        return [Row(f"minus the paper's {len(gaps)} points", Range.of(gaps), "")]

    def _figure(self, ratios: dict[Cell, float]) -> Any:
        from aquasim.reproduce.neo.charts import length_chart

        rows = [
            {"series": _series(cell), "output": cell[2], "ratio": ratio} for cell, ratio in ratios.items()
        ]
        points = [
            {"series": _series(cell), "output": cell[2], "ratio": ratio} for cell, ratio in self.published
        ]
        return length_chart(self.title, rows, points)


def _series(cell: Cell) -> str:
    return cell[0] or f"input {cell[1]}"


def _grid(inputs: Sequence[int], outputs: Sequence[int], servers: Sequence[str] = ("",)) -> tuple[Cell, ...]:
    return tuple((server, i, o) for server in servers for i in inputs for o in outputs)


G5 = ("g5.2xlarge", "g5.4xlarge", "g5.8xlarge", "g5.16xlarge")
OUTPUTS = (50, 100, 200, 300, 400)
_4X, _8X = (1.03, 1.133, 1.08, 1.04, 1.013), (1.04, 1.297, 1.223, 1.156, 1.098)
FIG_10A = tuple(
    (("g5.4xlarge" if row is _4X else "g5.8xlarge", 1000, output), ratio)
    for row in (_4X, _8X)
    for output, ratio in zip(OUTPUTS, row, strict=True)
)
"""Digitised from the authors' plot, to 0.01; the rows of 2xlarge and 16xlarge were not looked at."""

LENGTHS = (
    Lengths(
        "length-t4",
        "neo/length-t4",
        "Throughput over the GPU alone on a T4 (fig. 9c)",
        "up to 7.5x",
        7.5,
        _grid((100, 200, 500), (25, 50, 100, 150, 200)),
        "The GPU alone holds two to four requests; the host holds hundreds.",
    ),
    Lengths(
        "length-a10g",
        "neo/length-a10g",
        "Throughput over the GPU alone on A10G hosts, input 1,000 (fig. 10a)",
        "13.3 % (4xlarge), 29.7 % (8xlarge), 79.3 % at best",
        1.793,
        _grid((1000,), OUTPUTS, G5),
        "4xlarge's bandwidth is from the authors' tables, 8xlarge's is fitted to its row; 16xlarge's is three"
        " quarters of the host's 200 GB/s, and 2xlarge's half of 4xlarge's: assumptions.",
        published=FIG_10A,
    ),
    Lengths(
        "length-a10g-inputs",
        "neo/length-a10g",
        "Throughput over the GPU alone on g5.8xlarge (fig. 9b)",
        "up to 1.26x",
        1.26,
        _grid((500, 1000, 2000), (50, 100, 200)),
        "Which g5 the figure used is not known.",
    ),
    Lengths(
        "length-h100",
        "neo/length-2xh100",
        "Throughput over the GPU alone on 2xH100 (fig. 9a)",
        "up to 1.14x",
        1.14,
        _grid((500, 1000, 2000), (50, 100, 200)),
        "With the host's bandwidth that figure 6a asks for.",
    ),
)
FULL = Lengths(
    "fastdecode",
    "neo/length-2xh100",
    "FastDecode+ over the GPU alone on 2xH100 (fig. 8b)",
    "falls below 0.6 as outputs grow",
    0.6,
    _grid((1000,), OUTPUTS),
    "All decode attention on the host: it is the long pole as soon as decodes outnumber prefills.",
    system="fastdecode",
)
