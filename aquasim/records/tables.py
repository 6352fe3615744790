"""Tables under construction: rows are appended to flat integer buffers, columns are made at the end."""

from array import array
from enum import IntEnum
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


class RunTables:
    """The records of one engine's run.

    `steps`: iteration j of a row lasts `first_ns + growth_ns * j`. `spans`: a request decodes in every step
    with a batch from `first_step` to `last_step`. `transfers.tier` indexes `tiers`.
    """

    def __init__(self) -> None:
        self.rows: dict[str, array[int]] = {name: array("q") for name in COLUMNS}
        self.reasons: dict[int, str] = {}
        self.tiers: list[str] = []
        self._steps = self.rows["steps"].extend
        self._spans = self.rows["spans"].extend
        self._chunks = self.rows["chunks"].extend
        self._requests = self.rows["requests"].extend

    def step(self, step: Step, start: int, a: int, b: int, iterations: int, s: "Scheduler") -> None:
        """A step ended after `iterations`."""
        chunks = step.chunks
        prefill = sum([chunk[2] for chunk in chunks]) if chunks else 0
        self._steps(
            (
                step[0],
                start,
                a,
                b,
                iterations,
                step[1],
                step[2],
                prefill,
                len(chunks),
                s.pool.free,
                len(s.waiting) + len(s.newcomers),
                len(s.paged),
            )
        )

    def span(self, request: int, first: int, last: int) -> None:
        """A request left the decode batch."""
        self._spans((request, first, last))

    def chunk(self, step: int, chunk: Chunk) -> None:
        """A prefill chunk ran."""
        self._chunks((step, chunk[0], chunk[1], chunk[2]))

    def preempted(self, now: int, request: int) -> None:
        """A request lost its memory."""
        self.rows["preemptions"].extend((now, request))

    def request(self, id: int, live: Timed, now: int, outcome: Outcome, reason: str) -> None:
        """A request ended."""
        generated = live.output if outcome == 0 else live.output - live.todo
        self._requests(
            (
                id,
                live.arrival,
                live.admitted,
                live.first_token,
                now,
                live.prompt,
                generated,
                live.cached,
                outcome,
            )
        )
        if reason:
            self.reasons[id] = reason

    def transfer(self, transfer: Transfer, start: int, end: int) -> None:
        """A transfer landed."""
        if transfer.tier not in self.tiers:
            self.tiers.append(transfer.tier)
        tier = self.tiers.index(transfer.tier)
        kind = KINDS.index(transfer.kind)
        count = len(transfer.moves)
        self.rows["transfers"].extend((transfer.transfer, start, end, kind, tier, transfer.blocks, count))
        moves = self.rows["moves"]
        for move in transfer.moves:
            moves.extend((transfer.transfer, move.request, move.blocks))
