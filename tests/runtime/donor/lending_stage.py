"""An engine that lends its cache, in this process; a coordinator and an engine that borrows, in others."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import eventually

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.core.informers import QueueInformer, WindowInformer
from aquasim.runtime.arenas import create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.donor import DonorClient
from aquasim.runtime.donor.elastic import ElasticPool
from aquasim.runtime.donor.lending import Lending
from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, random_weights
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.worker import Threaded
from aquasim.runtime.pager import Pager, Window

HERE = Path(__file__).parent
CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=64, intermediate=64, max_positions=256
)
WEIGHTS = random_weights(CONFIG, seed=3)
SIZE, PADDED, SEQS, LONGEST = 4, 32, 8, 40
KIB, MIB = 1 << 10, 1 << 20
EXTENT, EXTENTS = 128 * KIB, 6
EACH = 16
"""Blocks of an extent: a block has 8 KiB."""
DRAIN_S, LEASE_S = 2.0, 2.0

Jobs = list[tuple[list[int], int]]


def jobs(seed: int, count: int) -> Jobs:
    """Return prompts and lengths."""
    rng = random.Random(seed)
    return [
        ([rng.randrange(97) for _ in range(rng.randint(4, 16))], rng.randint(12, 24)) for _ in range(count)
    ]


def spawn(*words: str, **options: Any) -> "subprocess.Popen[str]":
    """Start Python with these words."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    given: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    return subprocess.Popen([sys.executable, *words], text=True, **(given | options))


def alone(prompt: list[int], count: int) -> list[int]:
    """Return what a request says by itself, in a cache that nobody touches."""
    pool = KvPool.of(CONFIG, EACH, SIZE, fill=float("nan"))
    limits = Limits(
        blocks=EACH, block_size=SIZE, max_num_seqs=SEQS, max_num_batched_tokens=PADDED, max_repeat=1
    )
    executor = Executor(
        Scheduler(limits, make_policy("fcfs")), Runner(CONFIG, WEIGHTS, pool, padded=PADDED, max_seqs=SEQS)
    )
    executor.submit(0, prompt, count)
    sequence = executor.sequences[0]
    executor.run()
    return sequence.generated


class Coordinator:
    """A coordinator process that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "c.sock"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        words = ("--socket", str(self.socket), "--lease-s", f"{LEASE_S}", "--drain-s", f"{DRAIN_S}")
        self.process = spawn("-m", "aquasim", "coordinator", *words)
        eventually(self.socket.exists)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


class Serving:
    """An engine over an elastic cache, its donor client, and what was said."""

    def __init__(
        self, socket: Path, policy: str = "fcfs", informer: QueueInformer | WindowInformer | None = None,
        threaded: bool = False, interval_ns: int = 1_000_000, **options: Any,
    ) -> None:  # fmt: skip
        self.memory = ElasticPool(CONFIG, EXTENTS * EACH, SIZE, extent_bytes=EXTENT, fill=float("nan"))
        assert (self.memory.extents, self.memory.per_extent) == (EXTENTS, EACH)
        self.copier = HostCopier()
        self.host = create("memfd", 64 * self.memory.block_bytes)
        pager = Pager(self.copier, Window(self.memory.pool.base, self.memory.block_bytes), "always")
        pager.tier("host").add("own", self.host.ptr, 64 * self.memory.block_bytes)
        pager.tier("host").grow(64)
        limits = Limits(
            blocks=EXTENTS * EACH, block_size=SIZE, max_num_seqs=SEQS, max_num_batched_tokens=PADDED,
            max_model_len=LONGEST, tiers=(("host", 64),), max_repeat=1,
        )  # fmt: skip
        runner = Runner(CONFIG, WEIGHTS, self.memory.pool, padded=PADDED, max_seqs=40, max_len=LONGEST)
        self.worker = Threaded() if threaded else None
        scheduler = Scheduler(limits, make_policy(policy, **options))
        self.executor = Executor(scheduler, runner, pager, worker=self.worker)
        self.client = DonorClient(socket, "engine", extent_bytes=EXTENT)
        self.client.start()
        self.lending = Lending(
            self.executor, self.memory, self.client, informer, self.copier, interval_ns=interval_ns
        )
        self.told: dict[int, list[int]] = {}

    def submit(self, wanted: Jobs) -> list[int]:
        """Send requests; return their numbers."""
        ids = []
        for prompt, count in wanted:
            id = len(self.told)
            self.told[id] = []
            self.executor.submit(
                id, prompt, count, on_token=lambda id, token, last: self.told[id].append(token)
            )
            ids.append(id)
        return ids

    def turns(self, until: Callable[[], object], seconds: float = 30.0) -> None:
        """Let the engine work until a condition holds."""

        def look() -> object:
            self.executor.turn()
            return until()

        eventually(look, seconds, 1e-4)

    def finish(self) -> None:
        """Serve what is there."""
        self.turns(lambda: not self.executor.busy)
        self.check()

    def check(self) -> None:
        """Frames and blocks are whole, nobody's are held, what is away is mapped nowhere."""
        self.lending.frames.check()
        self.executor.scheduler.check()
        assert not self.executor.repaired
        home = {extent for extent in range(EXTENTS) if self.memory.memory.home(extent)}
        assert home == self.lending.frames.home
        assert home | self.lending.lent == set(range(EXTENTS))

    def close(self) -> None:
        """End everything; whatever is lent goes with it."""
        self.client._link.stop(0.1)
        if self.worker is not None:
            self.worker.close()
        self.copier.close()
        self.host.close()
        del self.executor, self.lending
        self.memory.close()


class Borrower:
    """An engine in another process that pages into what it leases (`lending_consumer.py`)."""

    def __init__(self, socket: Path, want: int, wanted: Jobs) -> None:
        words = (str(HERE / "lending_consumer.py"), str(socket), str(want), json.dumps(wanted))
        self.process = spawn(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)

    def hears(self, word: str) -> str:
        """Wait for a line that begins with a word, and return the rest of it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line[len(word) :].strip()
        raise AssertionError(f"it ended before it said {word}")

    def begin(self) -> None:
        """Let it serve."""
        assert self.process.stdin is not None
        self.process.stdin.write("begin\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()
