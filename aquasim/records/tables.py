"""Tables under construction: rows are packed into flat buffers of 64-bit integers, columns are made at the end."""

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from aquasim.core.events import Chunk, Step, Transfer

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler


class Outcome(IntEnum):
    """How a request ended."""

    FINISHED = 0
    REJECTED = 1
    ABORTED = 2


class Timed(Protocol):
    """The executor's account of one request."""

    arrival: int
    admitted: int
    first_token: int
    prompt: int
    output: int
    cached: int

    @property
    def todo(self) -> int:
        """Tokens it did not generate."""


COLUMNS: dict[str, tuple[str, ...]] = {
    "requests": (
        "request",
        "arrival_ns",
        "admitted_ns",
        "first_token_ns",
        "finished_ns",
        "prompt_tokens",
        "output_tokens",
        "cached_tokens",
        "outcome",
    ),
    "spans": ("request", "first_step", "last_step", "lane"),
    "steps": (
        "step",
        "start_ns",
        "first_ns",
        "growth_ns",
        "iterations",
        "batch",
        "context_tokens",
        "prefill_tokens",
        "prefills",
        "free_blocks",
        "waiting",
        "paged",
    ),
    "chunks": ("step", "request", "start_token", "tokens"),
    "preemptions": ("time_ns", "request"),
    "transfers": ("transfer", "start_ns", "end_ns", "kind", "tier", "blocks", "requests"),
    "moves": ("transfer", "request", "blocks"),
    "fetches": ("start_ns", "end_ns", "object", "source", "bytes"),
    "work": ("start_ns", "end_ns", "items", "peer_bytes", "host_bytes"),
    "leases": ("time_ns", "event", "donor", "consumer", "bytes"),
    "memory": ("time_ns", "tier", "bytes"),
}
"""Every table's columns, all int64. Times are nanoseconds, -1 where something did not happen."""

KINDS = ("out", "in", "migrate")
SOURCES = ("peer", "host", "file")
LEASE_EVENTS = ("offered", "reclaim", "regained", "granted", "revoked", "settled")

_PACK = {name: Struct(f"{len(columns)}q").pack for name, columns in COLUMNS.items()}
_STEP, _SPAN, _CHUNK, _REQUEST = (_PACK[name] for name in ("steps", "spans", "chunks", "requests"))


class RunTables:
    """The records of one engine's run.

    `steps`: iteration j of a row lasts `first_ns + growth_ns * j`. `spans`: a request decodes in every step
    with a batch from `first_step` to `last_step`, on
    the GPU (`lane` 0) or the host's cores (1). `tier` indexes `tiers`. `fetches`: an object (an adapter)
    came to the GPU from one of `SOURCES`. `work`: what an engine without requests made (images of a batch, a
    token of a long prompt), and the bytes it read from a peer or the host for it. `leases`: what this engine's
    GPUs (`donor` or `consumer`; -1: none in particular) lent or were lent, by `LEASE_EVENTS`. `memory`: the
    size of a tier on one GPU ("hbm": of the KV cache), from then on.
    """

    def __init__(self) -> None:
        self.rows: dict[str, bytearray] = {name: bytearray() for name in COLUMNS}
        self.reasons: dict[int, str] = {}
        self.tiers: list[str] = []
        self._steps = self.rows["steps"].extend
        self._spans = self.rows["spans"].extend
        self._chunks = self.rows["chunks"].extend
        self._requests = self.rows["requests"].extend

    def step(self, step: Step, start: int, a: int, b: int, iterations: int, s: "Scheduler") -> None:
        """A step ended after `iterations`."""
        number, batch, context, _, _, _, chunks, _, _, host = step
        prefill = sum([chunk[2] for chunk in chunks]) if chunks else 0
        waiting = len(s.waiting) + len(s.newcomers)
        free, paged = s.pool.free, len(s.paged)
        if host is not None:
            batch += len(host.first) + len(host.second)
            context += host.first_tokens + host.second_tokens
        self._steps(
            _STEP(number, start, a, b, iterations, batch, context, prefill, len(chunks), free, waiting, paged)
        )

    def span(self, request: int, first: int, last: int, lane: int = 0) -> None:
        """A request left the decode batch (lane 0), or stopped to decode on the host's cores (lane 1)."""
        self._spans(_SPAN(request, first, last, lane))

    def chunk(self, step: int, chunk: Chunk) -> None:
        """A prefill chunk ran."""
        self._chunks(_CHUNK(step, chunk[0], chunk[1], chunk[2]))

    def preempted(self, now: int, request: int) -> None:
        """A request lost its memory."""
        self.add("preemptions", now, request)

    def request(self, id: int, live: Timed, now: int, outcome: Outcome, reason: str) -> None:
        """A request ended."""
        made = live.output - live.todo if outcome else live.output
        times = (live.arrival, live.admitted, live.first_token, now)
        self._requests(_REQUEST(id, *times, live.prompt, made, live.cached, outcome))
        if reason:
            self.reasons[id] = reason

    def transfer(self, transfer: Transfer, start: int, end: int) -> None:
        """A transfer landed."""
        tier = self._tier(transfer.tier)
        kind = KINDS.index(transfer.kind)
        moves = transfer.moves
        self.add("transfers", transfer.transfer, start, end, kind, tier, transfer.blocks, len(moves))
        for move in moves:
            self.add("moves", transfer.transfer, move.request, move.blocks)

    def fetch(self, start: int, end: int, number: int, source: str, size: int) -> None:
        """An object is on the GPU."""
        self.add("fetches", start, end, number, SOURCES.index(source), size)

    def work(self, start: int, end: int, items: int, peer_bytes: int = 0, host_bytes: int = 0) -> None:
        """A unit of work ended."""
        self.add("work", start, end, items, peer_bytes, host_bytes)

    def lease(self, now: int, event: str, donor: int, consumer: int, size: int) -> None:
        """Memory was lent, or came back, or is about to."""
        self.add("leases", now, LEASE_EVENTS.index(event), donor, consumer, size)

    def memory(self, now: int, tier: str, size: int) -> None:
        """A tier has a new size."""
        self.add("memory", now, self._tier(tier), size)

    def _tier(self, name: str) -> int:
        if name not in self.tiers:
            self.tiers.append(name)
        return self.tiers.index(name)

    def add(self, table: str, *row: int) -> None:
        """Append a row of any table, its columns in order."""
        self.rows[table].extend(_PACK[table](*row))
