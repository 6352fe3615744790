"""Two sub-batches, layer by layer: the host attends for one while the GPU is at the products of the other.

NEO, section 2.3. A sub-batch's rows are `[decodes | prompts | staged prompts | the host's decodes]`. Its products and
the attention of the first three run on the device, that of the last on the host's cores, over the host's own pool.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from aquasim.runtime.engine.attention import Attend
from aquasim.runtime.engine.attention.sdpa import attend_whole
from aquasim.runtime.engine.model import Model
from aquasim.runtime.engine.pool import KvPool
from aquasim.runtime.engine.sampling import GREEDY, Sampling
from aquasim.runtime.engine.wires import Wire, open_wire
from aquasim.runtime.host.attention import HostAttention, Kernel, Work

if TYPE_CHECKING:
    from aquasim.runtime.copy import Copier


@dataclass(frozen=True, slots=True, eq=False)
class Hosted:
    """A decode on the host: its newest token, that token's position, and its blocks in the host's pool, in order."""

    id: int
    token: int
    position: int
    blocks: Sequence[int]
    sampling: Sampling = GREEDY


class Sides(NamedTuple):
    """The host's decodes of a step: those of the sub-batch that has everything else too, and those of the other."""

    first: Sequence[Hosted] = ()
    second: Sequence[Hosted] = ()


NOBODY = Sides()

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Attend]
"""Tokens, positions and slots of the device's own rows, and their attention."""


