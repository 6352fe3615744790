"""What Prometheus reads at /metrics."""

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from aquasim.core import Scheduler
from aquasim.core.blocks import BlockPool
from aquasim.records.tables import KINDS, RunTables

TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
ITL_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """Counters, histograms and gauges of one server; `text` is the exposition format."""

    def __init__(self, block_bytes: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self._block_bytes = block_bytes
        self._moves_seen = 0
        self._gone = Counter("aquasim_requests", "Requests that ended.", ["outcome"], **kept)
        self._prompt = Counter("aquasim_prompt_tokens", "Prompt tokens of requests that got a token.", **kept)
        self._made = Counter("aquasim_generated_tokens", "Tokens generated.", **kept)
        self._paged = Counter("aquasim_paged_bytes", "KV bytes moved.", ["direction", "tier"], **kept)
        self._ttft = Histogram("aquasim_ttft_seconds", "Time to first token.", buckets=TTFT_S, **kept)
        self._itl = Histogram("aquasim_itl_seconds", "Time between tokens.", buckets=ITL_S, **kept)
        self._rct = Histogram("aquasim_rct_seconds", "Request completion time.", buckets=TTFT_S, **kept)

    def watch(self, scheduler: Scheduler) -> None:
        """Show a scheduler's queues and pools as they are when asked."""
        sizes: dict[str, tuple[str, Callable[[], int]]] = {
            "running": ("Requests that hold HBM.", lambda: len(scheduler.running)),
            "waiting": ("Requests that wait.", lambda: len(scheduler.waiting) + len(scheduler.newcomers)),
            "paged": ("Requests whose KV cache is in a tier.", lambda: len(scheduler.paged)),
            "free_blocks": ("Free KV blocks in HBM.", lambda: scheduler.pool.free),
        }
        for name, (about, size) in sizes.items():
            Gauge(f"aquasim_{name}", about, registry=self.registry).set_function(size)
        held = Gauge("aquasim_tier_blocks", "Blocks held in a tier.", ["tier"], registry=self.registry)
        for tier, pool in scheduler.pager.tiers.items():
            held.labels(tier).set_function(partial(_held, pool))

    def first_token(self, prompt: int, seconds: float) -> None:
        """A request got its first token."""
        self._prompt.inc(prompt)
        self._made.inc()
        self._ttft.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """A request got another token."""
        self._made.inc()
        self._itl.observe(seconds)

    def gone(self, outcome: str, seconds: float) -> None:
        """A request ended."""
        self._gone.labels(outcome).inc()
        self._rct.observe(seconds)

    def paged(self, tables: RunTables) -> None:
        """Count the transfers that were recorded since the last call."""
        rows = memoryview(tables.rows["transfers"]).cast("q")
        width = 7
        for at in range(self._moves_seen * width, len(rows), width):
            _, _, _, kind, tier, blocks, _ = rows[at : at + width]
            self._paged.labels(KINDS[kind], tables.tiers[tier]).inc(blocks * self._block_bytes)
        self._moves_seen = len(rows) // width
        rows.release()

    def cleared(self) -> None:
        """The records were dropped."""
        self._moves_seen = 0

    def text(self) -> str:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry).decode()


def _held(pool: BlockPool) -> int:
    return pool.held
