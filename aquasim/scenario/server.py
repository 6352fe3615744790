"""The keys of a scenario with several tenants on one server. A system is a set of changes to it."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import Field

from aquasim.scenario.changes import with_changes
from aquasim.scenario.schema import (
    EngineTable,
    ModelTable,
    Name,
    Positive,
    Rate,
    Seconds,
    SloTable,
    Table,
    WorkloadTable,
)

Gpu = Annotated[int, Field(ge=0)]
Gib = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ServerTable(Table):
    """`[machine]`: the server, and another hardware profile than its GPU's."""

    server: str
    profile: str | None = None


class LeasesTable(Table):
    """`[leases]`: how memory is lent. Times in seconds; see `aquasim.sim.leasing.Settings`."""

    protocol: Literal["intended", "faithful", "none"] = "intended"
    """Ours; AQUA's release to the letter; nobody lends."""
    poll_s: Rate = 4.0
    message_s: Seconds = 0.001
    lease_s: Rate = 10.0
    heartbeat_s: Rate = 1.0
    drain_s: Rate = 5.0
    extent_mib: Positive = 256


class LendsTable(Table):
    """`lends` of a serving engine: when it lends, and what resizing its cache costs."""

    informer: Literal["queue", "window"] = "queue"
    """AQUA's later rule (queue thresholds) or its first one (windows of free memory and queue growth)."""
    retain_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """What it keeps: of its KV cache (queue), of its free KV cache (window)."""
    donate_queue: Annotated[int, Field(ge=0)] = 2
    reclaim_queue: Positive = 10
    interval_s: Rate = 0.1
    """How often the rule is asked; the release asks every few iterations."""
    resize: Literal["remap", "rebuild"] | None = None
    """Page by page while serving, or stop, swap out, reallocate, swap in; if left out, rebuild with `faithful`."""
    allocate_s: Seconds = 0.1
    capture_s: Seconds = 0.0


class LoraTable(Table):
    """`adapters` of a serving engine: how those of its workload are kept (`aquasim.sim.adapters`)."""

    rank: Positive = 64
    targets: Literal["all", "attention"] = "all"
    max_loras: Positive = 1
    """Slots on the GPU, and most adapters among running requests."""
    max_cpu_loras: Annotated[int, Field(ge=0)] = 0
    """With home "file": what host memory caches; 0: as many as slots."""
    home: Literal["file", "host"] = "file"
    contiguous: bool = False
    """One tensor per adapter crosses the link, not each of its own."""


class AutoscaleTable(Table):
    """`autoscale` of a serving engine: a replica on `gpus`, `start_s` after `queue` requests wait."""

    gpus: tuple[Gpu, ...]
    start_s: Seconds
    queue: Positive = 10


class LlmTable(Table):
    """A serving engine."""

    kind: Literal["llm"]
    gpus: tuple[Gpu, ...]
    """One per rank."""
    model: ModelTable
    engine: EngineTable = EngineTable()
    workload: WorkloadTable
    start_s: Seconds = 0.0
    """When its workload begins: others may need to warm up."""
    policy: str = "fcfs"
    options: dict[str, Any] = Field(default_factory=dict)
    tiers: tuple[Literal["peer", "host"], ...] = ()
    """Where pages go, in order of preference; "peer" as far as leases reach."""
    copies: Literal["scattered", "column", "block"] = "block"
    released: bool = False
    host_gib: Gib = 0.0
    """Pinned host memory for pages, per GPU; with `faithful`, the swap space that a donor may hold whole."""
    peer_gib: Gib = 0.0
    """Memory of donors it asks for, per GPU."""
    lends: LendsTable | None = None
    adapters: LoraTable | None = None
    """With a pair, donors hold adapters, not pages."""
    autoscale: AutoscaleTable | None = None
    slo: SloTable | None = None


class BatchTable(Table):
    """An image or audio producer: batch after batch for `duration_s`."""

    kind: Literal["batch"]
    gpu: Gpu
    model: str
    batch: Positive | None = None
    """Items at a time; the model's most if left out."""
    lends: bool = True
    retain_gib: Gib = 5.0
    """Kept free when it lends (released: 5)."""
    lend_gib: Gib | None = None
    """Lend just so much; everything but `retain_gib` if left out."""


class LongPromptTable(Table):
    """One long prompt at a time whose KV cache is partly elsewhere (FlexGen), for `duration_s`."""

    kind: Literal["long-prompt"]
    gpu: Gpu
    model: str
    prompt: Positive = 8192
    output: Positive = 128
    batch: Positive = 1
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the KV cache, along heads, that is not on its GPU."""
    pinned: bool = True
    copy_gbs: Gib = 0.0
    """Unpinned: GB/s at which a CPU copies to the pinned buffer; 0: as many as DRAM allows."""
    split_layers: bool = False


Tenant = Annotated[LlmTable | BatchTable | LongPromptTable, Field(discriminator="kind")]


class ServerScenario(Table):
    """A whole scenario file with tenants."""

    question: str
    source: str = ""
    expect: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    baseline: str | None = None
    duration_s: Rate = 60.0
    """How long tenants without requests go on."""
    machine: ServerTable
    leases: LeasesTable = LeasesTable()
    tenants: dict[Name, Tenant] = Field(min_length=1)
    pairs: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    """For each tenant that borrows, those that lend to it, nearest first; GPUs are paired rank by rank."""
    without: tuple[Name, ...] = ()
    """Tenants that are not there."""
    show: tuple[Name, ...] = ()
    """Tenants that tables show; all if left out."""
    systems: dict[Name, dict[str, Any]] = Field(min_length=1)
    """What each system changes of the above: the same tables, only what differs."""
    ranges: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values of keys that nobody published, each tried with each."""

    def under(self, system: str, changes: Mapping[str, Any] | None = None) -> "ServerScenario":
        """Return the scenario as one system runs it, with values of `changes` ("path.to.key") set first."""
        data = with_changes(self.model_dump(exclude_unset=True), (changes or {}).items())
        return ServerScenario.model_validate(merged(data, self.systems[system]))


def merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with `changes`: tables key by key, anything else replaced."""
    result = deepcopy(dict(data))
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = deepcopy(value)
    return result
