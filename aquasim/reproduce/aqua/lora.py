"""LoRA adapters: completion time by where a miss finds its adapter."""

from collections.abc import Sequence

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome, grid, points

SCENARIO = "aqua/s6-lora"
SYSTEMS = ("file", "host", "faithful", "intended", "peer-many-tensors")


class Lora:
    """vLLM's reads of the file against pinned host memory and a peer."""

    key = "lora"

    def jobs(self) -> Sequence[Job]:
        """Every place at every point."""
        return grid(SCENARIO, SYSTEMS)

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """Mean completion time over the file, over each; and the peer against pinned host memory."""
        rows = [
            Row(f"{base} over {system}", self._ratios(outcomes, base, system))
            for base, system in (
                ("file", "faithful"),
                ("file", "intended"),
                ("file", "host"),
                ("file", "peer-many-tensors"),
                ("host", "intended"),
            )
        ]
        return [
            Finding(
                self.key,
                "Completion time of requests with LoRA adapters, 8xA100",
                "up to 1.8x lower (v1, as remembered)",
                1.8,
                tuple(rows),
                "30, 200 adapters, equally popular or by Zipf; rank 32, 64 (160, 320 MiB); 1, 8 slots;"
                " 0.25, 1, 2 requests/s",
                "All of it is files not read again: adapters pinned in host memory do as well within 3 %."
                " The factor is"
                " high where misses are frequent and requests do not queue for slots, which is what rates"
                " decide.",
                (SCENARIO,),
            )
        ]

    def _ratios(self, outcomes: dict[Job, Outcome], base: str, system: str) -> Range:
        values = []
        for point in points(SCENARIO):
            slow, fast = (
                outcomes[Job(SCENARIO, name, point)].tenant("mistral")["rct_mean"] for name in (base, system)
            )
            values.append(slow / fast)
        return Range.of(values)
