"""Autoscaling, the operators' answer to a burst: another replica, once its machine, container and model are up."""

from collections.abc import Callable
from dataclasses import dataclass

from aquasim.sim.clock import Clock
from aquasim.sim.engine import NEVER, Engine


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Start a replica when `queue` requests wait; it serves `start_ns` later."""

    queue: int
    start_ns: int


class Replicas:
    """Sends each request to the replica with the fewest open ones. Stands where an engine would."""

    def __init__(self, env: Clock, first: Engine, more: Callable[[], Engine], rule: Autoscale) -> None:
        self.env = env
        self.engines = [first]
        self._more = more
        self._rule = rule
        self._ordered = False
        self._next = NEVER

    @property
    def next_arrival(self) -> int:
        """When the next request is sure to arrive."""
        return self._next

    @next_arrival.setter
    def next_arrival(self, when: int) -> None:
        self._next = when
        for engine in self.engines:
            engine.next_arrival = when

    def submit(
        self,
        id: int,
        prompt: int,
        output: int,
        priority: int,
        prefix: tuple[int, ...],
        delay_ns: int = 0,
        adapter: int = -1,
    ) -> None:
        """A request arrives now."""
        engine = min(self.engines, key=lambda engine: len(engine.live))
        engine.submit(id, prompt, output, priority, prefix, delay_ns, adapter)
        if not self._ordered and engine.queued >= self._rule.queue:
            self._ordered = True
            self.env.at(self.env.ns + self._rule.start_ns, self._started)

    def _started(self, _: object) -> None:
        self.engines.append(self._more())
        self.next_arrival = self._next
