"""How long one iteration of an engine takes: the cost model of a step, in integer nanoseconds."""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil

from aquasim.hardware.attention import Chunk, DecodeAttention, PrefillAttention
from aquasim.hardware.linear import LinearTime
from aquasim.hardware.profile import Profile
from aquasim.models import Model

MEASURED_DTYPE_BYTES = 2


class StepCost:
    """Cost of iterations of `model` on `tp` GPUs of `profile`, of at most `max_tokens` tokens each.

    An iteration is products, all-reduces and elementwise work over its tokens, the output head over the
    sequences it samples (all decoding ones and one per chunk), attention, and host overhead. Everything that
    depends on a token count or a batch size is computed once and kept. Chunks and decodes share one launch of
    attention per layer.

    `decode_overhead` and `mixed_overhead` replace the profile's host seconds per iteration without and with
    chunks, for another engine than the profile's.

    Raises ValueError if the model cannot be split over `tp` GPUs or is not in 16-bit weights, as the kernels
    measured.
    """

    def __init__(
        self,
        profile: Profile,
        model: Model,
        tp: int = 1,
        max_tokens: int = 8192,
        *,
        decode_overhead: float | None = None,
        mixed_overhead: float | None = None,
    ) -> None:
        model.check_tp(tp)
        if model.dtype_bytes != MEASURED_DTYPE_BYTES:
            raise ValueError(
                f"model {model.name}: {model.dtype_bytes}-byte weights, profiles were measured with 2"
            )
        self.profile = profile
        self.model = model
        self.tp = tp
        self.max_tokens = max_tokens
        self._linear = LinearTime(profile, model, tp)
        self._decode = DecodeAttention(profile, model, tp)
        self._prefill = PrefillAttention(profile, model, tp)
        self._launch_ns = min(self._decode.launch_ns, self._prefill.launch_ns)
        self._depth = model.layers
        self._kv_bytes = model.kv_bytes_per_token_gpu(tp)
        self._decode_overhead = _overhead_ns(decode_overhead, profile.decode_overhead)
        self._mixed_overhead = _overhead_ns(mixed_overhead, profile.mixed_overhead)
        self._layers_ns: dict[int, int] = {}
        self._logits_ns: dict[int, int] = {}
        self._batches: dict[int, tuple[int, list[int], list[int], list[int]]] = {}

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """Return (a, b, limit) of a run of iterations in which each of `batch` sequences adds one token.

        `context` is the sequences' total context (tokens) before the first. Iteration j, from 0, lasts
        a + b * j ns for every j < limit; asking again at context + j * batch gives exactly that as its a.
        Raises ValueError if `batch` is below 1 or above `max_tokens`.
        """
        fixed, lengths, bases, slopes = self._batches.get(batch) or self._prepare(batch)
        length = context // batch
        piece = bisect_right(lengths, length) - 1
        slope = slopes[piece]
        return fixed + bases[piece] + slope * (length - lengths[piece]), slope, lengths[piece + 1] - length

    def step(self, chunks: Sequence[Chunk], batch: int, context: int) -> int:
        """Return ns of one iteration: prefill `chunks` of (new, cached) tokens beside `batch` decodes.

        `context` is the decoding sequences' total context (tokens); without chunks this is `decode`'s a.
        Raises ValueError for an empty iteration, an empty chunk, or more than `max_tokens` tokens.
        """
        if not chunks:
            return self.decode(batch, context)[0]
        tokens = batch
        for new, cached in chunks:
            if new < 1 or cached < 0:
                raise ValueError(f"chunk of {new} new and {cached} cached tokens")
            tokens += new
        layers_ns, logits_ns = self._layers_ns, self._logits_ns
        sampled = batch + len(chunks)
        total = self._mixed_overhead + (layers_ns.get(tokens) or self._layers(tokens))
        total += logits_ns.get(sampled) or self._logits(sampled)
        attention = self._prefill.ns(chunks)
        if not batch:
            return total + ceil(self._depth * attention)
        _, lengths, bases, slopes = self._batches.get(batch) or self._prepare(batch)
        length = context // batch
        piece = bisect_right(lengths, length) - 1
        total += bases[piece] + slopes[piece] * (length - lengths[piece])
        return total + ceil(self._depth * (attention - self._launch_ns))

    def memory_ns(self, batch: int, context: int, tokens: int) -> int:
        """Return ns of moving the HBM bytes of an iteration, weights and KV cache, at the HBM's peak rate.

        This much of the iteration at least is bound by HBM, and never more than all of it.
        `context` is the total context read by `batch` decoding sequences, `tokens` all new tokens of the
        iteration.
        """
        window = self.model.sliding_window
        read = min(context, batch * window) if window else context
        moved = self._linear.weight_bytes(tokens) + (read + tokens) * self._kv_bytes
        return int(moved / self.profile.peak_hbm * 1e9)

    def _prepare(self, batch: int) -> tuple[int, list[int], list[int], list[int]]:
        """Compute and keep what `decode` needs at `batch`: what is not attention, and attention's pieces."""
        if batch < 1:
            raise ValueError(f"decode batch of {batch} sequences")
        fixed = self._decode_overhead + self._layers(batch) + self._logits(batch)
        lengths, bases, slopes = self._decode.pieces(batch)
        prepared = self._batches[batch] = fixed, lengths, bases, slopes
        return prepared

    def _layers(self, tokens: int) -> int:
        known = self._layers_ns.get(tokens)
        if known is None:
            if tokens > self.max_tokens:
                raise ValueError(f"iteration of {tokens} tokens, max_tokens is {self.max_tokens}")
            known = self._layers_ns[tokens] = ceil(self._linear.layers(tokens) * 1e9)
        return known

    def _logits(self, sampled: int) -> int:
        known = self._logits_ns.get(sampled)
        if known is None:
            known = self._logits_ns[sampled] = ceil(self._linear.logits(sampled) * 1e9)
        return known


def _overhead_ns(given: float | None, default: float) -> int:
    seconds = default if given is None else given
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"overhead per iteration must be at least 0 seconds, is {seconds}")
    return round(seconds * 1e9)
