"""Adapters of a serving engine: slots on the GPU, a cache in host memory, and what a miss costs, by source."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aquasim.core import Scheduler, Step
from aquasim.hardware.links import LinkKind
from aquasim.hardware.lora import LoraCost, LoraShape, Targets
from aquasim.models import Model
from aquasim.records.tables import RunTables
from aquasim.sim.fabric import Done, Port
from aquasim.sim.topology import Server

FILE_RATE = 3e9
"""Bytes per second of reading a checkpoint from the page cache into tensors, one thread.

Chosen: a third of what a core copies, for pages are mapped and copied one by one.
"""
PIN_S = 150e-6
"""Per tensor, page-locked memory for it. Chosen: `cudaHostAlloc` of less than a MiB takes 0.1 to 0.5 ms."""
TENSOR_S = 10e-6
"""Per tensor, its copy into the slot, issued from Python (5 to 10 us a call, as other small copies)."""

Source = Literal["peer", "host", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Which adapters there are and how they are kept. Raises ValueError if a size is off.

    count, rank, targets: `count` adapters, all of one shape.
    max_loras: slots on the GPU, and most adapters among running requests (`Limits.max_loras`).
    max_cpu_loras: adapters that host memory caches, with `home` "file"; 0: as many as slots (vLLM's default).
    home: where an adapter is met that neither a peer nor the cache has: in its file, read anew each time (vLLM,
        from the page cache), or in pinned host memory.
    contiguous: one tensor per adapter crosses the link (AQUA flattens them at start), not each of its own.
    shadow: memory that peers lent is copied back before it is returned, though nothing changed (AQUA's release).
    """

    count: int
    rank: int = 64
    targets: Targets = "all"
    max_loras: int = 1
    max_cpu_loras: int = 0
    home: Literal["file", "host"] = "file"
    contiguous: bool = False
    shadow: bool = True

    def __post_init__(self) -> None:
        for name in ("count", "max_loras"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_cpu_loras and self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras is {self.max_cpu_loras}, below max_loras {self.max_loras}")


class Lru:
    """At most `size` numbers; the least recently used one makes way, unless it is kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: dict[int, None] = {}

    def __contains__(self, number: int) -> bool:
        return number in self.items

    def touch(self, number: int) -> None:
        """Note a use, if the number is there."""
        if number in self.items:
            del self.items[number]
            self.items[number] = None

    def insert(self, number: int, kept: Iterable[int]) -> int | None:
        """Add a number as the latest used; return the one that makes way, none of `kept`, if one must."""
        evicted = None
        if len(self.items) >= self.size:
            held = set(kept)
            evicted = next(item for item in self.items if item not in held)
            del self.items[evicted]
        self.items[number] = None
        return evicted


class AdapterStore:
    """Loads adapters for one engine on one GPU, and keeps them on peers as far as these lend memory.

    A step that starts requests whose adapters are not in a slot waits for them, one after the other (vLLM
    0.3.3). Adapters of running requests keep their slots; of the others, the least recently used makes way.
    Peers hold adapters in the order of their numbers; those that find no room come from their home.
    """

    def __init__(
        self,
        server: Server,
        gpu: int,
        model: Model,
        settings: AdapterSettings,
        scheduler: Scheduler,
        tables: RunTables,
    ) -> None:
        assert scheduler.limits.max_loras == settings.max_loras, "the scheduler must know the slots"
        self.settings = settings
        self.shape = LoraShape(model, settings.rank, settings.targets)
        self.slots = Lru(settings.max_loras)
        self.cached = Lru(settings.max_cpu_loras or settings.max_loras)
        self.held: dict[int, list[int]] = {}
        """Adapters on each donor, in order."""
        self._env = server.fabric.env
        self._server = server
        self._gpu = gpu
        self._scheduler = scheduler
        self._tables = tables
        self._cost = LoraCost(server.profile, self.shape)
        self._adapter: dict[int, int] = {}
        self._decoding: dict[int, int] = {}
        self._decoders: dict[int, int] = {}
        """Decoding requests of each adapter."""
        self._missing: deque[int] = deque()
        self._then: Callable[[], None] = lambda: None
        self._arriving: dict[int, list[int]] = {}
        self._fetching = -1
        """The donor that the fetch under way reads from."""
        self._fetched: list[Done] = []

    @property
    def slot_bytes(self) -> int:
        """HBM that the slots take from the KV cache, whatever is in them."""
        return self.settings.max_loras * self.shape.bytes

    @property
    def remote_bytes(self) -> int:
        """Bytes of all adapters: what peers can hold of them at most."""
        return self.settings.count * self.shape.bytes

    # --- what the engine asks --------------------------------------------------------------------------------

    def submitted(self, id: int, adapter: int) -> None:
        """Remember which adapter a request needs."""
        assert adapter < self.settings.count, f"request {id} needs adapter {adapter} of {self.settings.count}"
        if adapter >= 0:
            self._adapter[id] = adapter

    def load(self, step: Step, then: Callable[[], None]) -> bool:
        """Say whether all adapters that a step needs are in slots; if not, fetch them and call `then`."""
        known = self._adapter
        for id in step.left:
            self._stop_decoding(id)
        needed = [known[id] for id in step.joined if id in known]
        for id in step.joined:
            if id in known:
                self._decoding[id] = adapter = known[id]
                self._decoders[adapter] = self._decoders.get(adapter, 0) + 1
        needed += [known[chunk.request] for chunk in step.chunks if chunk.request in known]
        for adapter in needed:
            self.slots.touch(adapter)
            self.cached.touch(adapter)
        self._missing.extend(adapter for adapter in dict.fromkeys(needed) if adapter not in self.slots)
        if not self._missing:
            return True
        self._then = then
        self._fetch()
        return False

    def extra_ns(self, step: Step) -> int:
        """Return what adapters add to each iteration of a step."""
        known = self._adapter
        tokens, different = 0, len(self._decoders)
        if step.batch:
            tokens = len(self._decoding)
        if step.chunks:
            used = set(self._decoders) if step.batch else set()
            for chunk in step.chunks:
                if chunk.request in known:
                    tokens += chunk.tokens
                    used.add(known[chunk.request])
            different = len(used)
        return self._cost.ns(tokens, different)

    def gone(self, id: int) -> None:
        """Forget a request; its adapter was in use until now."""
        self._stop_decoding(id)
        adapter = self._adapter.pop(id, -1)
        self.slots.touch(adapter)
        self.cached.touch(adapter)

    def _stop_decoding(self, id: int) -> None:
        adapter = self._decoding.pop(id, -1)
        if adapter < 0:
            return
        self.slots.touch(adapter)
        self.cached.touch(adapter)
        self._decoders[adapter] -= 1
        if not self._decoders[adapter]:
            del self._decoders[adapter]

    # --- fetching --------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Fetch the next missing adapter, from the nearest place that has it."""
        adapter, now = self._missing[0], self._env.ns
        source, donor = self._find(adapter)
        link, path = (
            self._server.between(donor, self._gpu) if donor >= 0 else self._server.from_host(self._gpu)
        )
        self._fetching = donor
        size = self.shape.bytes
        ended = partial(self._fetched_one, adapter, source, now)

        def send(_: object = None) -> None:
            self._server.fabric.start(path, size, size / self._seconds(link), ended)

        if source == "file":
            read = size / FILE_RATE + self.shape.tensors * PIN_S
            self._env.at(now + round(read * 1e9), send)
        else:
            send()

    def _find(self, adapter: int) -> tuple[Source, int]:
        for donor, adapters in self.held.items():
            if adapter in adapters:
                return "peer", donor
        return ("host" if self.settings.home == "host" or adapter in self.cached else "file"), -1

    def _seconds(self, link: LinkKind, count: int = 1) -> float:
        """Seconds of copying adapters over an idle link and, for one, into its slot."""
        copies = 1 if self.settings.contiguous else self.shape.tensors
        return count * (link.seconds(self.shape.bytes / copies, copies) + self.shape.tensors * TENSOR_S)

    def _fetched_one(self, adapter: int, source: Source, start: int) -> None:
        running = {request.adapter for request in self._scheduler.running.values()}
        self.slots.insert(adapter, running)
        if self.settings.home == "file" and adapter not in self.cached:
            dropped = self.cached.insert(adapter, running | {adapter})
            if dropped is not None:
                self.slots.items.pop(dropped, None)
        self._tables.fetch(start, self._env.ns, adapter, source, self.shape.bytes)
        self._fetching = -1
        waiting, self._fetched = self._fetched, []
        for done in waiting:
            done()
        self._missing.popleft()
        if self._missing:
            self._fetch()
        else:
            self._then()

    # --- memory of peers -------------------------------------------------------------------------------------

    def use_peer(self, donor: int, size: int, settled: Done) -> None:
        """Let GPU `donor` hold at most `size` bytes of adapters, whole ones.

        They are read where they were until they have come, and at once no more where they are to leave.
        """
        assert self._server.topology.connected(self._gpu, donor), (
            f"GPU {donor} has no peer link to GPU {self._gpu}"
        )
        assert donor not in self._arriving, f"GPU {donor}: a second grant before the first one settled"
        room = size // self.shape.bytes
        held = self.held.setdefault(donor, [])
        leaving = held[room:]
        del held[room:]
        placed = {
            adapter for adapters in [*self.held.values(), *self._arriving.values()] for adapter in adapters
        }
        coming = [adapter for adapter in range(self.settings.count) if adapter not in placed]
        coming = [] if leaving else coming[: room - len(held)]
        self._arriving[donor] = coming
        left = 1 + (self._fetching == donor)

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                del self._arriving[donor]
                held.extend(coming)
                self._tables.memory(
                    self._env.ns, "adapters", self.shape.bytes * sum(map(len, self.held.values()))
                )
                settled()

        if self._fetching == donor:
            self._fetched.append(done)
        self._move(donor, len(coming) or len(leaving) * self.settings.shadow, bool(coming), done)

    def _move(self, donor: int, count: int, there: bool, done: Done) -> None:
        """Copy adapters from the host to a donor or back, over that GPU's host link."""
        link, path = (self._server.from_host if there else self._server.to_host)(donor)
        self._start(path, count, link, done)

    def _start(self, path: tuple[Port, ...], count: int, link: LinkKind, done: Done) -> None:
        if not count:
            self._env.at(self._env.ns, lambda _: done())
            return
        copies = count * (1 if self.settings.contiguous else self.shape.tensors)
        size = count * self.shape.bytes
        self._server.fabric.start(path, size, size / link.seconds(size / copies, copies), done)
