"""A donor that wants its memory back: how soon it has it, and what the long prompt there does meanwhile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import NS, Job, Outcome, points

SYSTEMS = ("never-lending", "faithful", "intended")


@dataclass(frozen=True)
class Times:
    """A reclaim in seconds: when the donor asked, the consumer had left, and the donor's cache was whole"
    " again."""

    asked: float
    left: float
    whole: float


@dataclass(frozen=True)
class Elastic:
    """A long prompt with a serving engine as its donor: calm, burst, calm."""

    key: str
    scenario: str
    donor: str
    where: str
    why: str

    def jobs(self) -> Sequence[Job]:
        """Every system at every point, with time lines."""
        return [Job(self.scenario, s, point, True) for point in points(self.scenario) for s in SYSTEMS]

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """Times of the reclaim, the consumer's speed around it, and what the donor's requests felt."""
        rows, figures = [], {}
        for system in SYSTEMS[1:]:
            runs = [outcomes[Job(self.scenario, system, point, True)] for point in points(self.scenario)]
            plain = [outcomes[Job(self.scenario, SYSTEMS[0], p, True)] for p in points(self.scenario)]
            rows += self._rows(system, runs, plain)
            figures[f"{self.key}-{system}"] = self._figure(runs[1], plain[1], system)
        return [
            Finding(
                self.key,
                f"A reclaim in the middle of a long prompt, {self.where}",
                "falls to the host's curve within poll (4 s) and migration, and recovers",
                None,
                tuple(rows),
                "three bursts",
                self.why,
                (self.scenario,),
                figures=figures,
            )
        ]

    def _rows(self, system: str, runs: list[Outcome], plain: list[Outcome]) -> list[Row]:
        times = [self._times(run) for run in runs]
        seen = [(t, run, base) for t, run, base in zip(times, runs, plain, strict=True) if t is not None]
        if not seen:
            return []
        return [
            Row(f"consumer has left, {system}", Range.of(t.left - t.asked for t, _, _ in seen), " s"),
            Row(f"donor's cache is whole, {system}", Range.of(t.whole - t.asked for t, _, _ in seen), " s"),
            Row(
                f"tokens/s after it left, over the host's, {system}",
                Range.of(
                    self._speed(run, t.left, t.left + 30) / self._speed(base, t.left, t.left + 30)
                    for t, run, base in seen
                ),
            ),
            Row(
                f"tokens/s at the end, over before the reclaim, {system}",
                Range.of(
                    self._speed(run, 440, 475) / self._speed(run, t.asked - 35, t.asked) for t, run, _ in seen
                ),
            ),
            Row(
                f"donor's mean completion time, over one that never lent, {system}",
                Range.of(
                    run.tenant(self.donor)["rct_mean"] / base.tenant(self.donor)["rct_mean"]
                    for _, run, base in seen
                ),
            ),
            Row(
                f"donor's p99 of TTFT, over one that never lent, {system}",
                Range.of(
                    run.tenant(self.donor)["ttft_p99"] / base.tenant(self.donor)["ttft_p99"]
                    for _, run, base in seen
                ),
            ),
        ]

    def _times(self, run: Outcome) -> Times | None:
        """Return the times of the first reclaim; None if there was none."""
        events = run.series["labels"]["event"]
        donor, consumer = run.series[self.donor]["leases"], run.series["opt"]["leases"]
        asked = _first(donor, events.index("reclaim"), 0)
        if asked is None:
            return None
        left = _first(consumer, events.index("settled"), asked)
        memory = run.series[self.donor]["memory"]
        sizes = zip(memory["time_ns"], memory["bytes"], strict=True)
        full = max(memory["bytes"])
        whole = next((t for t, size in sizes if t >= asked and size == full), None)
        assert left is not None, "the consumer never left"
        assert whole is not None, "the donor's cache never came back"
        return Times(asked / NS, left / NS, whole / NS)

    def _speed(self, run: Outcome, start: float, end: float) -> float:
        """Tokens per second whose making ended within a window (s)."""
        ends = np.array(run.series["opt"]["work"]["end_ns"]) / NS
        return float(((ends >= start) & (ends < end)).sum()) / (end - start)

    def _figure(self, run: Outcome, plain: Outcome, system: str) -> Callable[[], Any]:
        from aquasim.reproduce.figures import elastic_chart

        lines = {f"{system}": _rate(run), "host only": _rate(plain)}
        waits = {
            system: run.series[self.donor]["requests"],
            "never lends": plain.series[self.donor]["requests"],
        }
        return partial(elastic_chart, f"{self.where}: {system}", lines, waits)


def _first(table: dict[str, list[int]], event: int, since: int) -> int | None:
    rows = zip(table["time_ns"], table["event"], strict=True)
    return next((time for time, kind in rows if kind == event and time >= since), None)


def _rate(run: Outcome, window: float = 5.0) -> list[tuple[float, float]]:
    """Return (second, tokens per second) in windows."""
    ends = np.array(run.series["opt"]["work"]["end_ns"]) / NS
    counts, edges = np.histogram(ends, bins=np.arange(0, 480 + window, window))
    return [(float(edge), float(count / window)) for edge, count in zip(edges[:-1], counts, strict=True)]


ELASTIC = (
    Elastic(
        "elastic-h100",
        "aqua/s5-elastic-h100",
        "llama-8b",
        "8xH100, rule by queue length",
        "As the paper says. The donor waits longer than the consumer takes to leave: the release stops it"
        " to swap what"
        " runs out and in, block by block and layer by layer.",
    ),
    Elastic(
        "elastic-a100",
        "aqua/s5-elastic-a100",
        "llama-13b",
        "8xA100, rule by windows",
        "The consumer as the paper says. The donor keeps 5 GiB and its rule reclaims when a queue has"
        " grown for 10 s:"
        " the requests of those seconds wait, and 13 s more where graphs are captured anew. The least of"
        " the three"
        " bursts does not trigger a reclaim at all.",
    ),
)
