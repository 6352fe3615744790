"""Time of attention: linear pieces for decoding, a surface for new tokens."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log2

from aquasim.hardware.grid import Grid
from aquasim.hardware.profile import Profile
from aquasim.models import Model

Chunk = tuple[int, int]
FOREVER = 1 << 60  # iterations until the end of a last piece


def measured_head_dim(dims: dict[int, Grid], head_dim: int) -> tuple[int, float]:
    """Return the measured head dimension to use for `head_dim`, and the factor on its time.

    The next larger one, as kernels pad to it; beyond the largest, time grows in proportion.
    """
    largest = max(dims)
    if head_dim > largest:
        return largest, head_dim / largest
    return min(dim for dim in dims if dim >= head_dim), 1.0


class DecodeAttention:
    """Attention of all layers when each sequence adds one token, on one of `tp` GPUs.

    `tables` are the profile's for decodes alone, or for what they add to a launch with prefill chunks.
    """

    def __init__(self, profile: Profile, model: Model, tp: int, tables: dict[int, Grid]) -> None:
        self.model = model
        dim, self.factor = measured_head_dim(tables, model.head_dim)
        kv_heads = model.kv_heads_gpu(tp)
        group = model.heads // tp / kv_heads
        self.grid = tables[dim].fix(group, grow=False).fix(kv_heads)
        self.launch_ns = self.factor * self.grid.fix(1).ns(1)
        self.token_seconds = 2 * kv_heads * model.head_dim * model.dtype_bytes / profile.peak_hbm

    def pieces(self, batch: int) -> tuple[list[int], list[int], list[int]]:
        """Return (lengths, bases, slopes) of the piecewise linear time at `batch` sequences, in integer ns.

        With mean length l = total context // batch tokens in piece p, attention lasts bases[p] + slopes[p] *
        (l - lengths[p]). One iteration adds one token to each sequence, so l grows by exactly 1 and time by
        slopes[p]. `lengths` has one entry more than the others: where the last piece ends.
        """
        curve = self.grid.fix(batch)
        lengths = self._lengths(curve)
        bases, slopes = [self._ns(curve, batch, lengths[0])], []
        for start, end in pairwise(lengths):
            slopes.append(max(0, round((self._ns(curve, batch, end) - bases[-1]) / (end - start))))
            bases.append(bases[-1] + slopes[-1] * (end - start))
        roofline = ceil(self.model.layers * batch * self.token_seconds * 1e9)
        last = 0 if self.model.sliding_window else max(slopes[-1], roofline)
        return [*lengths, FOREVER], bases, [*slopes, last]

    def _lengths(self, curve: Grid) -> list[int]:
        """Return the knots along the mean length, from 0 and no further than the sliding window."""
        knots = [0, *(round(2.0**knot) for knot in curve.axes[0][1:])]
        window = self.model.sliding_window
        return [*(knot for knot in knots if knot < window), window] if window else knots

    def _ns(self, curve: Grid, batch: int, length: int) -> int:
        seconds = max(curve.ns(max(1, length)) * 1e-9 * self.factor, batch * length * self.token_seconds)
        return ceil(self.model.layers * seconds * 1e9)


class Beside:
    """What decodes add to a launch of attention with prefill chunks, on one of `tp` GPUs, over all layers.

    From the profile's table of such launches. Without one, decodes cost as alone, less the launch, times the
    profile's factor where the longest chunk fills more than `rows` rows of queries per KV head: then the
    kernel neither splits a decode's context over the chip nor tunes its tiles to it.
    """

    def __init__(self, profile: Profile, model: Model, tp: int, alone: DecodeAttention) -> None:
        tables = profile.mixed_attention
        self.decode = DecodeAttention(profile, model, tp, tables) if tables else alone
        self.launch = model.layers * self.decode.launch_ns
        self.factor, rows = (1.0, 0) if tables else profile.beside_chunks
        self.tuned = rows * model.kv_heads_gpu(tp) * tp / model.heads
        self._pieces: dict[int, tuple[list[int], list[int], list[int]]] = {}

    def ns(self, batch: int, length: int, longest: int) -> float:
        """Nanoseconds that `batch` decodes of `length` tokens add to a launch whose longest chunk is `longest`."""
        known = self._pieces.get(batch)
        if known is None:
            known = self._pieces[batch] = self.decode.pieces(batch)
        lengths, bases, slopes = known
        piece = bisect_right(lengths, length) - 1
        added = max(0.0, bases[piece] + slopes[piece] * (length - lengths[piece]) - self.launch)
        return added * self.factor if longest > self.tuned else added


KEPT = 1 << 16
"""Prices of chunks to keep."""


class PrefillAttention:
    """Attention of one layer over new tokens, on one of `tp` GPUs.

    A chunk of n new tokens behind c cached ones looks at c + n/2 tokens on average (fewer with a sliding
    window). All chunks of an iteration run in one launch: each is priced at the rate of a launch with the
    rows of all, by its share of the rows, and all no less than the largest alone. Equal chunks then cost
    what a batch of them was measured to cost.
    """

    def __init__(self, profile: Profile, model: Model, tp: int) -> None:
        dim, self.factor = measured_head_dim(profile.prefill_attention, model.head_dim)
        self.heads = model.heads // tp
        grid = profile.prefill_attention[dim].fix(self.heads / model.kv_heads_gpu(tp), grow=False)
        rows, reaches = grid.axes
        if any(b - a != 1 for axis in grid.axes for a, b in pairwise(axis)):
            raise ValueError(f"{profile.name}: knots of prefill attention are not consecutive powers of two")
        self.table = [grid.values[i * len(reaches) : (i + 1) * len(reaches)] for i in range(len(rows))]
        self.first_row, self.first_reach = rows[0], reaches[0]
        self.last_row, self.last_reach = len(rows) - 1, len(reaches) - 1
        self.tile, self.window = profile.tile, model.sliding_window
        self.flop_ns = 4e9 * model.head_dim * self.heads / (profile.peak_flops * profile.prefill_share[dim])
        self._known: dict[tuple[int, int], float] = {}
        self.launch_ns: float = self.factor * 2.0 ** self.table[0][0]

    def ns(self, chunks: Sequence[Chunk]) -> float:
        """Nanoseconds of one layer for `chunks` of (new, cached) tokens; at least one."""
        if len(chunks) == 1:
            return self._one(*chunks[0])
        tile = self.tile
        rows = sum(new if new > tile else tile for new, _ in chunks)
        row = log2(self.heads * rows) - self.first_row
        total = work = most = 0.0
        largest = chunks[0]
        for chunk in chunks:
            new, cached = chunk
            reach = self.reach(new, cached)
            padded = new if new > tile else tile
            total += padded * self._at(row, log2(reach) - self.first_reach)
            work += new * reach
            if padded * reach > most:
                most, largest = padded * reach, chunk
        return max(self.factor * total / rows, self.flop_ns * work, self._one(*largest))

    def _one(self, new: int, cached: int) -> float:
        """Return ns of one layer for one chunk; kept, since loads repeat themselves."""
        known = self._known.get((new, cached))
        if known is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[new, cached] = self._price(new, cached)
        return known

    def _price(self, new: int, cached: int) -> float:
        reach = self.reach(new, cached) if self.window else cached + new / 2
        row = log2(self.heads * (new if new > self.tile else self.tile)) - self.first_row
        return max(self.factor * self._at(row, log2(reach) - self.first_reach), self.flop_ns * new * reach)

    def reach(self, new: int, cached: int) -> float:
        """Tokens that each of `new` tokens behind `cached` ones looks at, on average."""
        window = self.window
        if not window or cached + new <= window:
            return cached + new / 2
        rising = max(0, window - cached)
        return (rising * (cached + window) / 2 + (new - rising) * window) / new

    def _at(self, row: float, reach: float) -> float:
        """Return ns at a place in the table, in cells: held before its start, growing beyond its end."""
        beyond = 0.0
        i, j = int(row), int(reach)
        if row < 0 or i >= self.last_row:
            i, beyond = (0, 0.0) if row < 0 else (self.last_row - 1, row - self.last_row)
            row = float(i) if row < 0 else float(self.last_row)
        if reach < 0 or j >= self.last_reach:
            j, beyond = (0, beyond) if reach < 0 else (self.last_reach - 1, beyond + reach - self.last_reach)
            reach = float(j) if reach < 0 else float(self.last_reach)
        low, high = self.table[i], self.table[i + 1]
        share = row - i
        a = low[j] + (high[j] - low[j]) * share
        b = low[j + 1] + (high[j + 1] - low[j + 1]) * share
        power: float = 2.0 ** (a + (b - a) * (reach - j) + beyond)
        return power
