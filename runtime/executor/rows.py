"""What a step is to a runner: who joins, leaves and grows in its decode batch, and which chunks it computes."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from aquasim.core import Scheduler, Step
from aquasim.records.tables import RunTables
from aquasim.runtime.executor.hosting import Hosting
from aquasim.runtime.executor.sequence import Sequence
from aquasim.runtime.pager import Pager

if TYPE_CHECKING:
    from aquasim.runtime.engine import Runner


class Rows:
    """Keeps a runner's batch as the scheduler's steps say. `options` are what it is to know of a request besides."""

    def __init__(
        self, scheduler: Scheduler, runner: "Runner", sequences: dict[int, Sequence], tables: RunTables,
        options: Callable[[Sequence], dict[str, Any]], pager: Pager | None = None,
    ) -> None:  # fmt: skip
        self.hosting = Hosting(scheduler, runner, sequences, tables, pager, options)
        """The host's part, where iterations have lanes."""
        self.place: Callable[[Iterable[int]], list[int]] = list
        """Where the scheduler's blocks are in the runner's pool, where numbers and places differ."""
        self._scheduler, self._runner, self._sequences = scheduler, runner, sequences
        self._tables, self._options = tables, options

    def change(self, step: Step, now: int) -> None:
        """Bring the decode batch up to date before a step, at `now` (ns)."""
        batch, requests = self._runner.batch, self._scheduler.requests
        for id in step.left:
            self.leave(id, step.step - 1)
        for id in step.joined:
            sequence = self._sequences[id]
            sequence.joined, sequence.decoding = step.step, True
            blocks = self.place(requests[id].blocks)
            tokens, options = sequence.tokens, self._options(sequence)
            batch.join(id, tokens[-1], len(tokens) - 1, blocks, **options)
        for id in step.preempted:
            self._tables.preempted(now, id)
        if step.batch:
            self._grow()

    def leave(self, id: int, last_step: int) -> None:
        """A request decodes no more after `last_step`; nothing happens if it does not decode."""
        sequence = self._sequences.get(id)
        if sequence is not None and sequence.decoding:
            sequence.decoding = False
            self._runner.batch.leave(id)
            self._tables.span(id, sequence.joined, last_step)

    def chunks(self, step: Step, now: int) -> list[Any]:
        """Return a step's prefill chunks for the runner."""
        chunks = []
        staged = step.lanes.staged if step.lanes is not None else ()
        for id, start, count, last in step.chunks:
            sequence = self._sequences[id]
            if sequence.admitted < 0:
                sequence.admitted, sequence.cached = now, start
            chunks.append(self._chunk(id, sequence, start, start + count, last, id in staged))
        return chunks

    def repair(self, id: int) -> bool:
        """Compute a request's cache again, in chunks: its tokens are all known. False if it is gone meanwhile."""
        request, sequence = self._scheduler.requests.get(id), self._sequences.get(id)
        if request is None or sequence is None:
            return False
        most = self._scheduler.limits.max_num_batched_tokens
        for start in range(0, request.computed, most):
            chunk = self._chunk(id, sequence, start, min(start + most, request.computed), False)
            self._runner.step([chunk], False)
        sequence.repaired += request.computed
        return True

    def _chunk(
        self, id: int, sequence: Sequence, start: int, end: int, samples: bool, staged: bool = False
    ) -> Any:
        from aquasim.runtime.engine import Prefill

        request, options = self._scheduler.requests[id], self._options(sequence)
        if staged:  # its keys and values go to the host's blocks, which have no other places
            return Prefill(
                id, sequence.tokens[start:end], start, request.copy, samples, staged=True, **options
            )
        return Prefill(id, sequence.tokens[start:end], start, self.place(request.blocks), samples, **options)

    def _grow(self) -> None:
        """Tell the batch of the blocks that decoders have been given since they joined."""
        batch, requests = self._runner.batch, self._scheduler.requests
        positions = batch.positions.host[: batch.count]
        for row in np.flatnonzero(positions % batch.block_size == 0):
            id, needed = batch.ids[row], int(positions[row]) // batch.block_size
            if len(batch.blocks(id)) == needed:
                batch.grow(id, *self.place([requests[id].blocks[needed]]))
