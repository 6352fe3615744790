"""What of the host counts: its bandwidth or its cores (section 5.5)."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome
from aquasim.reproduce.neo.lengths import cell_job, throughput

SCENARIO = "neo/length-a10g"
CELL = ("", 1000, 200)
BANDWIDTHS = (13.0, 26.0, 52.0, 104.0)
CORES = (1, 2, 4, 8, 32)
SWEEPS = {
    "GB/s, 32 cores": [(gbs, gbs, 32) for gbs in BANDWIDTHS],
    "cores, 40 GB/s": [(float(cores), 40.0, cores) for cores in CORES],
}
"""What is swept: (value, GB/s, cores) of each point."""


class Hosts:
    """The gain over bandwidths at 32 cores, and over cores at 40 GB/s."""

    key = "hosts"

    def _job(self, gbs: float, cores: int) -> Job:
        changes = (("machine.host_gbs", json.dumps(gbs)), ("machine.host_cores", json.dumps(cores)))
        return cell_job(SCENARIO, "neo", CELL, changes)

    def jobs(self) -> Sequence[Job]:
        """Every point of both sweeps, and the GPU alone."""
        points = [self._job(gbs, cores) for sweep in SWEEPS.values() for _, gbs, cores in sweep]
        return [*points, cell_job(SCENARIO, "gpu-only", CELL)]

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """The gain from the least to the greatest of each."""
        base = throughput(outcomes, cell_job(SCENARIO, "gpu-only", CELL))
        gains = {
            name: [(value, throughput(outcomes, self._job(gbs, cores)) / base) for value, gbs, cores in sweep]
            for name, sweep in SWEEPS.items()
        }
        rows = [
            Row(f"{value:g} {name}", Range.of([ratio]))
            for name, sweep in gains.items()
            for value, ratio in sweep
        ]
        return [
            Finding(
                self.key,
                "What of the host counts, A10G, input 1,000, output 200",
                "the gain follows memory bandwidth, not cores",
                None,
                tuple(rows),
                "bandwidths and cores",
                "A core reads 11 GB/s here: once there are enough for the memory, more change nothing.",
                (SCENARIO,),
                figures={self.key: partial(self._figure, gains)},
            )
        ]

    def _figure(self, gains: dict[str, list[tuple[float, float]]]) -> Any:
        from aquasim.reproduce.neo.charts import host_chart

        return host_chart(
            [{"sweep": name, "value": v, "ratio": r} for name, sweep in gains.items() for v, r in sweep]
        )
