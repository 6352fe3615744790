"""What travels besides the lease messages: who one is, handles on request, what a path yields, status."""

from typing import Literal, NamedTuple

from aquasim.core.leases import (
    Assign,
    Closed,
    ConsumerReport,
    DonorReport,
    Drain,
    Extent,
    Free,
    Granted,
    Process,
)
from aquasim.runtime.coordinator import codec

VERSION = 1
Role = Literal["donor", "consumer"]


class Hello(NamedTuple):
    """First word of a donor or consumer; its `run` is its PID and start time (`identity`), which are checked."""

    version: int
    role: Role
    process: Process


class Welcome(NamedTuple):
    """The coordinator's answer: its clock now, and how long leases and drains last (ns)."""

    version: int
    clock: int
    lease: int
    drain: int


class Refused(NamedTuple):
    """The coordinator's other answer, and its last word."""

    reason: str


class Ask(NamedTuple):
    """Consumer to coordinator: the handle of this lease, please. Repeated until it comes."""

    extent: Extent
    epoch: int


class Share(NamedTuple):
    """Coordinator to donor: `consumer` asks. The donor answers only if that is what its table says."""

    extent: Extent
    epoch: int
    consumer: Process


class Handed(NamedTuple):
    """Donor to coordinator to consumer: the handle, as JSON of `arenas.encode`; its descriptor comes beside it.

    The text of some back ends gives access to memory, so that it is never printed.
    """

    extent: Extent
    epoch: int
    consumer: Process
    handle: str

    def __repr__(self) -> str:
        return f"Handed(extent={self.extent}, epoch={self.epoch}, consumer={self.consumer}, handle=...)"


class Path(NamedTuple):
    """Consumer to coordinator, for its status page: by what it reaches an extent, and the probe's bytes/s."""

    extent: Extent
    epoch: int
    transport: str
    write: int
    read: int


class Query(NamedTuple):
    """First and only word of somebody who wants to look."""

    what: Literal["status", "metrics"]


class Answer(NamedTuple):
    """What there is to see, or the next part of it."""

    text: str
    more: bool


_HANDLE = 8192  # characters; a real one has about 300
PART = 1 << 20
"""Characters of an answer at most: as JSON it fits a frame whatever they are."""
READERS = codec.LEASES | codec.table(
    {
        Hello: {
            "version": codec.natural,
            "role": codec.one_of("donor", "consumer"),
            "process": codec.process,
        },
        Welcome: {
            "version": codec.natural,
            "clock": codec.natural,
            "lease": codec.positive,
            "drain": codec.positive,
        },
        Refused: {"reason": codec.text(1000)},
        Ask: {"extent": codec.extent, "epoch": codec.natural},
        Share: {"extent": codec.extent, "epoch": codec.natural, "consumer": codec.process},
        Handed: {
            "extent": codec.extent,
            "epoch": codec.natural,
            "consumer": codec.process,
            "handle": codec.text(_HANDLE),
        },
        Path: {
            "extent": codec.extent,
            "epoch": codec.natural,
            "transport": codec.text(100),
            "write": codec.natural,
            "read": codec.natural,
        },
        Query: {"what": codec.one_of("status", "metrics")},
        Answer: {"text": codec.text(PART), "more": codec.flag},
    }
)
"""Readers of all that may travel, by type name."""

FIRST: tuple[type, ...] = (Hello, Query)
SAYS: dict[str, tuple[type, ...]] = {
    "donor": (DonorReport, Handed),
    "consumer": (ConsumerReport, Closed, Ask, Path),
}
"""What each role may say once it is known."""
HEARS: dict[str, tuple[type, ...]] = {
    "donor": (Welcome, Refused, Assign, Free, Share),
    "consumer": (Welcome, Refused, Granted, Drain, Handed),
}
"""What each role may be told."""
