"""An image or audio producer on one GPU: batch after batch, slowed by transfers that take HBM bandwidth."""

from collections.abc import Callable
from math import ceil

from aquasim.producers import Producer
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Call, Clock
from aquasim.sim.topology import Server

MOST_SHARE = 0.95
"""Transfers leave a producer at least the rest of the bandwidth, as they leave an engine."""


class BatchTenant:
    """Makes batches of one size until `duration_ns` is over, and finishes the one under way.

    A batch takes the producer's time; its memory-bound part takes 1 / (1 - share) as long while flows take that
    share of the GPU's HBM bandwidth. After the first batch `on_peak` is told, once, how many bytes of HBM were free
    at its peak.

    Raises:
        UserError: a batch does not fit in the GPU's memory.
    """

    def __init__(
        self,
        name: str,
        env: Clock,
        server: Server,
        gpu: int,
        producer: Producer,
        batch: int,
        duration_ns: int,
        tables: RunTables,
        on_peak: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.tables = tables
        self.free_bytes = producer.free_bytes(server.profile, batch)
        self._env = env
        self._server = server
        self._gpu = gpu
        self._batch = batch
        self._duration = duration_ns
        self._on_peak = on_peak
        time = producer.time(server.profile, batch)
        self._whole = round(time.seconds * 1e9)
        self._moving = min(self._whole, round(time.memory_bound_seconds * 1e9))
        self._working = False
        self._over = False
        self._load = 0.0

    @property
    def done(self) -> bool:
        """Whether the last batch is finished."""
        return self._over

    def start(self) -> None:
        """Begin the first batch now."""
        self._began = self._env.ns
        self._server.fabric.watch(self._rates_changed, (self._gpu,))
        self._load = self._load_now()
        self._next_batch()

    def _next_batch(self) -> None:
        now = self._env.ns
        self._working = now - self._began < self._duration
        if not self._working:
            self._over = True
            return
        self._started = self._since = now
        self._left = 1.0
        self._plan()
        self._wake = self._end
        self._env.at(self._wake, self._ring)

    def _ring(self, event: Call) -> None:
        """The earliest time the batch could have ended is there; it is later if load has come since."""
        now = self._env.ns
        if not self._working or now < self._wake:
            return
        if now < self._end:
            self._wake = self._end
            self._env.at(self._wake, self._ring)
            return
        self.tables.work(self._started, now, self._batch)
        if self._on_peak is not None:
            tell, self._on_peak = self._on_peak, None
            tell(self.free_bytes)
        self._next_batch()

    def _rates_changed(self) -> None:
        load = self._load_now()
        if load == self._load:
            return
        if self._working:
            now = self._env.ns
            self._left -= (now - self._since) / self._stretched()
            self._since = now
        self._load = load
        if self._working:
            self._plan()
            if self._end < self._wake:
                self._wake = self._end
                self._env.at(self._wake, self._ring)

    def _plan(self) -> None:
        """Set when the batch ends if the load stays: what is left of it, at the rate in force."""
        self._end = self._since + max(0, ceil(self._left * self._stretched()))

    def _stretched(self) -> float:
        """Nanoseconds of a whole batch under the load in force."""
        share = min(MOST_SHARE, self._load / self._server.profile.hbm_read)
        return self._whole + self._moving * share / (1 - share)

    def _load_now(self) -> float:
        return self._server.fabric.hbm.get(self._gpu, 0.0)
