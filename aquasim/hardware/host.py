"""The host's processor as NEO uses it: cores and memory bandwidth that decode attention runs on."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Host:
    """What one server's GPUs share of their host.

    bytes_per_s: what attention reads from memory with all `cores`; core_bytes_per_s: with one. start_s: time per
    layer whatever it reads. launch_s: time per stage of a layer in which the host issues kernels before it computes
    (NEO's constant). source: where each comes from.
    """

    name: str
    cores: int
    bytes_per_s: float
    core_bytes_per_s: float
    start_s: float
    launch_s: float
    source: str

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ValueError(f"host {self.name}: {self.cores} cores; decode attention needs at least 1")
        for name in ("bytes_per_s", "core_bytes_per_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"host {self.name}: {name} is {getattr(self, name)}; it must be above 0")

    @property
    def read_bytes_per_s(self) -> float:
        """What attention reads: memory's rate, or less where the cores are few."""
        return min(self.bytes_per_s, self.cores * self.core_bytes_per_s)

    def changed(self, cores: int | None, bytes_per_s: float | None) -> "Host":
        """Return a host with other cores or another bandwidth (None keeps one).

        Raises:
            ValueError: no cores, or no bandwidth.
        """
        return replace(
            self,
            cores=self.cores if cores is None else cores,
            bytes_per_s=self.bytes_per_s if bytes_per_s is None else bytes_per_s,
        )


CORE = 11e9
"""Bytes per second that one core reads in attention: what one core of a server streams at most; chosen."""
_LAUNCH = "launch and start: NEO's constant and its tables of a small g5"
_ROW = "chosen so that figure 10a's row for this instance comes out (the only thing it is fitted to)"

HOSTS = {
    host.name: host
    for host in (
        Host("g4dn.4xlarge", 8, 80e9, CORE, 80e-6, 0.8e-3, f"bandwidth: a trial fit of NEO's T4 runs; {_LAUNCH}"),
        Host("g5.2xlarge", 4, 13e9, CORE, 80e-6, 0.8e-3, f"bandwidth: half the 4xlarge's, an assumption; {_LAUNCH}"),
        Host(
            "g5.4xlarge", 8, 26e9, CORE, 80e-6, 0.8e-3,
            f"bandwidth: NEO's tables of a small g5, which size they do not say; its row agrees; {_LAUNCH}",
        ),
        Host("g5.8xlarge", 16, 43e9, CORE, 80e-6, 0.8e-3, f"bandwidth: {_ROW}; {_LAUNCH}"),
        Host(
            "g5.16xlarge", 32, 150e9, CORE, 80e-6, 0.8e-3,
            f"bandwidth: three quarters of the 200 GB/s that NEO, section 2.2, gives this host; {_LAUNCH}",
        ),
        Host(
            "h100-node", 16, 96e9, CORE, 80e-6, 0.8e-3,
            f"8 cores per GPU of 2; bandwidth: chosen so that figure 6a's gain comes out; {_LAUNCH}",
        ),
    )
}  # fmt: skip
