"""Timing: repeat until the spread is known, and say median and quartiles."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], object]

_GRAPH_SECONDS = 1e-3  # of one replay: long against the clock's resolution and a graph's start
_GRAPH_CALLS = 256
_SLEEP_CYCLES = 200_000  # about 0.1 ms in which the host enqueues what is timed
_SHORT = 20e-6  # calls shorter than this are timed several at once on a CPU


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and quartiles of `repeats` timings, in seconds."""

    seconds: float
    q25: float
    q75: float
    repeats: int

    @classmethod
    def of(cls, times: Sequence[float]) -> "Timing":
        """Summarise timings in seconds."""
        q25, median, q75 = np.quantile(times, [0.25, 0.5, 0.75])
        return cls(float(median), float(q25), float(q75), len(times))

    def per(self, parts: float) -> "Timing":
        """Return the time of one of so many equal parts."""
        return Timing(self.seconds / parts, self.q25 / parts, self.q75 / parts, self.repeats)


@dataclass(frozen=True, slots=True)
class Patience:
    """When a timing is good enough: quartiles within `spread` of the median, or `most_s` seconds spent."""

    spread: float
    least: int
    most_s: float


def settle(sample: Callable[[], float], patience: Patience) -> Timing:
    """Call `sample`, which returns seconds, until the spread is known or patience ends."""
    times: list[float] = []
    started = time.perf_counter()
    while True:
        times.append(sample())
        spent = time.perf_counter() - started
        if len(times) >= patience.least:
            timing = Timing.of(times)
            if spent > patience.most_s or timing.q75 - timing.q25 <= patience.spread * timing.seconds:
                return timing
        elif spent > 4 * patience.most_s:
            return Timing.of(times)


def time_on_cpu(calls: Sequence[Call], patience: Patience) -> Timing:
    """Return the time of one call; each call has operands of its own, used in turn."""
    for call in calls[:2]:
        call()
    started = time.perf_counter()
    calls[-1]()
    once = max(1e-7, time.perf_counter() - started)
    together = max(1, int(_SHORT / once))
    turn = 0

    def sample() -> float:
        nonlocal turn
        chosen = [calls[(turn + i) % len(calls)] for i in range(together)]
        turn += together
        started = time.perf_counter()
        for call in chosen:
            call()
        return (time.perf_counter() - started) / together

    return settle(sample, patience)


def time_on_cuda(torch: Any, calls: Sequence[Call], patience: Patience) -> Timing:
    """Return the GPU time of one call inside a CUDA graph, as engines run decodes.

    The graph holds calls in turn, each with operands of its own, so that none finds its operands in the L2 cache;
    events around a replay time it, behind a kernel that waits while the host enqueues them. Other threads may
    go on copying meanwhile. What cannot be captured raises RuntimeError.
    """
    rounds = _rounds(torch, calls)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(rounds):
            for call in calls:
                call()
    timed = rounds * len(calls)
    sample = _event_timer(torch, graph.replay)
    sample()
    timing = settle(sample, patience).per(timed)
    del graph
    return timing


def time_eagerly(torch: Any, calls: Sequence[Call], patience: Patience) -> Timing:
    """Return the GPU time of one call launched from Python, for what cannot be captured in a graph."""
    sample = _event_timer(torch, lambda: [call() for call in calls])
    sample()
    return settle(sample, patience).per(len(calls))


def _rounds(torch: Any, calls: Sequence[Call]) -> int:
    """Warm up on a side stream, as capturing needs, and return how often the calls fit into one replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    once = _event_timer(torch, lambda: [call() for call in calls])()
    return max(1, min(int(_GRAPH_SECONDS / max(once, 1e-7)), _GRAPH_CALLS // len(calls)))


def _event_timer(torch: Any, run: Call) -> Callable[[], float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample() -> float:
        torch.cuda._sleep(_SLEEP_CYCLES)
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    return sample
