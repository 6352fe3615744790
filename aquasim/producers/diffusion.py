"""Time and memory of latent diffusion: phases of passes, each of products, elementwise traffic and kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquasim.hardware.profile import Profile
from aquasim.producers.autoencoder import PixelDecoder
from aquasim.producers.producer import BatchTime
from aquasim.producers.tally import Tally


@dataclass(frozen=True, slots=True)
class Kernels:
    """What eager kernels cost beside their work: seconds on the host, and seconds in which the GPU fills and drains.

    The second is what small batches lose: throughput of n items is n / (n + idle / work) of its limit.
    """

    host_s: float
    idle_s: float
    shares: dict[str, float]
    """Share of peak that products reach, relative to that on A100, by profile; others: 1."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`runs` passes, one after the other, over `per_item` inputs of each item.

    `speed` is the peak of the phase's number format relative to bf16's.
    """

    runs: int
    per_item: int
    work: Tally
    speed: float = 1.0

    def time(self, profile: Profile, batch: int, efficiency: float, kernels: Kernels) -> BatchTime:
        """Return the time of all runs: on the GPU or of launching, whichever is longer."""
        inputs = batch * self.per_item
        rate = profile.peak_flops * self.speed * efficiency * kernels.shares.get(profile.name, 1.0)
        memory = inputs * self.work.moved / profile.hbm_copy
        gpu = inputs * self.work.flops / rate + memory + self.work.kernels * kernels.idle_s
        host = self.work.kernels * kernels.host_s
        return BatchTime(self.runs * max(gpu, host), self.runs * memory if gpu >= host else 0.0)


@dataclass(frozen=True, slots=True)
class Diffusion:
    """Latent diffusion: `efficiency` is the share of A100's peak that products reach.

    `held` is how many bytes the framework's allocator holds per live byte.
    """

    phases: Sequence[Phase]
    decoder: PixelDecoder
    efficiency: float
    held: float
    kernels: Kernels

    def time(self, profile: Profile, batch: int) -> BatchTime:
        """Return the sum over the phases."""
        times = [phase.time(profile, batch, self.efficiency, self.kernels) for phase in self.phases]
        return BatchTime(sum(t.seconds for t in times), sum(t.memory_bound_seconds for t in times))

    def working_bytes(self, batch: int) -> int:
        """Return the bytes held while decoding: more is alive then than during denoising."""
        return round(batch * self.decoder.live_bytes * self.held)


def encoder(layers: int, width: int, tokens: int) -> Tally:
    """Return one pass of a transformer of `layers` over one sequence of `tokens` (text encoder, image prior)."""
    tally = Tally()
    for _ in range(layers):
        tally.norm(width, tokens)
        for _ in range(4):
            tally.linear(width, width, tokens)
        tally.attend(width, tokens, tokens)
        tally.map(width * tokens, reads=2)
        tally.norm(width, tokens)
        tally.linear(width, 4 * width, tokens)
        tally.map(4 * width * tokens)
        tally.linear(4 * width, width, tokens)
        tally.map(width * tokens, reads=2)
    return tally
