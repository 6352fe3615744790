"""What a step's lanes are to a runner: who decodes on the host's cores, in which of its blocks, and for how long."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aquasim.core import Scheduler, Step
from aquasim.core.hosts import HOST
from aquasim.errors import UserError
from aquasim.records.tables import RunTables
from aquasim.runtime.executor.sequence import NOWHERE, Sequence
from aquasim.runtime.pager import Pager

if TYPE_CHECKING:
    from aquasim.runtime.engine import Hosted, Runner


class Hosting:
    """Keeps account of the host's decodes, and names them to the runner. `options` are as for `Rows`.

    Raises UserError where the policy has lanes with the host and no tables to weigh them by, or the runner no host.
    """

    def __init__(
        self, scheduler: Scheduler, runner: "Runner", sequences: dict[int, Sequence], tables: RunTables,
        pager: Pager | None, options: Callable[[Sequence], dict[str, Any]],
    ) -> None:  # fmt: skip
        self._scheduler, self._sequences, self._tables = scheduler, sequences, tables
        self._pager, self._options = pager, options
        rules = scheduler.policy.lanes
        if rules is None or not rules.host:
            return
        name = type(scheduler.policy).__name__
        if scheduler.policy.predictor is None:
            raise UserError(
                f"{name} weighs what the host takes, and no tables were measured: set policy.predictor"
            )
        if runner.host is None or pager is None:
            raise UserError(
                f"{name} has requests decode on the host: the runner needs `host`, the executor a pager"
            )

    def sides(self, step: Step) -> tuple[Any, ...]:
        """Return what a runner is to be told of the host's part in a step: `(Sides,)`, or nothing."""
        lanes = step.lanes
        if lanes is None:
            return ()
        assert self._pager is not None
        for id in lanes.staged:
            self._pager.written(HOST, self._scheduler.requests[id].copy)
        if not (lanes.first or lanes.second):
            return ()
        from aquasim.runtime.engine import Sides

        return (Sides(*([self._hosted(id) for id in side] for side in (lanes.first, lanes.second))),)

    def _hosted(self, id: int) -> "Hosted":
        from aquasim.runtime.engine import Hosted

        request, sequence = self._scheduler.requests[id], self._sequences[id]
        assert request.copy_tier == HOST, request
        assert request.total == len(sequence.tokens), "the scheduler counts other tokens"
        position = request.total - 1
        assert self._pager is not None
        self._pager.written(HOST, [request.copy[position // self._scheduler.limits.block_size]])
        return Hosted(id, sequence.tokens[-1], position, request.copy, **self._options(sequence))

    def count(self, step: Step, finished: tuple[int, ...]) -> None:
        """A step is over: note who decoded on the host, and for whom that was the last."""
        if step.lanes is None:
            return
        for id in step.lanes.first + step.lanes.second:
            sequence = self._sequences[id]
            if sequence.hosted != step.step - 1:
                self.leave(id)
                sequence.since = step.step
            sequence.hosted = step.step
            if id in finished:
                self.leave(id)

    def leave(self, id: int) -> None:
        """Close the run of steps in which a request decoded on the host, if there is one."""
        sequence = self._sequences[id]
        if sequence.hosted != NOWHERE:
            self._tables.span(id, sequence.since, sequence.hosted, 1)
            sequence.hosted = NOWHERE
