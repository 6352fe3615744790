"""How long one iteration of an engine takes: the cost model of a step, in integer nanoseconds."""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil

from aquasim.hardware.attention import Beside, Chunk, DecodeAttention, PrefillAttention
from aquasim.hardware.linear import LinearTime
from aquasim.hardware.profile import Profile
from aquasim.hardware.serving import DEFAULT, Sampling, Serving
from aquasim.models import Model

MEASURED_DTYPE_BYTES = 2
SHARED_SAVING = 0.45
"""Share of the time to read KV that a second reader saves: it comes from the cache, at 5.5 TB/s on H100, not at 3."""
BEST_SHARE = 0.72
"""Share of peak flops that large products reach on H100 (its samples): an iteration at this rate is all compute."""


class StepCost:
    """Cost of iterations of `model` on `tp` GPUs of `profile`, of at most `max_tokens` tokens each.

    An iteration is products, all-reduces and elementwise work over its tokens, the output head over the
    sequences it samples (all decoding ones and one per chunk), attention, and host overhead. Everything that
    depends on a token count or a batch size is computed once and kept. Chunks and decodes share one launch of
    attention per layer, in which decodes cost more than alone.

    `serving` says what host overhead and choosing tokens by `sampling` take.

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
        serving: Serving = DEFAULT,
        sampling: Sampling = "greedy",
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
        self._decode = DecodeAttention(profile, model, tp, profile.decode_attention)
        self._prefill = PrefillAttention(profile, model, tp)
        self._beside = Beside(profile, model, tp, self._decode)
        self.depth = model.layers
        self._kv_bytes = model.kv_bytes_per_token_gpu(tp)
        decode_s, mixed_s = serving.host_s(tp)
        self._decode_overhead, self._mixed_overhead = round(decode_s * 1e9), round(mixed_s * 1e9)
        start, each = serving.sampling_s(sampling, model.vocab)
        self._choice_start, self._choice_each = start * 1e9, each * 1e9
        self._busy_ns = self._linear.flops(1) / (profile.peak_flops * BEST_SHARE) * 1e9
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
        return self.timed(chunks, batch, context)[0]

    def timed(self, chunks: Sequence[Chunk], batch: int, context: int) -> tuple[int, float]:
        """As `step`, and how many of those ns tensor cores are busy: what a lower clock stretches.

        These are the products, by the share of the best rate they reach, and the chunks' attention; none of an
        iteration without chunks, which waits for memory.
        """
        if not chunks:
            return self.decode(batch, context)[0], 0.0
        tokens = batch
        longest = 0
        for new, cached in chunks:
            if new < 1 or cached < 0:
                raise ValueError(f"chunk of {new} new and {cached} cached tokens")
            tokens += new
            if new > longest:
                longest = new
        layers_ns, logits_ns = self._layers_ns, self._logits_ns
        sampled = batch + len(chunks)
        layers = layers_ns.get(tokens) or self._layers(tokens)
        attention = self.depth * self._prefill.ns(chunks)
        total = self._mixed_overhead + layers + (logits_ns.get(sampled) or self._logits(sampled))
        busy = tokens * self._busy_ns
        compute = attention + (busy if busy < layers else layers)
        if batch:
            attention = max(attention, self._beside.launch) + self._beside.ns(
                batch, context // batch, longest
            )
        return total + ceil(attention), compute

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

    def layer_ns(self, tokens: int) -> float:
        """Return ns of one layer's products, all-reduces and elementwise work over `tokens` tokens."""
        return self._layers(tokens) / self.depth

    def prefill_ns(self, chunks: Sequence[Chunk]) -> float:
        """Return ns of one layer's attention over prompt chunks of (new, cached) tokens."""
        return self._prefill.ns(chunks) if chunks else 0.0

    def attention_ns(self, batch: int, context: int) -> float:
        """Return ns of one layer's attention over `batch` decodes of `context` tokens in all."""
        if not batch:
            return 0.0
        _, lengths, bases, slopes = self._batches.get(batch) or self._prepare(batch)
        length = context // batch
        piece = bisect_right(lengths, length) - 1
        return (bases[piece] + slopes[piece] * (length - lengths[piece])) / self.depth

    def mixed_ns(self, chunks: Sequence[Chunk], batch: int, context: int) -> float:
        """Return ns of one layer's attention over prompt chunks and decodes, which share a launch."""
        if not (chunks and batch):
            return self.prefill_ns(chunks) + self.attention_ns(batch, context)
        alone = max(self.depth * self._prefill.ns(chunks), self._beside.launch)
        longest = max([new for new, _ in chunks])
        return (alone + self._beside.ns(batch, context // batch, longest)) / self.depth

    def compute_ns(self, chunks: Sequence[Chunk], tokens: int) -> float:
        """Return how long tensor cores are busy in an iteration of `tokens` tokens with these chunks (`timed`)."""
        return self.depth * self.prefill_ns(chunks) + min(tokens * self._busy_ns, self._layers(tokens))

    def rest_ns(self, sampled: int, mixed: bool) -> float:
        """Return ns that come once an iteration: output head, sampling, and host work with or without chunks."""
        return self._logits(sampled) + (self._mixed_overhead if mixed else self._decode_overhead)

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
            choice = self._choice_start + sampled * self._choice_each
            known = self._logits_ns[sampled] = ceil(self._linear.logits(sampled) * 1e9 + choice)
        return known
