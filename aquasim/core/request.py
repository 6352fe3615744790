"""One request, as the scheduler sees it."""

from enum import IntEnum


class State(IntEnum):
    """Where a request is. Only RUNNING ones have all their blocks in HBM and may be in a step."""

    WAITING = 0
    """No blocks; computed is 0 (new, or to be recomputed)."""
    RUNNING = 1
    """Resident: prefilling, or decoding."""
    LEAVING = 2
    """Its page-out is under way and its blocks are not free yet."""
    PAGED = 3
    """Its blocks are in a tier."""
    ARRIVING = 4
    """Its page-in is under way."""
    GONE = 5
    """Finished, rejected or aborted."""


class Request:
    """Progress is one notion: `computed` catches up with `total`. Prefill, chunks, recompute and decode alike.

    While a request decodes in the batch its progress is the batch's: `computed == tick + offset`.
    """

    __slots__ = (
        "adapter",
        "arrival",
        "blocks",
        "cached_blocks",
        "computed",
        "copied",
        "copy",
        "copy_tier",
        "credit",
        "decoding",
        "id",
        "level",
        "max_tokens",
        "offset",
        "output",
        "prefilled",
        "prefix",
        "priority",
        "prompt",
        "quantum",
        "rank",
        "since",
        "state",
        "total",
    )

    def __init__(
        self,
        id: int,
        arrival: int,
        prompt: int,
        max_tokens: int,
        priority: int,
        prefix: tuple[int, ...],
        output: int | None,
        adapter: int = -1,
    ) -> None:
        self.id = id
        self.arrival = arrival
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.priority = priority
        self.prefix = prefix
        self.output = output
        self.adapter = adapter
        self.state = State.WAITING
        self.computed = 0
        self.total = prompt
        self.prefilled = False
        """All known tokens but the newest are computed: the next one is a decode."""
        self.decoding = False
        """In the decode batch now."""
        self.offset = 0
        self.blocks: list[int] = []
        self.cached_blocks = 0
        """Leading blocks of its own that are registered in the prefix cache."""
        self.copy: list[int] = []
        """Blocks of the copy in `copy_tier`, of which the first `copied` tokens are valid."""
        self.copy_tier = ""
        self.copied = 0
        self.rank = 0
        """Order of selection, least first. In the batch: its intercept (see `Policy.slope`)."""
        self.credit = 0
        self.level = 0
        self.quantum = 0
        self.since = arrival

    @property
    def generated(self) -> int:
        """Tokens generated so far; valid while not in the decode batch."""
        return self.total - self.prompt

    def __repr__(self) -> str:
        return f"Request({self.id}, {self.state.name}, {self.computed}/{self.total})"
