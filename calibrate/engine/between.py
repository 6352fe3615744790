"""What lies between iterations: decisions and bookkeeping, and pages that move."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from aquasim.calibrate.engine.rig import Rig, poll

PROMPT, OUTPUT = 40, 24
"""Tokens of the requests that are run to see what lies between their iterations."""
QUIET = 0.25
"""Quantile of timings that stands for a quiet machine: other programs only ever add, and then whole time slices."""


class Inside:
    """Computes steps in a worker's thread, and notes how long each was inside the runner, by the rig's clock."""

    def __init__(self, rig: Rig) -> None:
        self._worker, self._clock = rig.worker, rig.clock
        self.seconds: list[float] = []

    def start(self, step: Callable[[], dict[int, int]]) -> Any:
        """See `executor.Worker`."""

        def timed() -> dict[int, int]:
            began = self._clock()
            tokens = step()
            self.seconds.append(self._clock() - began)
            return tokens

        return self._worker.start(timed)


def overheads(rig: Rig) -> tuple[float, float]:
    """Return seconds per iteration outside the runner, without and with chunks, in a short real run.

    Where iterations are timed by CPU time, what they wait for the interpreter's lock is in here.
    """
    from aquasim.core import Limits, Scheduler, make_policy
    from aquasim.runtime.executor import Executor

    ranges = rig.ranges
    limits = Limits(
        blocks=ranges.blocks, block_size=ranges.block_size, max_num_seqs=ranges.sequences,
        max_num_batched_tokens=ranges.tokens, max_model_len=ranges.length, max_repeat=1,
    )  # fmt: skip
    worker = Inside(rig)
    for id in list(rig.runner.batch.ids):
        rig.runner.batch.leave(id)
    executor = Executor(
        Scheduler(limits, make_policy("fcfs")), rig.runner, now=time.monotonic_ns, worker=worker
    )
    room = ranges.length - 1
    prompt = min(PROMPT, room // 2)
    for id in range(min(12, 2 * ranges.sequences)):
        executor.submit(id, [5] * (prompt + id % 5), min(OUTPUT + 3 * id, room - prompt - 5))
    executor.run()
    return _between(executor.tables, np.array(worker.seconds))


def _between(tables: Any, inside: Any) -> tuple[float, float]:
    """Fold starts of steps and times inside the runner into what is left per step, by kind of step."""
    from aquasim.records.run import Run

    steps = Run([("rig", tables)], {"block_bytes": 1}).columns("steps")
    left = np.diff(steps["start_ns"]) * 1e-9 - inside[: len(steps["start_ns"]) - 1]
    chunked = steps["prefill_tokens"][:-1] > 0
    return float(np.quantile(left[~chunked], QUIET)), float(np.quantile(left[chunked], QUIET))


def transfers(rig: Rig, tier: str, backend: str, rounds: int = 9) -> dict[str, tuple[float, float]]:
    """Return, for each direction, seconds of any transfer and seconds of each of its blocks.

    By the pager, to memory of an arena's back end; "memfd" is what peers lend on a machine without GPUs.
    """
    from aquasim.runtime.arenas import Extent, create

    most = min(32, rig.ranges.blocks)
    counts = sorted({1, 2, 4, 8, 16, most} & set(range(1, most + 1)))
    size = rig.pool.block_bytes
    with create(backend, most * size) as arena:
        arena.scrub(Extent(0, most * size))
        slots = rig.pager.tier(tier)
        slots.add("measured", arena.ptr, most * size)
        slots.grow(most)
        times: dict[str, dict[int, list[float]]] = {kind: {n: [] for n in counts} for kind in ("out", "in")}
        for _ in range(rounds):
            for count in counts:
                for kind in ("out", "in"):
                    times[kind][count].append(_move(rig, tier, kind, count))
        slots.retire(range(most))
        slots.empty("measured", lambda source, target: None, lambda number: False)
    return {
        kind: _line({n: float(np.quantile(t, QUIET)) for n, t in found.items()})
        for kind, found in times.items()
    }


def _move(rig: Rig, tier: str, kind: Any, count: int) -> float:
    """Move blocks in or out; return seconds until the loop notes that they are there."""
    from aquasim.core.events import Transfer

    here = tuple((i * 7) % rig.ranges.blocks for i in range(count))
    there = tuple(range(count))
    pages = [(here, there) if kind == "out" else (there, here)]
    began = time.perf_counter()
    rig.pager.start(Transfer(0, kind, tier, count, ()), pages)
    poll(lambda: bool(rig.pager.landed()))
    return time.perf_counter() - began


def _line(times: dict[int, float]) -> tuple[float, float]:
    """Return start and slope of a line through times by blocks; relative errors, nothing negative."""
    from scipy.optimize import nnls

    counts = np.array(list(times), dtype=np.float64)
    seconds = np.array(list(times.values()))
    found, _ = nnls(np.stack([1 / seconds, counts / seconds], axis=1), np.ones(len(counts)))
    return float(found[0]), max(float(found[1]), 1e-9)
