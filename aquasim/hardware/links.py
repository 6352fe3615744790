"""Kinds of links: how long a copy takes by the size of its descriptors."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LinkKind:
    """One direction of a link: `bandwidth` of a large copy, `peak` (bytes/s), `start` per descriptor (s).

    A descriptor of s bytes takes start + s / bandwidth: many small copies of a scattered set of pages cost a
    start each.
    """

    name: str
    bandwidth: float
    start: float
    peak: float

    def __post_init__(self) -> None:
        if self.bandwidth <= 0 or self.start < 0:
            raise ValueError(
                f"link {self.name}: bandwidth {self.bandwidth} must be above 0, start {self.start} not below"
            )

    @classmethod
    def from_block(cls, name: str, block: dict[str, Any]) -> "LinkKind":
        """Read a profile's block (`bytes_per_s`, `start_s`, `peak_bytes_per_s`)."""
        return cls(
            name, float(block["bytes_per_s"]), float(block["start_s"]), float(block["peak_bytes_per_s"])
        )

    def rate(self, size: float) -> float:
        """Effective bytes/s of copies with descriptors of `size` bytes: size / (start + size / bandwidth)."""
        if size <= 0:
            raise ValueError(f"link {self.name}: descriptor of {size} bytes")
        return size / (self.start + size / self.bandwidth)

    def seconds(self, size: float, descriptors: int = 1) -> float:
        """Time of `descriptors` copies of `size` bytes each, one after the other, on an idle link."""
        return descriptors * (self.start + size / self.bandwidth)
