"""How far simulated figures are from measured ones, and how far they may be."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TARGETS = {"ttft": 0.10, "tpot": 0.10, "rct": 0.08, "throughput": 0.05}
"""Errors that are allowed at least, by the beginning of a figure's name; TPOT as TTFT."""
FIGURES = (
    "ttft_p50", "ttft_p99", "ttft_mean", "tpot_p50", "rct_p50", "rct_p99", "rct_mean", "throughput_tok_s",
    "paged_bytes", "preemptions",
)  # fmt: skip


class Figure(NamedTuple):
    """One figure of one system. `measured` is the median of the runs, `spread` half their range over it.

    `predicted` is the simulation by the profile alone; `simulated` the one at the speed that the core was seen to
    have during the runs. `allowed` is None where nothing is judged: pages and preemptions are counts that a different
    order of events changes.
    """

    system: str
    name: str
    measured: float
    spread: float
    predicted: float
    simulated: float
    allowed: float | None

    @property
    def error(self) -> float | None:
        """Simulated against measured, signed; None where nothing was measured."""
        return self.simulated / self.measured - 1 if self.measured else None

    @property
    def predicted_error(self) -> float | None:
        """The same of the simulation by the profile alone."""
        return self.predicted / self.measured - 1 if self.measured else None

    @property
    def ok(self) -> bool | None:
        """Whether the error is within what is allowed; None where nothing is judged."""
        if self.allowed is None or self.error is None:
            return None
        return abs(self.error) <= self.allowed

    def as_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            **self._asdict(), "error": self.error, "predicted_error": self.predicted_error, "ok": self.ok,
        }  # fmt: skip


def figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what is compared of a run's summary: seconds, tokens per second, bytes, counts; 0 where undefined."""
    paged = sum((summary["paged_bytes"] or {}).values())
    values = {**summary, "paged_bytes": paged}
    return {name: float(values[name] or 0.0) for name in FIGURES}


def compare(
    system: str,
    measured: Sequence[Mapping[str, float]],
    predicted: Mapping[str, float],
    simulated: Sequence[Mapping[str, float]],
) -> list[Figure]:
    """Set one system's figures side by side; `simulated` has a run for each measured one, at its speed."""
    found = []
    for name in FIGURES:
        runs = np.array([run[name] for run in measured])
        middle = float(np.median(runs))
        spread = float(np.ptp(runs) / 2 / middle) if middle else 0.0
        target = TARGETS.get(name.partition("_")[0])
        allowed = None if target is None else max(target, 2 * spread)
        close = float(np.median([run[name] for run in simulated]))
        found.append(Figure(system, name, middle, spread, predicted[name], close, allowed))
    return found
