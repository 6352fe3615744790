"""Load and latency: how many requests a second before an output token takes so long (figures 6a, 6b, 6c)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, log
from typing import Any

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome

Outcomes = dict[Job, Outcome]
RATE = "workload.arrivals.rate"


@dataclass(frozen=True)
class Load:
    """One machine under rising load. `rates` by system; `published`: (system, rate, seconds per token) of the figure.

    `limit_s`: the latency at which rates are compared with `base`'s, `paper` what the paper says of that ratio.
    """

    key: str
    scenario: str
    where: str
    says: str
    paper: float
    limit_s: float
    base: str
    rates: dict[str, tuple[float, ...]]
    why: str
    servers: tuple[str, ...] = ("",)
    published: tuple[tuple[str, float, float], ...] = ()

    def job(self, system: str, rate: float, server: str) -> Job:
        """Return the simulation of a system at a rate."""
        place = (("machine.server", json.dumps(server)),) if server else ()
        return Job(self.scenario, system, ((RATE, json.dumps(rate)), *place))

    def jobs(self) -> Sequence[Job]:
        """Every system at its rates, on each server."""
        return [
            self.job(system, rate, server)
            for server in self.servers
            for system, rates in self.rates.items()
            for rate in rates
        ]

    def find(self, outcomes: Outcomes) -> Sequence[Finding]:
        """Rates at the limit, their ratios, and the paper's own points against the curves."""
        curves = {
            (server, system): [(rate, self._latency(outcomes, system, rate, server)) for rate in rates]
            for server in self.servers
            for system, rates in self.rates.items()
        }
        return [
            Finding(
                self.key,
                f"Rate at {self.limit_s:g} s per output token over {self.base}, {self.where}",
                self.says,
                self.paper,
                (*self._ratios(curves), *self._points(curves)),
                f"servers {', '.join(self.servers)}" if len(self.servers) > 1 else "one server",
                self.why,
                (self.scenario,),
                figures={self.key: partial(self._figure, curves)},
            )
        ]

    def _latency(self, outcomes: Outcomes, system: str, rate: float, server: str) -> float:
        found = outcomes[self.job(system, rate, server)]
        return found.load[system]["latency_s"]

    def _ratios(self, curves: dict[tuple[str, str], list[tuple[float, float]]]) -> list[Row]:
        rows = []
        for system in self.rates:
            at = [rate_at(curves[server, system], self.limit_s) for server in self.servers]
            base = [rate_at(curves[server, self.base], self.limit_s) for server in self.servers]
            rows.append(Row(f"rate of {system}", Range.of(at), " req/s"))
            if system != self.base:
                ratios = [a / b for a, b in zip(at, base, strict=True)]
                rows.append(Row(f"{system} over {self.base}", Range.of(ratios)))
        return rows

    def _points(self, curves: dict[tuple[str, str], list[tuple[float, float]]]) -> list[Row]:
        """At the latency of each published point, our rate over the paper's."""
        return [
            Row(
                f"{system} at {latency:g} s per token, our rate over the paper's {rate:g} req/s",
                Range.of(rate_at(curves[server, system], latency) / rate for server in self.servers),
            )
            for system, rate, latency in self.published
        ]

    def _figure(self, curves: dict[tuple[str, str], list[tuple[float, float]]]) -> Any:
        from aquasim.reproduce.neo.charts import load_chart

        rows = [
            {"system": f"{system} {server}".strip(), "rate": rate, "latency_s": latency}
            for (server, system), curve in curves.items()
            for rate, latency in curve
        ]
        points = [{"system": s, "rate": rate, "latency_s": latency} for s, rate, latency in self.published]
        return load_chart(self.where, rows, points)


def rate_at(curve: Sequence[tuple[float, float]], latency: float) -> float:
    """Return the rate at which a curve of (rate, latency) first reaches `latency`, between points by its logarithm.

    The last rate where it never does, in proportion below the first.
    """
    before, low = 0.0, curve[0][1]
    for rate, high in curve:
        if high >= latency:
            rise = log(high) - log(low)
            share = (log(latency) - log(low)) / rise if rise > 0 else 1.0
            return before + (rate - before) * max(share, 0.0) if before else rate * latency / high
        before, low = rate, high
    return before if before < inf else 0.0


LOADS = (
    Load(
        "load-t4",
        "neo/osc-t4",
        "T4, LLaMA-2-7B, OSC (fig. 6c)",
        "+563 % (6.6x)",
        6.63,
        1.0,
        "vllm-512",
        {
            "vllm": (0.2, 0.4, 0.5, 0.55, 0.6),
            "vllm-256": (0.2, 0.4, 0.5, 0.55, 0.6),
            "vllm-512": (0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6),
            "gpu-only": (0.2, 0.4, 0.5, 0.55, 0.6),
            "neo": (0.2, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 5.0),
        },
        "Up to 0.5 requests/s NEO is as the paper has it; its knee comes later here: one prompt an iteration"
        " hides all of the host's work, and prefill is as fast as published layer times say.",
        published=(
            ("neo", 0.5, 0.114),
            ("neo", 2.5, 0.283),
            ("vllm-512", 0.2, 0.081),
            ("vllm-512", 0.5, 0.442),
        ),
    ),
    Load(
        "load-a10g",
        "neo/code-a10g",
        "A10G, LLaMA-3.1-8B, Azure code (fig. 6b)",
        "+6.4 %",
        1.064,
        2.0,
        "vllm",
        {
            "vllm": (1.0, 1.2, 1.4, 1.5, 1.6, 1.7, 1.8),
            "gpu-only": (1.0, 1.2, 1.4, 1.5, 1.6, 1.7, 1.8),
            "neo": (1.0, 1.2, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0),
        },
        "Outputs are short: little decode attention is there to move.",
        ("g5.4xlarge", "g5.8xlarge"),
    ),
    Load(
        "load-h100",
        "neo/code-2xh100",
        "2xH100, LLaMA-3.1-70B, Azure code (fig. 6a)",
        "+14.3 %",
        1.143,
        2.0,
        "vllm",
        {
            "vllm": (2.0, 2.4, 2.6, 2.8, 3.0, 3.2, 3.4),
            "gpu-only": (2.0, 2.4, 2.6, 2.8, 3.0, 3.2, 3.4),
            "neo": (2.0, 2.4, 2.8, 3.0, 3.2, 3.4, 3.6, 3.8, 4.0, 4.2),
        },
        "The host's bandwidth is not published: it is chosen so that this row comes out (96 GB/s).",
    ),
)
