"""Copies between AQUA tensors and a caller's memory that run beside the caller."""

from typing import TYPE_CHECKING, NamedTuple

from aquasim.runtime.copy import Event

if TYPE_CHECKING:
    from aquasim.runtime.tensors.tensor import AquaTensor


class Part(NamedTuple):
    """`nbytes` bytes of a tensor's contents from `first` on, and the caller's `address` for them."""

    tensor: "AquaTensor"
    first: int
    nbytes: int
    address: int

    def row(self, inward: bool) -> tuple[int, int, int]:
        """Return (source, destination, bytes): from the tensor if `inward`, else to it."""
        there = self.tensor._current().ptr + self.first
        return (there, self.address, self.nbytes) if inward else (self.address, there, self.nbytes)


class Flight:
    """Copies that `PeerPool.fetch` or `store` began. Their tensors stay where they are until it is done.

    `peer_bytes` and `host_bytes` are what they read from, or write to, leased memory and the pool's own.
    """

    def __init__(self, event: Event, peer_bytes: int, host_bytes: int) -> None:
        self.event = event
        self.peer_bytes = peer_bytes
        self.host_bytes = host_bytes

    def done(self) -> bool:
        """Whether every byte is there, without waiting; raises CopyError where a copy failed."""
        return self.event.done()

    def wait(self) -> None:
        """Block until it is done; raises CopyError where a copy failed."""
        self.event.wait()
