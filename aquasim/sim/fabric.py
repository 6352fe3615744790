"""Links: ports with capacities, flows over paths of them, shared max-min fairly."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from operator import attrgetter

from aquasim.sim.clock import Call, Clock

Done = Callable[[], None]
_NUMBER = attrgetter("number")


@dataclass(eq=False, slots=True)
class Port:
    """One direction of one link end (or a memory): at most `capacity` bytes per second pass it.

    `gpu` names the GPU whose HBM this port's traffic reads or writes, if any.
    """

    name: str
    capacity: float
    gpu: int | None = None
    carried: int = 0
    """Bytes of finished flows."""
    flows: "dict[Flow, None]" = field(default_factory=dict, repr=False)
    """Those that pass it now."""
    busy_ns: int = 0
    """Time with traffic, up to the last time that traffic ceased."""
    since: int = 0
    """When the traffic that passes now began."""

    def busy(self, now: int) -> float:
        """Seconds with any traffic, up to `now` (ns)."""
        return (self.busy_ns + (now - self.since if self.flows else 0)) / 1e9


@dataclass(eq=False, slots=True)
class Flow:
    """`size` bytes on their way over `path`, no faster than `cap` bytes per second whatever the ports allow."""

    path: tuple[Port, ...]
    size: int
    cap: float
    done: Done
    number: int = 0
    left: float = 0.0
    """Bytes to go at `since`."""
    rate: float = 0.0
    since: int = 0
    end: Call | None = None
    """When its last byte arrives at this rate."""

    def advance(self, now: int) -> None:
        """Account for what has gone at the rate in force."""
        self.left -= self.rate * ((now - self.since) / 1e9)
        self.since = now


def fair_rates(flows: Sequence[Flow]) -> list[float]:
    """Max-min fair rates by progressive filling: all rise together until a port fills or a cap is reached.

    Args:
        flows: each with its path and cap.

    Returns:
        Bytes per second, in the order of `flows`. No port is exceeded, and no flow can get more without
        taking from one that has no more than it.
    """
    if len(flows) == 1:
        return [min(flows[0].cap, *(port.capacity for port in flows[0].path))]
    rates = [0.0] * len(flows)
    room = {port: port.capacity for flow in flows for port in flow.path}
    active = set(range(len(flows)))
    users = {port: sum(port in flow.path for flow in flows) for port in room}
    while active:
        rise = min(room[port] / users[port] for port in room if users[port])
        rise = min(rise, min(flows[i].cap - rates[i] for i in active))
        full: set[Port] = set()
        for i in active:
            rates[i] += rise
        for port, count in users.items():
            if count:
                room[port] -= rise * count
                if room[port] <= port.capacity * 1e-12:
                    full.add(port)
        stopped = {i for i in active if rates[i] >= flows[i].cap * (1 - 1e-12) or full & set(flows[i].path)}
        assert stopped, "filling must stop at least one flow"
        for i in stopped:
            for port in flows[i].path:
                users[port] -= 1
        active -= stopped
    return rates


class Fabric:
    """The links of one server. A rate changes only when a flow starts or ends that shares a port with it.

    Sharing is max-min fair, and flows that no chain of shared ports connects do not touch each other: only those
    that are connected to a flow that starts or ends are looked at.
    """

    def __init__(self, env: Clock) -> None:
        self.env = env
        self.flows: dict[Flow, None] = {}
        self.ports: dict[str, Port] = {}
        self.hbm: dict[int, float] = {}
        """Bytes per second that flows read from or write to each GPU's HBM now."""
        self._started = 0
        self._by_gpu: dict[int, dict[Port, None]] = {}
        self._watchers: list[Callable[[], None]] = []
        self._gpu_watchers: dict[int, list[Callable[[], None]]] = {}

    def port(self, name: str, capacity: float, gpu: int | None = None) -> Port:
        """Add a port. Capacity in bytes per second and direction."""
        assert capacity > 0, name
        assert name not in self.ports, name
        self.ports[name] = port = Port(name, capacity, gpu)
        if gpu is not None:
            self._by_gpu.setdefault(gpu, {})[port] = None
        return port

    def watch(self, changed: Callable[[], None], gpus: Iterable[int] | None = None) -> None:
        """Call `changed` when the HBM traffic of one of `gpus` has changed; without `gpus`, when any rate has."""
        if gpus is None:
            self._watchers.append(changed)
            return
        for gpu in gpus:
            self._gpu_watchers.setdefault(gpu, []).append(changed)

    def start(self, path: Iterable[Port], size: int, cap: float, done: Done) -> Flow:
        """Send `size` bytes over `path`; `done` runs at the nanosecond in which the last byte arrives."""
        now = self.env.ns
        self._started += 1
        flow = Flow(tuple(path), size, cap, done, self._started, float(size), 0.0, now)
        self.flows[flow] = None
        for port in flow.path:
            if not port.flows:
                port.since = now
            port.flows[flow] = None
        self._share(self._connected(flow.path), flow.path)
        return flow

    def _connected(self, path: tuple[Port, ...]) -> list[Flow]:
        """Return the flows that a chain of shared ports connects to `path`."""
        seen = dict.fromkeys(path)
        todo = list(path)
        found: dict[Flow, None] = {}
        while todo:
            for flow in todo.pop().flows:
                if flow not in found:
                    found[flow] = None
                    for port in flow.path:
                        if port not in seen:
                            seen[port] = None
                            todo.append(port)
        return sorted(found, key=_NUMBER)

    def _share(self, flows: list[Flow], touched: tuple[Port, ...]) -> None:
        """Give connected flows their fair rates and plan their ends; tell who watches the GPUs concerned."""
        env = self.env
        now = env.ns
        gpus = {port.gpu for port in touched}
        for flow, rate in zip(flows, fair_rates(flows) if flows else (), strict=True):
            if rate == flow.rate:
                continue
            flow.advance(now)
            flow.rate = rate
            wait = flow.left / rate if rate > 0 else inf
            flow.end = env.at(now + max(0, ceil(wait * 1e9)), partial(self._end, flow))
            for port in flow.path:
                gpus.add(port.gpu)
        self._tell(sorted(gpu for gpu in gpus if gpu is not None))

    def _tell(self, gpus: list[int]) -> None:
        told: dict[Callable[[], None], None] = {}
        for gpu in gpus:
            load = 0.0
            for port in self._by_gpu[gpu]:
                for flow in port.flows:
                    load += flow.rate
            if load == self.hbm.get(gpu, 0.0):
                continue
            if load:
                self.hbm[gpu] = load
            else:
                del self.hbm[gpu]
            for changed in self._gpu_watchers.get(gpu, ()):
                told[changed] = None
        for changed in [*self._watchers, *told]:
            changed()

    def _end(self, first: Flow, event: Call) -> None:
        """The last byte of `first` arrives, unless its rate has changed since; so may others' at this instant."""
        if first.end is not event:
            return
        now = self.env.ns
        flows = self._connected(first.path)
        for flow in flows:
            flow.advance(now)
        ended = [flow for flow in flows if flow.left <= flow.rate * 1e-9]
        touched: dict[Port, None] = {}
        for flow in ended:
            del self.flows[flow]
            flow.end = None
            for port in flow.path:
                touched[port] = None
                del port.flows[flow]
                port.carried += flow.size
                if not port.flows:
                    port.busy_ns += now - port.since
        self._share([flow for flow in flows if flow.left > flow.rate * 1e-9], tuple(touched))
        for flow in ended:
            flow.done()


@dataclass(slots=True)
class CopyEngine:
    """Runs at most `slots` copies at a time, first come first served."""

    slots: int
    waiting: deque[Callable[[Done], None]] = field(default_factory=deque)
    active: int = 0

    def submit(self, copy: Callable[[Done], None]) -> None:
        """Run `copy(release)` when a slot is free; it calls `release` when it is over."""
        self.waiting.append(copy)
        self._pump()

    def _pump(self) -> None:
        while self.waiting and self.active < self.slots:
            self.active += 1
            self.waiting.popleft()(self._release)

    def _release(self) -> None:
        self.active -= 1
        self._pump()
