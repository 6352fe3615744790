"""Feeds a workload's requests to an engine when they are due."""

from typing import Protocol

from aquasim.sim.clock import Clock
from aquasim.sim.engine import NEVER
from aquasim.workload import Workload


class Sink(Protocol):
    """Takes requests: an engine, or what stands before several."""

    next_arrival: int

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
        """A request arrives now (see `Engine.submit`)."""


class Source:
    """Submits requests in order of arrival; under a cap, only as open ones go.

    One pending event at a time, however long the workload. A request reaches the engine `delay_ns` after it was
    sent. That stands for both ways between client and engine, so that what the engine reports is what the
    client sees, and a place under the cap is taken again `delay_ns` after its request left.
    """

    def __init__(
        self,
        env: Clock,
        workload: Workload,
        block_size: int,
        prefix_caching: bool,
        delay_ns: int = 0,
    ) -> None:
        self.env = env
        self.engine: Sink | None = None
        self._workload = workload
        self._arrival = (workload.arrival + delay_ns).tolist()
        self._block_size = block_size
        self._hashed = prefix_caching and workload.prefix is not None
        self.sent = 0
        self._open = 0
        self._cap = workload.cap or len(self._arrival)
        self._due = False
        self._delay = delay_ns

    def start(self, engine: Sink) -> None:
        """Begin to feed `engine`."""
        self.engine = engine
        self._wait()

    def gone(self, _: int) -> None:
        """Note that a request has left, which may open a place under the cap."""
        if self._delay and self._cap < len(self._arrival):
            self.env.at(self.env.ns + self._delay, self._leave)
        else:
            self._leave()

    def _leave(self, _: object = None) -> None:
        self._open -= 1
        if self._open == self._cap - 1:
            self._wait()

    def _wait(self) -> None:
        if self.sent < len(self._arrival) and self._open < self._cap and not self._due:
            self._due = True
            now = self.env.ns
            due = max(now, self._arrival[self.sent])
            assert self.engine is not None
            self.engine.next_arrival = due
            self.env.at(due, self._submit)

    def _submit(self, _: object) -> None:
        self._due = False
        assert self.engine is not None
        self.engine.next_arrival = NEVER
        now, arrival, count = self.env.ns, self._arrival, len(self._arrival)
        while self.sent < count and arrival[self.sent] <= now and self._open < self._cap:
            i = self.sent
            self.sent += 1
            self._open += 1
            workload = self._workload
            priority = int(workload.priority[i]) if workload.priority is not None else 0
            prefix = workload.block_hashes(i, self._block_size) if self._hashed else ()
            prompt, output = int(workload.prompt[i]), int(workload.output[i])
            if workload.adapter is None:
                self.engine.submit(i, prompt, output, priority, prefix, self._delay)
            else:
                adapter = int(workload.adapter[i])
                self.engine.submit(i, prompt, output, priority, prefix, self._delay, adapter)
        self._wait()
