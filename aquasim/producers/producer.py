"""What one producer is: seconds and bytes by batch."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from aquasim.errors import UserError
from aquasim.hardware.profile import Profile

GIB = 2**30


class BatchTime(NamedTuple):
    """One batch alone on its GPU: `seconds`, of which `memory_bound_seconds` shrink or grow with HBM bandwidth.

    Where the host cannot launch kernels fast enough, slower memory hides behind it and is not counted.
    """

    seconds: float
    memory_bound_seconds: float


class Load(NamedTuple):
    """One size of batch on one GPU: items/s, peak bytes with weights, and the seconds a batch takes."""

    batch: int
    items_per_s: float
    memory_bytes: int
    seconds: float


class Engine(Protocol):
    """How a producer makes its items."""

    def time(self, profile: Profile, batch: int) -> BatchTime:
        """Return the time of a batch."""

    def working_bytes(self, batch: int) -> int:
        """Return the most bytes a batch takes beside what is always there."""


@dataclass(frozen=True)
class Producer:
    """A model that makes `items` (images, clips) in batches of up to `max_batch`.

    `resident_bytes` are weights and the CUDA context. `profiled_free_bytes` is what AQUA's authors found free on
    80 GB GPUs (their placer's profile, GB as GiB): a record to compare with, used in no result.
    """

    name: str
    title: str
    items: str
    max_batch: int
    resident_bytes: int
    profiled_free_bytes: int
    engine: Engine = field(repr=False)

    def time(self, profile: Profile, batch: int) -> BatchTime:
        """Return the time of `batch` items on one GPU; ValueError unless `batch` is at least 1."""
        return self.engine.time(profile, _checked(batch))

    def memory_bytes(self, batch: int) -> int:
        """Return the most HBM that making `batch` items takes, weights and context included."""
        return self.resident_bytes + self.working_bytes(batch)

    def working_bytes(self, batch: int) -> int:
        """Return the part of `memory_bytes` that comes and goes with a batch."""
        return self.engine.working_bytes(_checked(batch))

    def free_bytes(self, profile: Profile, batch: int) -> int:
        """Return the HBM left at the peak of a batch; UserError if it does not fit."""
        free = profile.memory_bytes - self.memory_bytes(batch)
        if free < 0:
            raise UserError(
                f"{self.name} with batches of {batch} needs {self.memory_bytes(batch) / GIB:.1f} GiB; "
                f"{profile.name} has {profile.memory_bytes / GIB:.1f}"
            )
        return free

    def load(self, profile: Profile, batch: int) -> Load:
        """Return what batches of one size give and take, memory being no limit."""
        seconds = self.time(profile, batch).seconds
        return Load(batch, batch / seconds, self.memory_bytes(batch), seconds)

    def sweep(self, profile: Profile) -> list[Load]:
        """Return a load for each power of two up to `max_batch`, and for that."""
        sizes = {1 << i for i in range(self.max_batch.bit_length())} | {self.max_batch}
        return [self.load(profile, batch) for batch in sorted(sizes)]


def _checked(batch: int) -> int:
    if batch < 1:
        raise ValueError(f"batch is {batch}; at least 1 is needed")
    return batch
