"""When a donor lends and when it wants its memory back: pure rules, signed bytes, explicit state.

As in AQUA, `inform` answers with bytes: below 0, shrink by as much, it is to be lent; above 0, grow by as much, it
came back; 0, stay. A rule that wants its memory back sets `reclaiming`; whoever runs the donor asks for it, and says
`returned` once every lent byte is there. Nothing here reads a clock: times are integer nanoseconds.
"""

from dataclasses import dataclass, field

GIB = 1 << 30
MIB = 1 << 20


@dataclass(slots=True, kw_only=True)
class BatchInformer:
    """Image and audio producers: after the first batch at full size, offer what is free but a buffer; once, for good.

    Source: AQUA's released informer, numbers included. Its smallest offer is 30 KiB (meant to be 10 GB, it seems).
    """

    retain_bytes: int = 5 * GIB
    min_offer_bytes: int = 30 << 10
    decided: bool = False
    donated_bytes: int = 0

    def inform(self, free_bytes: int) -> int:
        """Return minus the bytes to lend after the first call, 0 after every other; `free_bytes` at peak use."""
        if self.decided:
            return 0
        self.decided = True
        offer = free_bytes - self.retain_bytes
        self.donated_bytes = offer if offer >= max(1, self.min_offer_bytes) else 0
        return -self.donated_bytes


@dataclass(slots=True)
class _Loan:
    """What the two LLM rules share: one loan at a time, lent whole and returned whole."""

    donated_bytes: int = field(default=0, kw_only=True)
    reclaiming: bool = field(default=False, kw_only=True)
    back_bytes: int = field(default=0, kw_only=True)
    """Returned, and not yet passed on by `inform`."""

    def returned(self) -> None:
        """Every lent byte is free on the donor again; the next `inform` passes it on."""
        assert self.reclaiming, "nothing is being reclaimed"
        self.back_bytes, self.donated_bytes, self.reclaiming = self.donated_bytes, 0, False

    def _take_back(self) -> int:
        back, self.back_bytes = self.back_bytes, 0
        return back


@dataclass(slots=True, kw_only=True)
class WindowInformer(_Loan):
    """LLM producers, AQUA's first release (A100): looks at whole windows of free memory and queue length.

    Lends all but `retain_bytes` of the least free memory when that leaves more than `min_offer_bytes`, free memory
    swung by less than `swing_bytes`, and the queue grew by less than `donate_rate_per_s`. Reclaims when least free
    memory is below `low_free_bytes`, the mean queue above `reclaim_queue`, and it grew by more than
    `reclaim_rate_per_s`. Every comparison is strict. Decides when a sample is `window_ns` or more after the first of
    its window, then begins a new window, so at most one change per window.

    Source: AQUA's released informer, numbers included; one loan at a time is ours, and the window's start anew.
    """

    window_ns: int = 10_000_000_000
    retain_bytes: int = 5 * GIB
    min_offer_bytes: int = 5 * GIB
    swing_bytes: int = 300_000_000
    donate_rate_per_s: float = 1.0
    low_free_bytes: int = 800 * MIB
    reclaim_queue: float = 2.0
    reclaim_rate_per_s: float = 1.5
    samples: list[tuple[int, int, int]] = field(default_factory=list)
    """(time in ns, free bytes, queue length) of the window under way."""

    def inform(self, now: int, free_bytes: int, queue: int) -> int:
        """Add a sample at `now` (ns) and return signed bytes."""
        if self.back_bytes or self.reclaiming:
            self.samples.clear()  # memory is changing hands: what was seen before says nothing about after
            return self._take_back()
        self.samples.append((now, free_bytes, queue))
        if now - self.samples[0][0] < self.window_ns:
            return 0
        window, self.samples = self.samples, []
        return self._decide(window)

    def _decide(self, window: list[tuple[int, int, int]]) -> int:
        free = [sample[1] for sample in window]
        growth = window[-1][2] - window[0][2]
        seconds = self.window_ns / 1e9
        if self.donated_bytes:
            mean = sum(sample[2] for sample in window) / len(window)
            hurried = mean > self.reclaim_queue and growth > self.reclaim_rate_per_s * seconds
            self.reclaiming = hurried and min(free) < self.low_free_bytes
            return 0
        offer = min(free) - self.retain_bytes
        steady = max(free) - min(free) < self.swing_bytes and growth < self.donate_rate_per_s * seconds
        self.donated_bytes = offer if steady and offer > self.min_offer_bytes else 0
        return -self.donated_bytes


@dataclass(slots=True, kw_only=True)
class QueueInformer(_Loan):
    """LLM producers, AQUA's later release (H100): two queue thresholds, a fixed loan, space made first.

    With nothing lent and `queue <= donate_queue`, lends `max_bytes - min_retain_bytes` as soon as the cache uses
    less than `min_retain_bytes`; the engine makes the space, says `done_making_space`, and only then is it lent.
    With bytes lent and `queue >= reclaim_queue`, reclaims. Bytes are per GPU: tensor-parallel ranks do the same.

    Source: AQUA's released informer, thresholds included.

    Raises:
        ValueError: `max_bytes` does not exceed `min_retain_bytes`, or the thresholds do not leave a gap.
    """

    min_retain_bytes: int
    max_bytes: int
    donate_queue: int = 2
    reclaim_queue: int = 10
    making_space: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_retain_bytes < self.max_bytes:
            raise ValueError(
                f"min_retain_bytes is {self.min_retain_bytes}, max_bytes {self.max_bytes};"
                " the first must be less than the second and not negative"
            )
        if self.donate_queue >= self.reclaim_queue:
            raise ValueError(
                f"donate_queue is {self.donate_queue}, reclaim_queue {self.reclaim_queue};"
                " the first must be less than the second"
            )

    def inform(self, queue: int, kv_used_bytes: int) -> int:
        """Look at the waiting queue and the cache in use, and return signed bytes."""
        if self.back_bytes or self.reclaiming or self.making_space:
            return self._take_back()
        if self.donated_bytes:
            self.reclaiming = queue >= self.reclaim_queue
            return 0
        if queue > self.donate_queue or kv_used_bytes >= self.min_retain_bytes:
            return 0
        self.making_space = True
        return self.min_retain_bytes - self.max_bytes

    def done_making_space(self) -> int:
        """The cache has shrunk: return the bytes that are free now and to be lent."""
        assert self.making_space, "no space was being made"
        self.making_space = False
        self.donated_bytes = self.max_bytes - self.min_retain_bytes
        return self.donated_bytes
