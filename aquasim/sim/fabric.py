"""Links: ports with capacities, flows over paths of them, shared max-min fairly."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from aquasim.sim.clock import Call, Clock

Done = Callable[[], None]


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
    busy: float = 0.0
    """Seconds with any traffic."""


@dataclass(eq=False, slots=True)
class Flow:
    """`size` bytes on their way over `path`, no faster than `cap` bytes per second whatever the ports allow."""

    path: tuple[Port, ...]
    size: int
    cap: float
    done: Done
    left: float = 0.0
    rate: float = 0.0
    started: int = 0


def fair_rates(flows: Sequence[Flow]) -> list[float]:
    """Max-min fair rates by progressive filling: all rise together until a port fills or a cap is reached.

    Args:
        flows: each with its path and cap.

    Returns:
        Bytes per second, in the order of `flows`. No port is exceeded, and no flow can get more without
        taking from one that has no more than it.
    """
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
    """The links of one server. Rates change only when a flow starts or ends."""

    def __init__(self, env: Clock) -> None:
        self.env = env
        self.flows: dict[Flow, None] = {}
        self.ports: dict[str, Port] = {}
        self.hbm: dict[int, float] = {}
        """Bytes per second that flows read from or write to each GPU's HBM now."""
        self._since = 0
        self._next: Call | None = None
        self._watchers: list[Callable[[], None]] = []

    def port(self, name: str, capacity: float, gpu: int | None = None) -> Port:
        """Add a port. Capacity in bytes per second and direction."""
        assert capacity > 0, name
        assert name not in self.ports, name
        self.ports[name] = Port(name, capacity, gpu)
        return self.ports[name]

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` after every change of rates."""
        self._watchers.append(changed)

    def start(self, path: Iterable[Port], size: int, cap: float, done: Done) -> Flow:
        """Send `size` bytes over `path`; `done` runs at the nanosecond in which the last byte arrives."""
        flow = Flow(tuple(path), size, cap, done, float(size), 0.0, self.env.ns)
        self._advance()
        self.flows[flow] = None
        self._share()
        return flow

    def _advance(self) -> None:
        """Move every flow forward to now at its rate."""
        now = self.env.ns
        seconds = (now - self._since) / 1e9
        self._since = now
        if seconds > 0 and self.flows:
            for flow in self.flows:
                flow.left -= flow.rate * seconds
            for port in {port for flow in self.flows for port in flow.path}:
                port.busy += seconds

    def _share(self) -> None:
        """Give every flow its fair rate and plan the next end."""
        flows = list(self.flows)
        for flow, rate in zip(flows, fair_rates(flows), strict=True):
            flow.rate = rate
        self.hbm = {}
        for flow in flows:
            for port in flow.path:
                if port.gpu is not None:
                    self.hbm[port.gpu] = self.hbm.get(port.gpu, 0.0) + flow.rate
        self._next = None
        if flows:
            wait = min(flow.left / flow.rate if flow.rate > 0 else inf for flow in flows)
            self._next = self.env.at(self.env.ns + max(0, ceil(wait * 1e9)), self._end)
        for changed in self._watchers:
            changed()

    def _end(self, event: Call) -> None:
        if event is not self._next:
            return
        self._advance()
        ended = [flow for flow in self.flows if flow.left <= flow.rate * 1e-9]
        for flow in ended:
            del self.flows[flow]
            for port in flow.path:
                port.carried += flow.size
        self._share()
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
