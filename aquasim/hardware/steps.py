"""Iterations of our own engine, as measured by running it: products by tokens, attention by what is gathered."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from aquasim.hardware.attention import FOREVER, Chunk


class Times(Protocol):
    """How long iterations last: all that an engine asks."""

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """(a, b, limit): iteration j of a run of decodes lasts a + b*j ns, for j < limit."""
        ...

    def step(self, chunks: Sequence[Chunk], batch: int, context: int) -> int:
        """Return ns of one iteration with prefill chunks (new, cached) beside the decodes."""
        ...

    def timed(self, chunks: Sequence[Chunk], batch: int, context: int) -> tuple[int, float]:
        """As `step`, and how many of those ns are bound by compute."""
        ...


class Steps(Times, Protocol):
    """As `Times`, and how much of it memory is busy (`aquasim.hardware.cost.StepCost`, or `EngineCost`)."""

    def memory_ns(self, batch: int, context: int, tokens: int) -> int:
        """Return ns of moving the iteration's bytes of HBM at its peak rate."""
        ...


FEATURES = ("step", "row", "decodes", "decode", "gathered", "chunk", "token", "reach", "pairs", "masked")
"""What an iteration's time is linear in, beside the curve of products over tokens; see `features`."""


def features(chunks: Sequence[Chunk], batch: int, length: float) -> tuple[float, ...]:
    """Return how much of each of `FEATURES` is in an iteration of `batch` decodes, the longest of `length` tokens.

    Once a step; per row of logits; once if anything decodes; per decode; per token that is gathered for decodes, all
    of them as long as the longest; per chunk; per new token; per token that a chunk gathers; per pair of query and
    key; per pair of a mask, which only chunks behind cached tokens need.
    """
    new = sum(n for n, _ in chunks)
    reach = sum(n + cached for n, cached in chunks)
    pairs = sum(n * (cached + n / 2) for n, cached in chunks)
    masked = sum(n * (cached + n) for n, cached in chunks if cached and n > 1)
    rows = batch + len(chunks)
    return (1.0, rows, float(batch > 0), batch, batch * length, len(chunks), new, reach, pairs, masked)


class EngineCost:
    """Cost of iterations of the model a profile's `runtime` block was measured with.

    Decodes attend together, gathered as long as the longest of them: `context` is that length times their number
    (`Serving.padded`). `extra_ns` is the host's part per iteration, without and with chunks. Times are ns.
    """

    def __init__(self, block: dict[str, Any], extra_ns: tuple[int, int]) -> None:
        self._knots: list[int] = block["tokens"]
        self._curve = [float(seconds) * 1e9 for seconds in block["tokens_s"]]
        self._weights = [float(block["features_s"][name]) * 1e9 for name in FEATURES]
        self._extra = extra_ns
        self._slope = self._weights[FEATURES.index("gathered")]
        self._fixed: dict[int, int] = {}

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """See Steps; time is linear in the length, so that one piece goes on for ever."""
        fixed = self._fixed.get(batch)
        if fixed is None:
            fixed = self._fixed[batch] = round(self._ns((), batch, 0.0) + self._extra[0])
        slope = round(self._slope * batch)
        return fixed + slope * (context // batch), slope, FOREVER

    def step(self, chunks: Sequence[Chunk], batch: int, context: int) -> int:
        """See Steps."""
        if not chunks:
            return self.decode(batch, context)[0]
        length = context / batch if batch else 0.0
        return round(self._ns(chunks, batch, length)) + self._extra[1]

    def timed(self, chunks: Sequence[Chunk], batch: int, context: int) -> tuple[int, float]:
        """See Steps. No clock is known to fall here."""
        return self.step(chunks, batch, context), 0.0

    def memory_ns(self, batch: int, context: int, tokens: int) -> int:
        """See Steps. Copies beside compute are taken to cost it nothing."""
        return 0

    def _ns(self, chunks: Sequence[Chunk], batch: int, length: float) -> float:
        linear = sum(w * x for w, x in zip(self._weights, features(chunks, batch, length), strict=True))
        return linear + self._products(batch + sum(new for new, _ in chunks))

    def _products(self, tokens: int) -> float:
        """Return the curve at a number of tokens; beyond its end it goes on in proportion."""
        knots, curve = self._knots, self._curve
        if tokens >= knots[-1]:
            return curve[-1] * tokens / knots[-1]
        i = bisect_right(knots, tokens) - 1
        if i < 0:
            return curve[0]
        share = (tokens - knots[i]) / (knots[i + 1] - knots[i])
        return curve[i] + (curve[i + 1] - curve[i]) * share
