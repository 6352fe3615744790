"""How long an iteration with lanes takes, and what NEO's scheduler is told to expect of it."""

from collections.abc import Sequence
from typing import Protocol

from aquasim.core import Lanes, Limits
from aquasim.core.predictor import Curve, Predictor, Surface
from aquasim.hardware.attention import Chunk
from aquasim.hardware.host import Host

WIDTHS = 512
"""Tokens up to which products are tabled one by one (NEO's profiler)."""


class Layers(Protocol):
    """A GPU's part of an iteration, layer by layer (`StepCost`, `RateCost`); ns."""

    depth: int

    def layer_ns(self, tokens: int) -> float:
        """Products of one layer over so many tokens."""

    def prefill_ns(self, chunks: Sequence[Chunk]) -> float:
        """Attention of one layer over prompt chunks (new, cached)."""

    def attention_ns(self, batch: int, context: int) -> float:
        """Attention of one layer over decodes of `context` tokens in all."""

    def mixed_ns(self, chunks: Sequence[Chunk], batch: int, context: int) -> float:
        """Attention of one layer over both."""

    def step(self, chunks: Sequence[Chunk], batch: int, context: int) -> int:
        """An iteration without lanes."""

    def compute_ns(self, chunks: Sequence[Chunk], tokens: int) -> float:
        """What tensor cores are busy with in an iteration of `tokens` tokens with these chunks."""

    def rest_ns(self, sampled: int, mixed: bool) -> float:
        """What comes once an iteration: the output head, and the host's work with and without prompts."""


class LaneCost:
    """Iterations whose lanes alternate layer by layer between GPU and host (NEO section 2.3).

    A layer takes max(Tl0, Tca1 + launch) + max(Tl1 + Tga0, Tca0 + launch): products of sub-batch 0 beside the host's
    attention of 1, then products of 1 and the GPU's attention of 0 beside the host's attention of 0. `kv_bytes` is
    of one token in one layer, on all ranks. KV of staged prompts leaves at `link` bytes/s, hidden while it lasts no
    longer than the iteration.
    """

    def __init__(self, gpu: Layers, host: Host, kv_bytes: int, link: float) -> None:
        self.gpu = gpu
        self.host = host
        self._kv_bytes = kv_bytes
        self._link = link
        self._start = host.start_s * 1e9
        self._token = kv_bytes / host.read_bytes_per_s * 1e9
        self.launch = host.launch_s * 1e9

    def host_ns(self, requests: int, tokens: int) -> float:
        """Return the host's attention of one layer over `tokens` tokens of `requests` requests."""
        return self._start + tokens * self._token if requests else 0.0

    def timed(self, chunks: Sequence[Chunk], batch: int, context: int, lanes: Lanes) -> tuple[int, float]:
        """As `lanes`, and how many of those ns tensor cores are busy: with chunks, in sub-batch 0."""
        compute = 0.0
        if chunks:
            width = sum([tokens for tokens, _ in chunks]) + batch + len(lanes.first)
            compute = self.gpu.compute_ns(chunks, width)
        return self.lanes(chunks, batch, context, lanes), compute

    def lanes(self, chunks: Sequence[Chunk], batch: int, context: int, lanes: Lanes) -> int:
        """Return the time of one iteration."""
        gpu = self.gpu
        hosted = len(lanes.first) + len(lanes.second)
        if not hosted:
            return round(max(gpu.step(chunks, batch, context), self._leaving(chunks, lanes)))
        width = sum([tokens for tokens, _ in chunks]) + batch + len(lanes.first)
        first = gpu.layer_ns(width) if width else 0.0
        second = gpu.layer_ns(len(lanes.second)) if lanes.second else 0.0
        attention = gpu.mixed_ns(chunks, batch, context + batch)
        layer = max(first, self._stage(len(lanes.second), lanes.second_tokens))
        layer += max(second + attention, self._stage(len(lanes.first), lanes.first_tokens))
        total = gpu.depth * layer + gpu.rest_ns(batch + len(chunks) + hosted, bool(chunks))
        return round(max(total, self._leaving(chunks, lanes)))

    def _stage(self, requests: int, tokens: int) -> float:
        """Return the host's side of a stage: it issues the GPU's kernels, then computes."""
        return self.launch + self.host_ns(requests, tokens)

    def _leaving(self, chunks: Sequence[Chunk], lanes: Lanes) -> float:
        """Return how long the KV of staged prompts is on its way: those are the last chunks."""
        count = len(lanes.staged)
        tokens = sum([new for new, _ in chunks[len(chunks) - count :]])
        return tokens * self._kv_bytes * self.gpu.depth / self._link * 1e9

    def predictor(self, limits: Limits) -> Predictor:
        """Return tables as NEO's profiler makes them, up to what an engine of these limits has."""
        gpu = self.gpu
        most, size = limits.max_num_batched_tokens, limits.block_size
        longest = -(-max(most, limits.max_model_len) // size) * size
        widths = sorted({*range(1, min(WIDTHS, most + 1)), *doubling(min(WIDTHS, most), most)})
        prompts, resident = halves(size, longest), halves(size, (limits.blocks + 1) * size)
        return Predictor(
            gpu.depth,
            Curve(widths, [gpu.layer_ns(tokens) for tokens in widths]),
            Curve(prompts, [gpu.prefill_ns([(tokens, 0)]) for tokens in prompts]),
            Curve(resident, [self._resident(tokens, limits.max_model_len) for tokens in resident]),
            self._surface(limits),
            self.launch,
        )

    def _resident(self, tokens: int, longest: int) -> float:
        """Return the GPU's decode attention over as few sequences as hold so many tokens."""
        return self.gpu.attention_ns(-(-tokens // longest), tokens)

    def _surface(self, limits: Limits) -> Surface:
        requests = doubling(1, limits.max_num_seqs)
        blocks = dict(limits.tiers).get("host", 1)
        tokens = doubling(1, (blocks + 1) * limits.block_size)
        rows = [Curve(tokens, [self.host_ns(count, n) for n in tokens]) for count in requests]
        return Surface(requests, rows)


def doubling(first: int, last: int) -> list[int]:
    """Return first, twice that, ... below `last`, and `last`."""
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return [*found, last]


def halves(first: int, last: int) -> list[int]:
    """Return powers of two times `first` and one and a half times them below `last`, and `last`."""
    found = doubling(first, last)
    between = [3 * low // 2 for low in found[:-1] if 3 * low // 2 < last]
    return sorted({*found, *between})
