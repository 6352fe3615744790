"""Which path a list of copies takes, by the size and the number of its descriptors."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

KIB = 1024


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where one path overtakes another.

    From `batch_bytes` per descriptor, copy engines win (path `batch`); below, `small` wins from `small_count`
    descriptors on. The defaults are measurements on one H100: copies of 4 to 24 KiB in a batch stay at 4 to 7 GB/s
    and jump to 40 GB/s at 28 KiB (vLLM PR#42212); a kernel pays from about 16 descriptors on (vLLM 0.33's
    swap_blocks_triton, vllm#57343). Measure them anew on every machine.
    """

    batch_bytes: int = 28 * KIB
    small_count: int = 16
    small: str = "kernel"
    source: str = "H100: vLLM PR#42212, vllm#57343"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Thresholds":
        """Take a calibration's values; raises ValueError for a name that is unknown."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"thresholds: unknown {', '.join(unknown)}; valid are {', '.join(known)}")
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Read a JSON object that a calibration wrote; raises OSError and ValueError."""
        return cls.from_dict(json.loads(path.read_text()))


HOST_THRESHOLDS = Thresholds(batch_bytes=0, small="batch", source="host memory: joining runs never loses")


def choose(bytes_per_descriptor: float, count: int, thresholds: Thresholds) -> str:
    """Name the path for `count` descriptors of that many bytes each (mean)."""
    if count <= 1:
        return "loop"
    if bytes_per_descriptor >= thresholds.batch_bytes or count < thresholds.small_count:
        return "batch"
    return thresholds.small
