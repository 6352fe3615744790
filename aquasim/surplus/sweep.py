"""Throughput and memory by batch, simulated: what a GPU's engine would do if its memory were never short."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.hardware.cost import StepCost
from aquasim.hardware.memory import kv_blocks, kv_bytes
from aquasim.hardware.profile import Profile
from aquasim.hardware.serving import DEFAULT, Serving
from aquasim.models import Model
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
from aquasim.sim.source import Source
from aquasim.workload import Poisson, Workload, stream

ROUNDS = 4
"""Requests per open one: the first round fills the batch, the last one drains it."""
FEWEST = 64
BLOCK_SIZE = 16


class Point(NamedTuple):
    """One load: requests open (0: at a rate), output tokens/s, peak bytes of KV cache on one GPU, p99 of TTFT.

    Of an image or audio producer: items of a batch, items/s, peak bytes beside the weights, seconds of a batch.
    """

    batch: int
    tokens_per_s: float
    kv_bytes: int
    ttft_p99_s: float


@dataclass(frozen=True)
class Serve:
    """What is served on what: `model` on each of `tp` GPUs, requests of equal `prompt` and `output` tokens."""

    profile: Profile
    model: Model
    tp: int
    prompt: int
    output: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    serving: Serving = DEFAULT

    @property
    def room(self) -> int:
        """Bytes left for KV cache on each GPU beside weights and activations.

        Raises ValueError, with the degree that fits, if the weights do not.
        """
        sizes = {"max_tokens": self.max_num_batched_tokens, "max_sequences": self.max_num_seqs}
        kv_blocks(self.profile, self.model, self.tp, BLOCK_SIZE, **sizes)
        return kv_bytes(self.profile, self.model, self.tp, **sizes)

    def run(self, workload: Workload) -> Point:
        """Serve a workload with as much memory as it takes."""
        blocks = len(workload) * -(-(self.prompt + self.output) // BLOCK_SIZE)
        limits = Limits(
            blocks=blocks,
            block_size=BLOCK_SIZE,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.prompt + self.output,
            max_repeat=BLOCK_SIZE,  # free blocks are recorded step by step: a step grows each by one at most
        )
        run = self._simulate(limits, workload)
        used = blocks - int(run.columns("steps")["free_blocks"].min())
        block_bytes = BLOCK_SIZE * self.model.kv_bytes_per_token_gpu(self.tp)
        summary = run.summary()
        return Point(workload.cap or 0, summary["throughput_tok_s"], used * block_bytes, summary["ttft_p99"])

    def _simulate(self, limits: Limits, workload: Workload) -> Run:
        cost = StepCost(
            self.profile,
            self.model,
            self.tp,
            limits.max_num_batched_tokens + limits.max_num_seqs,
            serving=self.serving,
        )
        clock, tables = Clock(), RunTables()
        source = Source(clock, workload, BLOCK_SIZE, False, round(self.serving.request_s * 1e9))
        scheduler = Scheduler(limits, make_policy("fcfs"))
        engine = Engine(clock, scheduler, cost, tables, on_gone=source.gone, ahead=self.serving.ahead)
        source.start(engine)
        while clock.play():
            pass
        return Run([("engine", tables)], {})


def sweep(serve: Serve) -> list[Point]:
    """Return a point for each power of two of open requests, up to the engine's most."""
    batches = [1 << i for i in range(serve.max_num_seqs.bit_length()) if 1 << i <= serve.max_num_seqs]
    return [serve.run(_closed(serve, batch)) for batch in batches]


def rate_point(serve: Serve, rate: float, requests: int = 400) -> Point:
    """Return the point of Poisson arrivals at `rate` per second; ValueError unless it is finite and above 0."""
    arrival = Poisson(rate).times(requests, stream(0, "arrivals"))
    return serve.run(_equal(serve, arrival, None))


def _closed(serve: Serve, batch: int) -> Workload:
    return _equal(serve, np.zeros(max(FEWEST, ROUNDS * batch), np.int64), batch)


def _equal(serve: Serve, arrival: np.ndarray, cap: int | None) -> Workload:
    same = np.ones(len(arrival), np.int64)
    return Workload(arrival, serve.prompt * same, serve.output * same, cap=cap)
