"""How a scenario is run on hardware: what a scenario file does not say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aquasim.errors import UserError
from aquasim.runtime.local.watch import Watch


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a run on hardware.

    weights: GGUF or safetensors; None: random ones of the scenario's model. accelerate: arrivals come so many times
    as fast. check: which pages are weighed when they leave and when they are back. peers: a coordinator's socket,
    for the tier "peer". threads: how many cores compute; torch's own choice if left out. watch: notes how fast the
    core that computes is, and may keep the time that others took it out of the clock.

    Raises:
        UserError: a value that is none.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    weights: Path | None = None
    accelerate: float = 1.0
    check: Literal["off", "sampled", "always"] = "off"
    peers: Path | None = None
    threads: int | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        if not 0 < self.accelerate <= 1e6:
            raise UserError(f"--accelerate {self.accelerate:g}: a number above 0 and up to 1e6 is needed")
        if self.check not in ("off", "sampled", "always"):
            raise UserError(f"--check {self.check!r}: valid are off, sampled, always")
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise UserError(f"--dtype {self.dtype!r}: valid are float32, bfloat16, float16")
