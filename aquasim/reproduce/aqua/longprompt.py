"""One long prompt, half of its KV cache elsewhere: tokens per second from a peer and from the host."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome, grid, points

SYSTEMS = ("host-pinned", "host-unpinned", "faithful", "intended")


@dataclass(frozen=True)
class LongPrompt:
    """FlexGen over host memory against a peer's."""

    key: str
    scenario: str
    where: str
    says: str
    paper: float
    why: str

    def jobs(self) -> Sequence[Job]:
        """Every place at every point."""
        return grid(self.scenario, SYSTEMS)

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """Ratios of whole runs and of decode tokens alone, to both host baselines."""
        rows = []
        for base in SYSTEMS[:2]:
            for system in SYSTEMS[2:]:
                for what, figure in (("tokens/s", "items_per_s"), ("per decoded token", "unit_p50_s")):
                    values = [
                        self._ratio(outcomes, base, system, point, figure) for point in points(self.scenario)
                    ]
                    rows.append(Row(f"{system} over {base}, {what}", Range.of(values)))
        speeds = [
            f"{system} {Range.of(self._speed(outcomes, system)).text(' tokens/s')}" for system in SYSTEMS
        ]
        return [
            Finding(
                self.key,
                f"Tokens of one long prompt, peer over host, {self.where}",
                self.says,
                self.paper,
                tuple(rows),
                "attention and network as one layer or two; pageable memory copied at 30, 60 GB/s or as"
                " DRAM allows",
                self.why,
                (self.scenario,),
                notes=("; ".join(speeds),),
            )
        ]

    def _speed(self, outcomes: dict[Job, Outcome], system: str) -> list[float]:
        return [
            outcomes[Job(self.scenario, system, point)].tenant("opt")["items_per_s"]
            for point in points(self.scenario)
        ]

    def _ratio(
        self,
        outcomes: dict[Job, Outcome],
        base: str,
        system: str,
        point: tuple[tuple[str, str], ...],
        figure: str,
    ) -> float:
        slow, fast = (
            float(outcomes[Job(self.scenario, name, point)].tenant("opt")[figure]) for name in (base, system)
        )
        return fast / slow if figure == "items_per_s" else slow / fast


LONG_PROMPTS = (
    LongPrompt(
        "long-prompt-h100",
        "aqua/s4-long-prompt-h100",
        "8xH100",
        "4x (ASPLOS 2025)",
        4.0,
        "Over the peer a token takes what it computes, over the host what 5.7 GB take on PCIe; with 64 tokens per"
        " prompt, prefills are a quarter of the peer's time. The paper's 4x lies between pinned and pageable host"
        " memory: one that sustains 44 GB/s, where pinned memory has 52.",
    ),
    LongPrompt(
        "long-prompt-a100",
        "aqua/s4-long-prompt-a100",
        "8xA100",
        "6x (v1)",
        6.0,
        "Pinned memory at 25 GB/s gives 4.5x per token. 6x needs a host that sustains 18 GB/s: pageable"
        " memory that"
        " CPUs copy at 30 GB/s does, and FlexGen's mixed cache is pageable.",
    ),
)
