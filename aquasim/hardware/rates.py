"""Iterations of a GPU of which only layer times are known: products by tokens, attention by bytes and flops."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from aquasim.hardware.attention import FOREVER, Chunk
from aquasim.hardware.profile import Profile
from aquasim.hardware.serving import Serving
from aquasim.models import Model


class RateCost:
    """Cost of iterations from a profile's `rates` block (see `aquasim.calibrate.rates`), on one GPU.

    Products of a layer take a time per parameter that depends on the tokens only, in tiles; decode attention reads
    the KV cache at a rate; prefill attention computes at a rate. `serving` adds what its engine's host takes per
    iteration. Times are ns.

    Raises:
        ValueError: more than one GPU, or a mixture of experts.
    """

    def __init__(
        self, profile: Profile, model: Model, tp: int = 1, *, serving: Serving | None = None
    ) -> None:
        block: dict[str, Any] = profile.blocks["rates"]
        if tp != 1 or model.experts:
            raise ValueError(f"{profile.name}: only layers of dense models on one GPU are known, not tp={tp}")
        self.profile = profile
        self.model = model
        self.depth = model.layers
        layer = sum(gemm.per_layer * gemm.n * gemm.k for gemm in model.gemms(1))
        head = model.lm_head(1)
        self._weight_bytes = (model.layers * layer + head.n * head.k) * model.dtype_bytes
        self._products = _Tiles(block["products"], layer)
        self._head = _Tiles(block["head"], head.n * head.k)
        self._kv_bytes = model.kv_bytes_per_token_gpu(1)
        self._kv_start: float = block["kv_start_s"] * 1e9
        self._kv_ns: float = self._kv_bytes / self.depth / block["kv_bytes_per_s"] * 1e9
        self._pair_ns: float = 4 * model.heads * model.head_dim / block["prefill_flops_per_s"] * 1e9
        fixed = float(block["iteration_s"])
        decode_s, mixed_s = serving.host_s(1) if serving is not None else (0.0, 0.0)
        self._fixed: tuple[float, float] = ((fixed + decode_s) * 1e9, (fixed + mixed_s) * 1e9)

    def layer_ns(self, tokens: int) -> float:
        """Return the products of one layer."""
        return self._products.ns(tokens)

    def prefill_ns(self, chunks: Sequence[Chunk]) -> float:
        """Return the attention of one layer over prompt chunks of (new, cached) tokens: their pairs, half masked."""
        return sum([new * (cached + new / 2) for new, cached in chunks]) * self._pair_ns

    def attention_ns(self, batch: int, context: int) -> float:
        """Return the attention of one layer over decodes of `context` tokens in all."""
        return self._kv_start + context * self._kv_ns if batch else 0.0

    def mixed_ns(self, chunks: Sequence[Chunk], batch: int, context: int) -> float:
        """See Layers."""
        return self.prefill_ns(chunks) + self.attention_ns(batch, context)

    def compute_ns(self, chunks: Sequence[Chunk], tokens: int) -> float:
        """See Steps. No clock is known to fall here."""
        return 0.0

    def rest_ns(self, sampled: int, mixed: bool) -> float:
        """Return what an iteration takes once: the output head over `sampled` sequences, and the host's work."""
        return self._head.ns(sampled) + self._fixed[mixed]

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """See Steps."""
        fixed = self.depth * (self.layer_ns(batch) + self.attention_ns(batch, 0)) + self.rest_ns(batch, False)
        slope = round(self.depth * batch * self._kv_ns)
        return round(fixed) + slope * (context // batch), slope, FOREVER

    def step(self, chunks: Sequence[Chunk], batch: int, context: int) -> int:
        """See Steps."""
        if not chunks:
            return self.decode(batch, context)[0]
        tokens = batch + sum([new for new, _ in chunks])
        layer = self.layer_ns(tokens) + self.prefill_ns(chunks) + self.attention_ns(batch, context)
        return round(self.depth * layer + self.rest_ns(batch + len(chunks), True))

    def timed(self, chunks: Sequence[Chunk], batch: int, context: int) -> tuple[int, float]:
        """See Steps. No clock is known to fall here."""
        return self.step(chunks, batch, context), 0.0

    def memory_ns(self, batch: int, context: int, tokens: int) -> int:
        """See Steps."""
        moved = self._weight_bytes + (context + tokens) * self._kv_bytes
        return int(moved / self.profile.peak_hbm * 1e9)


class _Tiles:
    """Time of products of so many parameters, by tokens rounded up to whole tiles; in proportion beyond the last."""

    def __init__(self, block: dict[str, Any], parameters: int) -> None:
        self._tile: int = block["tile"]
        self._tokens: list[int] = block["tokens"]
        self._values: list[float] = [seconds * parameters * 1e9 for seconds in block["s_per_parameter"]]

    def ns(self, tokens: int) -> float:
        tokens = -(-tokens // self._tile) * self._tile
        if tokens <= 0:
            return 0.0
        knots, values = self._tokens, self._values
        i = bisect_left(knots, tokens)
        if i == 0:
            return values[0]
        if i == len(knots):
            return values[-1] + (values[-1] - values[-2]) / (knots[-1] - knots[-2]) * (tokens - knots[-1])
        share = (tokens - knots[i - 1]) / (knots[i] - knots[i - 1])
        return values[i - 1] + (values[i] - values[i - 1]) * share
