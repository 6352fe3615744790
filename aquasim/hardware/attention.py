"""Time of attention: linear pieces for decoding, a surface for new tokens."""

from math import ceil, log2

from aquasim.hardware.grid import Grid, locate
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
    """Attention of all layers when each sequence adds one token, on one of `tp` GPUs."""

    def __init__(self, profile: Profile, model: Model, tp: int) -> None:
        self.model = model
        dim, self.factor = measured_head_dim(profile.decode_attention, model.head_dim)
        kv_heads = model.kv_heads_gpu(tp)
        group = model.heads // tp / kv_heads
        self.grid = profile.decode_attention[dim].fix(group, grow=False).fix(kv_heads)
        self.token_seconds = 2 * kv_heads * model.head_dim * model.dtype_bytes / profile.peak_hbm

    def pieces(self, batch: int) -> tuple[list[int], list[int], list[int]]:
        """Return (lengths, bases, slopes) of the piecewise linear time at `batch` sequences, in integer ns.

        With mean length l = total context // batch tokens in piece p, attention lasts bases[p] + slopes[p] * (l -
        lengths[p]). One iteration adds one token to each sequence, so l grows by exactly 1 and time by slopes[p].
        `lengths` has one entry more than the others: where the last piece ends.
        """
        curve = self.grid.fix(batch)
        lengths = self._lengths(curve)
        bases, slopes = [self._ns(curve, batch, lengths[0])], []
        for start, end in zip(lengths, lengths[1:], strict=False):
            slopes.append(max(0, round((self._ns(curve, batch, end) - bases[-1]) / (end - start))))
            bases.append(bases[-1] + slopes[-1] * (end - start))
        last = 0 if self.model.sliding_window and lengths[-1] == self.model.sliding_window else slopes[-1]
        return [*lengths, FOREVER], bases, [*slopes, last]

    def _lengths(self, curve: Grid) -> list[int]:
        """Return the knots along the mean length, from 0 and no further than the sliding window."""
        knots = [0, *(round(2.0**knot) for knot in curve.axes[0][1:])]
        window = self.model.sliding_window
        return [*(knot for knot in knots if knot < window), window] if window else knots

    def _ns(self, curve: Grid, batch: int, length: int) -> int:
        seconds = max(curve.ns(max(1, length)) * 1e-9 * self.factor, batch * length * self.token_seconds)
        return ceil(self.model.layers * seconds * 1e9)


class PrefillAttention:
    """Attention of one layer over new tokens, on one of `tp` GPUs.

    A chunk of n new tokens behind c cached ones looks at c + n/2 tokens on average (fewer with a sliding window). All
    chunks of an iteration run in one launch: each is priced at the rate of a launch with the rows of all, by its share
    of the rows. So equal chunks cost what a batch of them was measured to cost.
    """

    def __init__(self, profile: Profile, model: Model, tp: int) -> None:
        dim, self.factor = measured_head_dim(profile.prefill_attention, model.head_dim)
        self.heads = model.heads // tp
        grid = profile.prefill_attention[dim].fix(self.heads / model.kv_heads_gpu(tp), grow=False)
        self.rows, self.reaches = grid.axes
        width = len(self.reaches)
        self.table = [grid.values[i * width : (i + 1) * width] for i in range(len(self.rows))]
        self.tile, self.window = profile.tile, model.sliding_window
        self.flop_ns = 4e9 * model.head_dim * self.heads / (profile.peak_flops * profile.prefill_share[dim])
        self.launch_ns = self.factor * 2.0 ** self.table[0][0]

    def ns(self, chunks: list[Chunk]) -> float:
        """Nanoseconds of one layer for `chunks` of (new, cached) tokens; at least one."""
        tiled = [max(new, self.tile) for new, _ in chunks]
        rows = sum(tiled)
        cell, share, beyond = locate(self.rows, log2(self.heads * rows))
        low = self.table[cell]
        high = self.table[cell + 1] if share else low
        total = work = 0.0
        for (new, cached), padded in zip(chunks, tiled, strict=True):
            reach = self.reach(new, cached)
            total += padded * self._at(low, high, share, reach)
            work += new * reach
        return max(self.factor * total / rows * 2.0**beyond, self.flop_ns * work)

    def reach(self, new: int, cached: int) -> float:
        """Tokens that each of `new` tokens behind `cached` ones looks at, on average."""
        window = self.window
        if not window or cached + new <= window:
            return cached + new / 2
        rising = max(0, window - cached)
        return (rising * (cached + window) / 2 + (new - rising) * window) / new

    def _at(self, low: tuple[float, ...], high: tuple[float, ...], share: float, reach: float) -> float:
        """Return ns at `reach` between two rows of the table."""
        i, part, beyond = locate(self.reaches, log2(reach))
        a = low[i] + (high[i] - low[i]) * share
        if not part:
            return float(2.0 ** (a + beyond))
        b = low[i + 1] + (high[i + 1] - low[i + 1]) * share
        return float(2.0 ** (a + (b - a) * part))
