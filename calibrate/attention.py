"""Estimators of attention: decoding, prefill, and the blocks of a profile they fill."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquasim.calibrate.mixed import MixedAttentionTime
from aquasim.calibrate.operators import OperatorTime
from aquasim.calibrate.points import TILE, Points, decode_points, prefill_points
from aquasim.calibrate.samples import Samples
from aquasim.calibrate.surface import Surface

Block = dict[str, Any]
Floats = NDArray[np.float64]

_OCTAVES = tuple(2.0**i for i in range(18))
_GROUPS = (1, 2, 4, 8, 32)
_KV_HEADS = (1, 2, 4, 8, 16, 32, 96)
_BATCHES = _OCTAVES[:12]
_LENGTHS = (1.0, *_OCTAVES[5:])
_ROWS = tuple(2.0**i for i in range(6, 26))
_REACHES = _OCTAVES[2:]
_FEW_HEADS = 5
_TILES = (64, 128, 32, 16, 8)


class DecodeAttentionTime(OperatorTime):
    """Time of one layer's attention when each sequence adds one token; rises with batch and with length.

    `heads` are the (query heads per KV head, KV heads) measured. Given `token_seconds`, the least time of one
    KV head's token, few of them suffice: others take the share of the peak of those measured.
    """

    axes = ("heads_per_kv_head", "kv_heads", "batch", "length")

    def __init__(self, heads: Floats, token_seconds: float = 0.0) -> None:
        self.heads = heads
        self.token_seconds = token_seconds

    def make_surface(self, points: Points) -> Surface:
        """Return the surface over the usual head shapes and powers of two of batch and length."""
        if not self.token_seconds or len(self.heads) >= _FEW_HEADS:
            return Surface((_GROUPS, _KV_HEADS, _BATCHES, _LENGTHS), smooth=0.01, rising=(2, 3))
        start, each = float(points.seconds.min()), self.token_seconds
        groups = tuple(np.unique(points.x[:, 0]))
        kv_heads = tuple(sorted({*map(float, _KV_HEADS), *points.x[:, 1]}))
        return Surface(
            (groups, kv_heads, _BATCHES, _LENGTHS), smooth=0.001, rising=(2, 3),
            expected=lambda x: start + each * x[:, 1] * x[:, 2] * x[:, 3], ridge=(0.01, 0.01, 1e-4, 1e-4),
        )  # fmt: skip

    def block(self) -> Block:
        """Return the block, with the head shapes measured where these are few."""
        few = len(self.heads) < _FEW_HEADS
        heads = {"heads": [[int(group), int(kv)] for group, kv in self.heads]} if few else {}
        return {**super().block(), **heads}


class PrefillAttentionTime(OperatorTime):
    """Time of one layer's attention over new tokens, by query rows and the tokens a query sees on average.

    Samples without cached tokens lack a reach beyond half the rows. There `decode`, a sequence of one new token
    (one tile of rows per head), stands in.
    """

    axes = ("heads_per_kv_head", "rows", "reach")

    def __init__(self, decode: Points | None = None, tile: int = TILE) -> None:
        self.decode = decode
        self.tile = tile

    def make_surface(self, points: Points) -> Surface:
        """Return the surface over powers of two of rows and reach."""
        self.groups_ = np.unique(points.x[:, 0])
        if self.decode is not None:
            return Surface((_GROUPS, _ROWS, _REACHES), smooth=0.1, rising=(1, 2))
        return Surface(
            (tuple(self.groups_), _ROWS, _REACHES), smooth=0.003, rising=(1, 2), ridge=(0.01, 0, 0),
            least=points.seconds.min(),
        )  # fmt: skip

    def _fit(self, surface: Surface, train: Points) -> None:
        x, seconds = train.x, train.seconds
        if self.decode is not None:
            group, heads, batch, length = self.decode.x.T
            rows = group * heads * self.tile
            far = (batch == 1) & (length > rows / 2)
            x = np.concatenate([x, np.stack([group, rows, length], axis=1)[far]])
            seconds = np.concatenate([seconds, self.decode.seconds[far]])
        self.surface_ = surface.fit(x, seconds)
        self.peak_share_ = float(np.round(np.quantile(train.floor / train.seconds, 0.99), 4))

    def block(self) -> Block:
        """Return the block, with the share of peak flops that bounds reaches longer than the samples'."""
        few = {"groups": [int(group) for group in self.groups_]} if self.decode is None else {}
        return {**super().block(), "peak_share": self.peak_share_, **few}


def attention_blocks(
    samples: Mapping[str, Samples], flops: float, hbm: float, tile: int | None, cache: float = 0.0
) -> dict[str, Block]:
    """Fit decode and prefill by head dimension, and what decodes add to a chunk where that was measured.

    `cache`: see `decode_points`.
    """
    decodes, prefills = samples["decode_attention"], samples["prefill_attention"]
    dims = sorted({*decodes["head_dim"].astype(int)} & {*prefills["head_dim"].astype(int)})
    rows = tile or min(_TILES, key=lambda each: _off(prefills, dims, flops, each))
    decode, prefill, mixed = {}, {}, {}
    for dim in map(int, dims):
        steps = decode_points(decodes, dim, hbm, cache)
        decode_time = DecodeAttentionTime(_heads(decodes, dim), 4 * dim / hbm).fit(steps)
        prefill_time = _prefill(prefills, dim, flops, rows, steps)
        decode[str(dim)], prefill[str(dim)] = decode_time.block(), prefill_time.block()
        if "mixed_attention" in samples:
            both = samples["mixed_attention"].take(samples["mixed_attention"]["head_dim"] == dim)
            mixed[str(dim)] = MixedAttentionTime(decode_time, prefill_time).fit(both).block()
    blocks: dict[str, Block] = {
        "decode_attention": decode,
        "prefill_attention": {"tile": rows, "by_head_dim": prefill},
    }
    return {**blocks, **({"mixed_attention": mixed} if mixed else {})}


def _heads(samples: Samples, dim: int) -> Floats:
    """Return the (query heads per KV head, KV heads) that were measured."""
    samples = samples.take(samples["head_dim"] == dim)
    heads: Floats = np.unique(
        np.stack([samples["heads"] / samples["kv_heads"], samples["kv_heads"]], axis=1), axis=0
    )
    return heads


def _prefill(
    samples: Samples, dim: int, flops: float, tile: int, steps: Points | None = None
) -> PrefillAttentionTime:
    """Fit prefill of one head dimension; decodes stand in for cached tokens where none were measured."""
    cached = samples["cached"][samples["head_dim"] == dim].any()
    anchors = None if cached or steps is None else steps.above_floor()
    return PrefillAttentionTime(anchors, tile).fit(prefill_points(samples, dim, flops, tile))


def _off(samples: Samples, dims: list[int], flops: float, tile: int) -> float:
    """Return how far the fit is off its own samples, if a tile has so many rows."""
    off = []
    for dim in dims:
        points = prefill_points(samples, dim, flops, tile)
        off.append(np.abs(_prefill(samples, dim, flops, tile).predict(points.x) / points.seconds - 1))
    return round(float(np.mean(np.concatenate(off))), 2)
