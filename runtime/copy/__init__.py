"""Copies of whole blocks between addresses: paths by name, two streams, events to poll.

    with open_copier("cpu") as copier:
        copies = Descriptors.of_blocks(pool, [3, 9], extent, [0, 1], block_bytes)
        event = copier.submit(copies, copier.outgoing)
        ...
        if event.done():  # only now may the blocks be used again

Importing needs numpy only; a GPU's libraries are loaded when a copier for it is opened.
"""

from aquasim.runtime.copy.checksum import checksum
from aquasim.runtime.copy.choose import HOST_THRESHOLDS, Thresholds, choose
from aquasim.runtime.copy.copier import Copier, CopyError, Event, Scratch, Stream
from aquasim.runtime.copy.descriptors import Descriptors, merge_runs
from aquasim.runtime.copy.host import HostCopier, HostEvent

__all__ = [
    "HOST_THRESHOLDS",
    "Copier",
    "CopyError",
    "Descriptors",
    "Event",
    "HostCopier",
    "HostEvent",
    "Scratch",
    "Stream",
    "Thresholds",
    "checksum",
    "choose",
    "merge_runs",
    "open_copier",
]


def open_copier(
    device: str | int = "cpu", thresholds: Thresholds | None = None, staging_bytes: int = 16 << 20
) -> Copier:
    """Return a copier for the CPU ("cpu"), or for a GPU by its UUID or its visible index.

    `staging_bytes` is the size of the buffer that `gather` and `scatter` use, per stream, once they are used.
    Raises CopyError where the GPU or a library for it is missing.
    """
    if device == "cpu":
        return HostCopier(thresholds or HOST_THRESHOLDS, staging_bytes)
    from aquasim.runtime.copy.device import DeviceCopier

    return DeviceCopier(device, thresholds or Thresholds(), staging_bytes)
