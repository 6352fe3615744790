"""How far simulated statistics are from measured ones, run by run and in sum."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from aquasim.calibrate.validate.replay import Replayed
from aquasim.calibrate.validate.runs import METRICS, STATISTICS, MeasuredRun, Part, statistics

FLOOR = {("ttft", "p99"): 0.05}
"""By how much identical runs differ when they are repeated: the least error anybody can show."""
FLOOR_MEDIAN = 0.02


class Error(NamedTuple):
    """One statistic of one part of a run: seconds (throughput: tokens/s), and (simulated - measured) / measured."""

    dataset: str
    run: str
    part: str
    group: str
    metric: str
    statistic: str
    measured: float
    simulated: float
    error: float


class Sum(NamedTuple):
    """Errors of one statistic over several parts: their number, medians, and the 90th percentile of the size."""

    metric: str
    statistic: str
    parts: int
    signed: float
    median: float
    p90: float
    floor: float


def errors_of(measured: MeasuredRun, replayed: Replayed) -> list[Error]:
    """Return the errors of every statistic that was measured."""
    group = f"{measured.profile} {measured.model.split('/')[-1]} tp{measured.tp}"
    found = []
    for part in measured.parts:
        for metric, known in _measured(part):
            simulated = replayed.statistics(part, metric)
            for statistic, value in known.items():
                ours = simulated.get(statistic, float("nan"))
                error = (ours - value) / value if value else float("nan")
                found.append(
                    Error(
                        measured.dataset,
                        measured.name,
                        part.name,
                        group,
                        metric,
                        statistic,
                        value,
                        ours,
                        error,
                    )
                )
    return found


def _measured(part: Part) -> Iterator[tuple[str, dict[str, float]]]:
    for metric in METRICS:
        if metric in part.samples:
            yield metric, statistics(part.samples[metric])
        elif metric in part.measured:
            yield metric, dict(part.measured[metric])


def sums(errors: Iterable[Error]) -> list[Sum]:
    """Return the sum over all parts for each statistic, in the order of METRICS and STATISTICS."""
    by: dict[tuple[str, str], list[float]] = {}
    for error in errors:
        by.setdefault((error.metric, error.statistic), []).append(error.error)
    order = [(metric, statistic) for metric in METRICS for statistic in STATISTICS]
    return [_sum(*key, np.asarray(by[key])) for key in order if key in by]


def _sum(metric: str, statistic: str, values: np.ndarray) -> Sum:
    values = values[~np.isnan(values)]
    if not len(values):
        return Sum(metric, statistic, 0, float("nan"), float("nan"), float("nan"), FLOOR_MEDIAN)
    sizes = np.abs(values)
    return Sum(
        metric,
        statistic,
        len(values),
        float(np.median(values)),
        float(np.median(sizes)),
        float(np.percentile(sizes, 90)),
        FLOOR.get((metric, statistic), FLOOR_MEDIAN),
    )
