"""Time and memory of audio models: a transformer over codes, a step at a time, then a decoder to sound."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquasim.hardware.profile import Profile
from aquasim.producers.autoencoder import SoundDecoder
from aquasim.producers.diffusion import Kernels, Phase
from aquasim.producers.producer import BatchTime

_FP16 = 2


@dataclass(frozen=True, slots=True)
class AudioLM:
    """A decoder of MusicGen's form: per layer self-attention, attention to the text, a feed-forward of 4x width.

    `steps` positions are generated; `codebooks` of `entries` codes each, delayed by one step from one to the next.
    Guidance runs every clip twice (`per_item`), with and without its `text_tokens`. `host_s_per_layer` is what one
    layer of one step takes to launch.
    """

    layers: int
    width: int
    steps: int
    codebooks: int
    entries: int
    text_tokens: int
    per_item: int
    host_s_per_layer: float

    @property
    def params(self) -> int:
        """Parameters: 16 width^2 a layer, embeddings and heads of every codebook."""
        return 16 * self.layers * self.width**2 + 2 * self.codebooks * self.entries * self.width

    @property
    def positions(self) -> int:
        """Steps of the loop: the last codebook lags by `codebooks` - 1."""
        return self.steps + self.codebooks - 1

    def cache_bytes(self, batch: int, positions: int) -> int:
        """Return the bytes of keys and values of a batch, fp16."""
        return 2 * self.layers * self.width * _FP16 * batch * self.per_item * positions

    def time(self, profile: Profile, batch: int) -> BatchTime:
        """Return the time of all steps of a batch, each on the GPU or of launching, whichever is longer.

        A step reads the weights and the cache, and copies the cache: keys and values are concatenated anew.
        """
        products, bound = self._products(profile, batch * self.per_item)
        cache = self.cache_bytes(batch, 1) * (1 / profile.hbm_read + 2 / profile.hbm_copy)
        host = self.layers * self.host_s_per_layer
        seconds = memory = 0.0
        for position in range(1, self.positions + 1):
            gpu = products + position * cache
            seconds += max(gpu, host)
            memory += bound + position * cache if gpu >= host else 0.0
        return BatchTime(seconds, memory)

    def _products(self, profile: Profile, rows: int) -> tuple[float, float]:
        """Return the measured seconds of a step's products, and how many of them reading weights takes."""
        d, text = self.width, rows * self.text_tokens
        square = (rows, d, d)  # output of self-attention, query and output of attention to the text
        layer = [
            (rows, 3 * d, d),
            square,
            square,
            (text, 2 * d, d),
            square,
            (rows, 4 * d, d),
            (rows, d, 4 * d),
        ]
        heads = [(rows, self.codebooks * self.entries, d)]
        times = [(self.layers, *_product(profile, *shape)) for shape in layer]
        times += [(1, *_product(profile, *shape)) for shape in heads]
        return sum(n * seconds for n, seconds, _ in times), sum(n * bound for n, _, bound in times)


def _product(profile: Profile, rows: int, outputs: int, inputs: int) -> tuple[float, float]:
    seconds = profile.gemm.turn().fix(outputs, inputs).ns(rows) * 1e-9
    return seconds, min(seconds, _FP16 * outputs * inputs / profile.hbm_read)


@dataclass(frozen=True, slots=True)
class Autoregressive:
    """Text encoder and sound decoder as `phases` around the loop of `lm`.

    `held` is how many bytes the allocator holds per byte of cache at the worst step.
    """

    lm: AudioLM
    phases: Sequence[Phase]
    decoder: SoundDecoder
    efficiency: float
    held: float
    kernels: Kernels

    def time(self, profile: Profile, batch: int) -> BatchTime:
        """Return the loop and the phases around it."""
        times = [phase.time(profile, batch, self.efficiency, self.kernels) for phase in self.phases]
        times.append(self.lm.time(profile, batch))
        return BatchTime(sum(t.seconds for t in times), sum(t.memory_bound_seconds for t in times))

    def working_bytes(self, batch: int) -> int:
        """Return the bytes of the cache at its longest, or of decoding the clips, whichever is more."""
        cache = self.held * self.lm.cache_bytes(batch, self.lm.positions)
        return round(max(cache, batch * self.decoder.live_bytes))
