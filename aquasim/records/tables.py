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
    todo: int
    cached: int


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
    "spans": ("request", "first_step", "last_step"),
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
}
"""Every table's columns, all int64. Times are nanoseconds, -1 where something did not happen."""

KINDS = ("out", "in", "migrate")

_PACK = {name: Struct(f"{len(columns)}q").pack for name, columns in COLUMNS.items()}
_STEP, _SPAN, _CHUNK, _REQUEST = (_PACK[name] for name in ("steps", "spans", "chunks", "requests"))


class RunTables:
    """The records of one engine's run.

    `steps`: iteration j of a row lasts `first_ns + growth_ns * j`. `spans`: a request decodes in every step
    with a batch from `first_step` to `last_step`. `transfers.tier` indexes `tiers`.
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
        number, batch, context, _, _, _, chunks, _, _ = step
        prefill = sum([chunk[2] for chunk in chunks]) if chunks else 0
        waiting = len(s.waiting) + len(s.newcomers)
        free, paged = s.pool.free, len(s.paged)
        self._steps(
            _STEP(number, start, a, b, iterations, batch, context, prefill, len(chunks), free, waiting, paged)
        )

    def span(self, request: int, first: int, last: int) -> None:
        """A request left the decode batch."""
        self._spans(_SPAN(request, first, last))

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
        if transfer.tier not in self.tiers:
            self.tiers.append(transfer.tier)
        tier = self.tiers.index(transfer.tier)
        kind = KINDS.index(transfer.kind)
        moves = transfer.moves
        self.add("transfers", transfer.transfer, start, end, kind, tier, transfer.blocks, len(moves))
        for move in moves:
            self.add("moves", transfer.transfer, move.request, move.blocks)

    def add(self, table: str, *row: int) -> None:
        """Append a row of any table, its columns in order."""
        self.rows[table].extend(_PACK[table](*row))