class Rows(NamedTuple):
    """Rows of a sub-batch on the device, the host's decodes and what fills up a padded shape included.

    `slots` are where keys and values of the first rows go in the device's pool. `staged` are (first row,
    tokens, slots in the host's pool) of staged prompts. The host's decodes begin at row `hosted`.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    attend: Attend
    staged: Sequence[tuple[int, int, torch.Tensor]]
    hosted: int


class HostLanes:
    """The host's side of a runner: its pool, the threads that attend, the way there and back; close it after use.

    `pool` is in host memory (pinned where the runner is on a GPU), blocks as large as the runner's. `threads` cores
    attend, `max_seqs` requests at most in a sub-batch. `copier` moves staged prompts off a GPU; the CPU needs none.
    Raises ValueError as HostAttention, and for a GPU without a copier.
    """

    def __init__(
        self, pool: KvPool, heads: int, *, max_seqs: int = 256, device: str | torch.device = "cpu", threads: int = 1,
        kernel: Kernel = "auto", copier: "Copier | None" = None,
    ) -> None:  # fmt: skip
        self.pool = pool
        self.attention = HostAttention(pool, heads, threads=threads, kernel=kernel)
        self.wires = [open_wire(pool, heads, max_seqs, torch.device(device), copier) for _ in range(2)]
        self.computed = 0
        """Attentions of one request in one layer that the host computed."""
        self.staged = 0
        """Bytes of staged prompts that went to the host's pool."""
        self._thread = ThreadPoolExecutor(1, "host-attention")

    def side(self, number: int, decodes: Sequence[Hosted]) -> "HostSide | None":
        """Return what attends for the host's decodes of sub-batch `number` (0 or 1); None where there are none."""
        return HostSide(self, self.wires[number], decodes) if decodes else None

    def slots(self, blocks: Sequence[int], first: int, last: int) -> torch.Tensor:
        """Return the slots of positions `first` to `last` - 1 of a sequence in the host's pool."""
        positions = np.arange(first, last)
        held = np.asarray(blocks, np.int64)[positions // self.pool.block_size]
        return torch.from_numpy(self.pool.slots(held, positions))

    def submit(self, work: "HostSide", layer: int, arrived: torch.Tensor) -> "Future[None]":
        """Have a layer's attention computed in the host's own thread, one after the other."""
        return self._thread.submit(work.compute, layer, arrived)

    def settle(self) -> None:
        """Block until every staged prompt is in the host's pool."""
        for wire in self.wires:
            wire.settle()

    def close(self) -> None:
        """End threads; closing twice is harmless."""
        self._thread.shutdown()
        self.attention.close()


class HostSide:
    """The host's decodes of one sub-batch in one step."""

    def __init__(self, host: HostLanes, wire: Wire, decodes: Sequence[Hosted]) -> None:
        self.host, self._wire = host, wire
        self.count = len(decodes)
        self._work: Work = host.attention.plan([d.blocks for d in decodes], [d.position + 1 for d in decodes])
        self._slots = torch.cat([host.slots(d.blocks, d.position, d.position + 1) for d in decodes])
        self._out = wire.room(self.count)
        self._pending: Future[None] | None = None

    def start(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Send a layer's queries, keys and values `[count, heads, head_dim]` to the host, and let it attend."""
        arrived = self._wire.send(torch.cat((queries, keys, values), dim=1))
        self._pending = self.host.submit(self, layer, arrived)

    def compute(self, layer: int, arrived: torch.Tensor) -> None:
        """Keep the new keys and values, and attend; on the host's thread."""
        with torch.inference_mode():
            self._wire.wait()
            heads, pool = self.host.attention.heads, self.host.pool
            queries = arrived[:, :heads].float().contiguous()
            pool.write(layer, self._slots, arrived[:, heads : -pool.kv_heads], arrived[:, -pool.kv_heads :])
            self.host.attention.attend(self._work, layer, queries, self._out)
            self.host.computed += self.count

    def finish(self) -> torch.Tensor:
        """Wait for the layer that was started; return `[count, heads * head_dim]` in float32 on the device."""
        assert self._pending is not None, "nothing was started"
        self._pending.result()
        self._pending = None
        return self._wire.back(self._out).flatten(1)


class Lane:
    """One sub-batch on its way through the layers."""

    def __init__(self, model: Model, rows: Rows, host: HostLanes, side: HostSide | None, wire: Wire) -> None:
        self._model, self._rows, self._host, self._side, self._wire = model, rows, host, side, wire
        self.hidden = model.embed(rows.tokens)
        self._turn = model.turn(rows.positions)
        self._attended: torch.Tensor | None = None

    def begin(self, layer: int) -> None:
        """Compute queries, keys and values; send off what the host is to have of them."""
        rows = self._rows
        self._now = queries, keys, values = self._model.before(layer, self.hidden, self._turn)
        mine = len(rows.slots)
        if mine:
            self._model.pool.write(layer, rows.slots, keys[:mine], values[:mine])
        if rows.staged:
            first, last = rows.staged[0][0], rows.hosted
            slots = torch.cat([slots for _, _, slots in rows.staged])
            self._host.staged += self._wire.stage(layer, slots, keys[first:last], values[first:last])
        if self._side is not None:
            part = slice(rows.hosted, rows.hosted + self._side.count)
            self._side.start(layer, queries[part], keys[part], values[part])

    def attend(self, layer: int) -> None:
        """Compute the device's part of the attention."""
        queries, keys, values = self._now
        attended = self._rows.attend(layer, queries)
        whole = attended.view(queries.shape)
        for first, count, _ in self._rows.staged:
            part = slice(first, first + count)
            whole[part] = attend_whole(queries[part], keys[part], values[part])
        self._attended = attended

    def end(self, layer: int) -> None:
        """Put both parts of the attention together and compute the rest of the layer."""
        if self._attended is None:
            self.attend(layer)
        attended, self._attended = self._attended, None
        assert attended is not None
        if self._side is not None:
            first = self._rows.hosted
            attended[first : first + self._side.count] = self._side.finish()
        self.hidden = self._model.after(layer, self.hidden, attended)


def sub_batch(
    model: Model, host: HostLanes, number: int, inputs: Inputs,
    staged: Sequence[tuple[Sequence[int], Sequence[int]]], hosted: Sequence[Hosted],
) -> Lane | None:  # fmt: skip
    """Put a sub-batch together: the device's rows, staged prompts (tokens, blocks of the host), the host's decodes.

    Returns None where it would be empty.
    """
    tokens, positions, slots, attend = inputs
    new, at, places, end = (
        [each.token for each in hosted],
        [each.position for each in hosted],
        [],
        len(tokens),
    )
    for prompt, blocks in staged:
        places.append((end, len(prompt), host.slots(blocks, 0, len(prompt))))
        end += len(prompt)
    new = [token for prompt, _ in staged for token in prompt] + new
    at = [position for prompt, _ in staged for position in range(len(prompt))] + at
    more = torch.tensor([new, at], dtype=torch.int64).to(tokens.device)
    tokens, positions = torch.cat((tokens, more[0])), torch.cat((positions, more[1]))
    if not len(tokens):
        return None
    rows = Rows(model.fill_up(tokens), model.fill_up(positions), slots, attend, places, end)
    return Lane(model, rows, host, host.side(number, hosted), host.wires[0])


def run(lanes: Sequence[Lane], layers: int) -> list[torch.Tensor]:
    """Take one or two sub-batches through all layers in turn; return their `[rows, hidden]`.

    While the device is at post_i and pre_i+1 of one, the host attends for the other; the device's own attention of
    the first comes after the products of the second (NEO, section 2.3).
    """
    for lane in lanes:
        lane.begin(0)
    lanes[0].attend(0)
    for layer in range(layers):
        more = layer + 1 < layers
        for lane in lanes:
            lane.end(layer)
            if more:
                lane.begin(layer + 1)
        if more:
            lanes[0].attend(layer + 1)
    return [lane.hidden for lane in lanes]
