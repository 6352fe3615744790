"""Servers: which GPUs, and the links between them and the host."""

from dataclasses import dataclass

from aquasim.hardware.links import LinkKind
from aquasim.hardware.local import LOCAL
from aquasim.hardware.profile import Profile
from aquasim.sim.clock import Clock
from aquasim.sim.fabric import CopyEngine, Fabric, Port

BOTH_WAYS = 83.4 / (50.7 + 51.1)
"""Both directions of one PCIe link at once, against the sum of each alone (H100, DMA; vLLM blog 2026-01-08)."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A server by its parts.

    `peer` is how GPUs reach each other: "nvswitch" (any pair at full port speed), "nvlink" (pairs 0-1, 2-3, ...)
    or "pcie" (through the host bridge). `numa` sockets share the GPUs evenly.
    """

    name: str
    gpu: str
    gpus: int
    peer: str
    numa: int
    copy_engines: int = 1
    """Copies in flight per GPU and direction."""
    host: str = ""
    """Its processor, by a name in `aquasim.hardware.host`; empty: nothing is known of it."""

    def missing(self, profile: Profile) -> list[str]:
        """Return the links this server has and `profile` does not know."""
        needed = ["host_dram", "pcie_d2h", "pcie_h2d"] + (["nvlink"] if self.peer != "pcie" else [])
        return [link for link in needed if link not in profile.links]

    def connected(self, source: int, target: int) -> bool:
        """Say whether two different GPUs have a direct peer path."""
        return source != target and (self.peer != "nvlink" or source // 2 == target // 2)


TOPOLOGIES = {
    topology.name: topology
    for topology in (
        Topology("8xH100", "h100", 8, "nvswitch", 2, host="h100-node"),
        Topology("8xH200", "h200", 8, "nvswitch", 2),
        Topology("8xA100", "a100", 8, "nvswitch", 2),
        Topology("2xA100-pair", "a100", 2, "nvlink", 1),
        Topology("1xH100", "h100", 1, "pcie", 1, host="h100-node"),
        Topology("1xA100", "a100", 1, "pcie", 1),
        Topology("4xL40S", "l40s", 4, "pcie", 2),
        Topology("1xRTX4090", "rtx4090", 1, "pcie", 1),
        Topology("1xRTXPRO6000", "rtxpro6000", 1, "pcie", 1),
        Topology("2xH100", "h100", 2, "nvswitch", 1, host="h100-node"),
        Topology("g4dn.4xlarge", "t4", 1, "pcie", 1, host="g4dn.4xlarge"),
        *(Topology(f"g5.{n}xlarge", "a10g", 1, "pcie", 1, host=f"g5.{n}xlarge") for n in (2, 4, 8, 16)),
        # The machine at hand: its processor or GPU is GPU 0, and GPU 1 is what lends memory to it.
        Topology(LOCAL, LOCAL, 2, "nvswitch", 1),
    )
}


class Server:
    """The links of one server, ready to carry flows."""

    def __init__(self, env: Clock, topology: Topology, profile: Profile) -> None:
        self.topology = topology
        self.profile = profile
        self.fabric = fabric = Fabric(env)
        links = profile.links
        for node in range(topology.numa):
            fabric.port(f"dram{node}", links["host_dram"].bandwidth)
        for gpu in range(topology.gpus):
            up, down = links["pcie_d2h"].bandwidth, links["pcie_h2d"].bandwidth
            fabric.port(f"gpu{gpu}.d2h", up, gpu)
            fabric.port(f"gpu{gpu}.h2d", down, gpu)
            fabric.port(f"gpu{gpu}.pcie", (up + down) * BOTH_WAYS)
            if topology.peer != "pcie":
                fabric.port(f"gpu{gpu}.nvlink-out", links["nvlink"].bandwidth, gpu)
                fabric.port(f"gpu{gpu}.nvlink-in", links["nvlink"].bandwidth, gpu)
        self._engines: dict[tuple[int, str], CopyEngine] = {}

    def copy_engine(self, gpu: int, direction: str) -> CopyEngine:
        """Return the queue of copies `out` of or `in` to one GPU."""
        key = (gpu, direction)
        if key not in self._engines:
            self._engines[key] = CopyEngine(self.topology.copy_engines)
        return self._engines[key]

    def to_host(self, gpu: int) -> tuple[LinkKind, tuple[Port, ...]]:
        """Return the kind and the path of a copy from a GPU to its host memory."""
        return self.profile.links["pcie_d2h"], self._ports(f"gpu{gpu}.d2h", f"gpu{gpu}.pcie", self._dram(gpu))

    def from_host(self, gpu: int) -> tuple[LinkKind, tuple[Port, ...]]:
        """Return the kind and the path of a copy from host memory to a GPU."""
        return self.profile.links["pcie_h2d"], self._ports(f"gpu{gpu}.h2d", f"gpu{gpu}.pcie", self._dram(gpu))

    def between(self, source: int, target: int) -> tuple[LinkKind, tuple[Port, ...]]:
        """Return the kind and the path of a copy from one GPU to another."""
        if self.topology.peer == "pcie":
            names = (f"gpu{source}.d2h", f"gpu{source}.pcie", f"gpu{target}.h2d", f"gpu{target}.pcie")
            return self.profile.links["pcie_d2h"], self._ports(*names)
        return self.profile.links["nvlink"], self._ports(f"gpu{source}.nvlink-out", f"gpu{target}.nvlink-in")

    def _dram(self, gpu: int) -> str:
        return f"dram{gpu * self.topology.numa // self.topology.gpus}"

    def _ports(self, *names: str) -> tuple[Port, ...]:
        return tuple(self.fabric.ports[name] for name in names)
