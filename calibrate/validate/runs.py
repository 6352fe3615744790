"""A serving run that somebody measured: what was served, on what, and how long it took."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aquasim.hardware.serving import DEFAULT, Sampling
from aquasim.workload import Workload

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

METRICS = ("ttft", "tpot", "itl", "e2e", "throughput")
"""Seconds, but for throughput, which is output tokens per second."""
STATISTICS = ("mean", "p50", "p90", "p99")


class DataError(ValueError):
    """A measured run cannot be read; the text is one line that names file, column or row, and value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Requests that are judged together (a stage of the load, or all), and what was measured of them.

    counted: which of the workload's requests belong (shape: requests). `measured` maps a metric to its
    statistics, where the source gives those; `samples` maps a metric to one value per request or token, of the
    requests that ended well, and its statistics are computed.
    """

    name: str
    counted: Mask
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    samples: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredRun:
    """One run of one serving engine.

    `blocks` KV blocks as the engine reported them (None: as many as fit, by our own account). `timeout_s`: the
    client gives a request up after so long. `serving` names an engine version of aquasim.hardware.serving.
    """

    dataset: str
    name: str
    profile: str
    model: str
    tp: int
    workload: Workload
    parts: tuple[Part, ...]
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int = 0
    blocks: int | None = None
    block_size: int = 16
    utilization: float = 0.9
    prefix_caching: bool = False
    prefill: Literal["chunked", "prompt-only"] = "chunked"
    sampling: Sampling = "greedy"
    serving: str = DEFAULT.name
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A run of a dataset that cannot be replayed, and why."""

    dataset: str
    name: str
    reason: str


def statistics(values: Floats) -> dict[str, float]:
    """Return mean, p50, p90 and p99 of values; empty for none."""
    if not len(values):
        return {}
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {"mean": float(values.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}
