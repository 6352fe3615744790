"""Responsiveness under bursts: TTFT, completion times, what paging costs, and a replica that comes too late."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome, grid, points

PAGED = ("cfs-host-scattered", "cfs-host", "faithful", "intended", "ours")
NAMES = {
    "cfs-host-scattered": "slices, host, scattered",
    "cfs-host": "slices, host, columns",
    "faithful": "faithful",
    "intended": "intended",
    "ours": "ours",
    "autoscale": "second replica",
}
Outcomes = dict[Job, Outcome]


@dataclass(frozen=True)
class Burst:
    """An experiment with one serving engine under admission control (`fcfs`) and under slices."""

    key: str
    scenario: str
    tenant: str
    where: str
    says: str
    paper: float | None
    over: str
    why_ttft: str
    why_rct: str
    others: tuple[str, ...] = ()

    def jobs(self) -> Sequence[Job]:
        """Every system at every point of the ranges."""
        return grid(self.scenario, ("fcfs", *self.others, *PAGED))

    def find(self, outcomes: Outcomes) -> Sequence[Finding]:
        """TTFT, completion time, and the time paging takes."""
        return [self._ttft(outcomes), self._rct(outcomes), self._paging(outcomes)]

    def _values(self, outcomes: Outcomes, system: str, figure: str) -> list[float]:
        found = []
        for point in points(self.scenario):
            value = outcomes[Job(self.scenario, system, point)].tenant(self.tenant)[figure]
            found.append(float(value))
        return found

    def _ratio(self, outcomes: Outcomes, system: str, figure: str, less: bool) -> Range:
        """Return fcfs over a system (`less` is better and by how much), or the system over fcfs."""
        base, values = (self._values(outcomes, name, figure) for name in ("fcfs", system))
        pairs = zip(base, values, strict=True)
        return Range.of(b / v if less else v / b for b, v in pairs)

    def _ttft(self, outcomes: Outcomes) -> Finding:
        systems = (*self.others, *PAGED)
        rows = [
            Row(f"{NAMES[system]}, {name}", self._ratio(outcomes, system, figure, True))
            for name, figure in (("p99", "ttft_p99"), ("mean", "ttft_mean"))
            for system in systems
        ]
        waits = self._values(outcomes, "fcfs", "ttft_p99")
        return Finding(
            f"{self.key}-ttft",
            f"TTFT under admission control over TTFT under slices, {self.where}",
            self.says,
            self.paper,
            tuple(rows),
            self.over,
            self.why_ttft,
            (self.scenario,),
            notes=(f"p99 of TTFT under admission control: {Range.of(waits).text(' s')}",),
        )

    def _rct(self, outcomes: Outcomes) -> Finding:
        rows = [
            Row(f"{NAMES[system]}, {name}", self._ratio(outcomes, system, figure, False))
            for name, figure in (("mean", "rct_mean"), ("p99", "rct_p99"))
            for system in PAGED
        ]
        return Finding(
            f"{self.key}-rct",
            f"Completion time under slices over admission control's, {self.where}",
            "close over the peer, clearly worse over the host",
            None,
            tuple(rows),
            self.over,
            self.why_rct,
            (self.scenario,),
        )

    def _paging(self, outcomes: Outcomes) -> Finding:
        """Seconds of transfers per GB moved, against vLLM's scattered host copies."""
        rows = []
        for system in PAGED[1:]:
            values = []
            for point in points(self.scenario):
                base = outcomes[Job(self.scenario, PAGED[0], point)].paging[self.tenant]
                mine = outcomes[Job(self.scenario, system, point)].paging[self.tenant]
                if base["gb"] and mine["gb"]:
                    values.append(base["seconds"] / base["gb"] / (mine["seconds"] / mine["gb"]))
            if values:
                rows.append(Row(NAMES[system], Range.of(values)))
        return Finding(
            f"{self.key}-preemption",
            f"Time per paged GB over scattered host copies, over the system's, {self.where}",
            "preemption overhead at least 5x lower than over host memory",
            5.0,
            tuple(rows),
            self.over,
            "Gathering alone gives host memory most of it; the link gives the rest. The release loses"
            " part of both"
            " to a Python loop on the way out and a synchronisation per block on the way in.",
            (self.scenario,),
        )


BURSTS = (
    Burst(
        "h100",
        "aqua/s2-burst-h100",
        "llama-70b",
        "8xH100",
        "up to 20x lower (ASPLOS 2025)",
        20.0,
        "bursts of 0, 4, 8, 16 requests/s for 10 s; median outputs of 192, 384, 768 tokens",
        "Neither burst nor lengths are published, and the factor is the length of the queue: 1x where the"
        " burst fits"
        " memory, above 20x where it overflows it for long. A replica that takes minutes comes after the"
        " queue.",
        "As the paper says; but the release's cost per block puts `faithful` behind gathered copies to"
        " the host.",
        ("autoscale",),
    ),
    Burst(
        "a100",
        "aqua/s1-responsiveness",
        "codellama",
        "8xA100",
        "4x lower (v1)",
        4.0,
        "2, 3, 5 requests/s; KV caches of 11k, 22k, 35k tokens",
        "Neither rates nor room are published. The paper's 4x lies where the load just fills memory; lasting"
        " overload, which the remembered 5/s is, gives far more, for then the queue grows without end.",
        "In lasting overload newcomers outrank whoever is old (the release has no clamp), so the tail"
        " grows over any"
        " link; `ours` clamps them.",
    ),
    Burst(
        "small",
        "aqua/s3-single-h100",
        "llama-8b",
        "one H100 and a small cache",
        "not published (a recipe of the documentation)",
        None,
        "KV caches of 10k, 16k, 32k tokens",
        "A burst of 120 prompts in 3 s against a cache that holds 20 to 60 of them: all wait for completions.",
        "An 8B model decodes so fast that moving pages costs more beside it: only overlapped transfers hide.",
    ),
)
