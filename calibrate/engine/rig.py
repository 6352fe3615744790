"""The runtime's own parts put together for measuring: runner, pager, executor, as `run --on hardware` has them."""

import time
from collections.abc import Callable
from typing import Any

from aquasim.calibrate.engine.points import Point, Ranges
from aquasim.models import Model
from aquasim.runtime.local.probe import Probe


class Rig:
    """An engine with random weights on `device`; `step` times one iteration of it.

    The caller's thread polls meanwhile as an executor's does, so that what the two threads take from each other is
    in the time.
    """

    def __init__(self, model: Model, ranges: Ranges, device: str, dtype: str) -> None:
        import torch

        from aquasim.runtime.copy import open_copier
        from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, random_weights
        from aquasim.runtime.executor.worker import Threaded
        from aquasim.runtime.pager import Pager, Window

        kind = getattr(torch, dtype)
        where: Any = {"dtype": kind, "device": device}
        self.ranges, self.device, self.itemsize = ranges, device, kind.itemsize
        config = LlamaConfig.from_model(model)
        self.pool = KvPool.of(config, ranges.blocks, ranges.block_size, **where)
        self.runner = Runner(
            config, random_weights(config, 0, **where), self.pool, device=device,
            max_seqs=ranges.sequences, max_len=min(ranges.length, ranges.blocks * ranges.block_size),
        )  # fmt: skip
        self.copier = open_copier("cpu" if device == "cpu" else 0)
        self.pager = Pager(
            self.copier, Window(self.pool.base, self.pool.block_bytes), "off", time.monotonic_ns
        )
        self.worker = Threaded()
        self._probe = Probe()
        # On a processor the time of this thread alone: other work on the machine is not the engine's.
        self.clock = time.thread_time if device == "cpu" else time.perf_counter

    def close(self) -> None:
        """End threads and copies."""
        self.worker.close()
        self.copier.close()

    def step(self, point: Point) -> tuple[float, float]:
        """Run one iteration; return its seconds, and those of the probe that ran before it.

        Another one comes first, as in a running engine: decodes follow decodes of the same batch, and chunks those
        of a middling one, whose weights are in the caches then.
        """
        usual = Point((), min(8, self.ranges.sequences), min(192, self.ranges.length - 1))
        before = point if not point.chunks else usual
        probed = self._probed()
        self._fill(before._replace(length=max(1, before.length - 1)))
        self._timed([], True)
        if point.chunks:
            self._fill(point)
        return self._timed(self._chunks(point), point.batch > 0), probed

    def _probed(self) -> float:
        seconds: list[float] = []

        def run() -> dict[int, int]:
            seconds.append(self._probe())
            return {}

        pending = self.worker.start(run)
        poll(pending.done)
        return seconds[0]

    def _timed(self, chunks: list[Any], decode: bool) -> float:
        """Run the batch as it is, with chunks; return seconds."""
        timed: list[float] = []

        def run() -> dict[int, int]:
            began = self.clock()
            tokens = self.runner.step(chunks, decode)
            timed.append(self.clock() - began)
            return tokens

        pending = self.worker.start(run)
        poll(pending.done)
        pending.result()
        return timed[0]

    def _fill(self, point: Point) -> None:
        """Let `batch` sequences decode, so long that the next step attends to `length` tokens."""
        batch = self.runner.batch
        for id in list(batch.ids):
            batch.leave(id)
        for id in range(point.batch):
            batch.join(
                id, 1 + id, point.length - 1, self._blocks(id, min(point.length + 1, self.ranges.length))
            )

    def _chunks(self, point: Point) -> list[Any]:
        from aquasim.runtime.engine import Prefill

        first = point.batch
        return [
            Prefill(first + i, [3] * new, cached, self._blocks(first + i, new + cached))
            for i, (new, cached) in enumerate(point.chunks)
        ]

    def _blocks(self, id: int, tokens: int) -> tuple[int, ...]:
        """Return a sequence's blocks, spread over the pool as a scheduler's are after a while."""
        count = -(-tokens // self.ranges.block_size)
        return tuple((id * 37 + i * 11) % self.ranges.blocks for i in range(count))


def poll(done: Callable[[], bool]) -> None:
    """Wait as the runtime's loop does: look, and nap."""
    from aquasim.runtime.local.run import NAP_S

    while not done():
        time.sleep(NAP_S)
