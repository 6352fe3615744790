"""One step of the engine: prefill chunks and the decode batch in one forward pass, and the tokens it chooses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from aquasim.runtime.engine.attention import Attend, Decodes, Span, make_attention
from aquasim.runtime.engine.batch import DecodeBatch
from aquasim.runtime.engine.config import LlamaConfig
from aquasim.runtime.engine.deltas import Delta, Loras
from aquasim.runtime.engine.graphs import DecodeGraphs
from aquasim.runtime.engine.lanes import NOBODY, Hosted, HostLanes, Sides, run, sub_batch
from aquasim.runtime.engine.model import Model
from aquasim.runtime.engine.parallel import Ranks
from aquasim.runtime.engine.pool import KvPool
from aquasim.runtime.engine.sampling import GREEDY, Choices, Sampling, choose
from aquasim.runtime.engine.weights import Weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """A chunk of a prompt: `tokens` from position `start` on, whose predecessors are in `blocks` already.

    `blocks` are those of the whole sequence, in order. `samples`: choose the token that follows the chunk.
    `adapter` is the slot of its LoRA adapter; -1: none. `staged`: a whole prompt whose keys and values go to the
    host's pool, in `blocks` of that pool, layer by layer.
    """

    id: int
    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    samples: bool = True
    sampling: Sampling = GREEDY
    adapter: int = -1
    staged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """Rows of one step: those of the decode batch, then the chunks', then what fills up a padded shape."""

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    attend: Attend


class Runner:
    """Runs a model over a pool. Which request runs, and in which blocks, comes from outside.

    `attention` is `sdpa` or `triton`; by default Triton on a GPU, `sdpa` elsewhere. `max_seqs` is the most sequences
    that decode together, `max_len` the most tokens of one (by default what model and pool hold). On a GPU with
    Triton, pure decodes run as CUDA graphs unless `graphs` is false.

    `padded` is the mode for tests: each product and norm runs at exactly that many rows, and attention request by
    request, so that a request's tokens and the bytes of its pages do not depend on what else runs, or where its
    blocks are. Slow, and no graphs.

    On several GPUs, `device` is the current one (torch.cuda.set_device).

    `loras` are slots with LoRA adapters, which rows name by number; what is in them may change between steps for
    slots that no row names. Not with several ranks.

    With `world` ranks, each process makes one with its `rank`, its part of the weights and its pool, and gives all
    ranks the same calls in the same order; all return the same tokens. Torch.distributed is initialised before.

    `host` is where some requests' keys and values stay, and the cores that attend to them (NEO).

    Raises ValueError where weights, pool and config do not fit each other, RuntimeError as `Ranks`, and where
    `padded` does not make rows independent.
    """

    def __init__(
        self, config: LlamaConfig, weights: Weights, pool: KvPool, *, attention: str | None = None,
        device: str | torch.device = "cpu", padded: int | None = None, max_seqs: int = 256, max_len: int = 0,
        graphs: bool = True, rank: int = 0, world: int = 1, group: "ProcessGroup | None" = None,
        loras: Loras | None = None, host: HostLanes | None = None,
    ) -> None:  # fmt: skip
        self.device = torch.device(device)
        _fit(config, weights, pool, self.device, rank, world)
        if loras is not None and world > 1:
            raise ValueError(f"adapters are whole on one rank; there are {world} ranks")
        if padded is not None and padded < 1:
            raise ValueError(f"padded is {padded}; it must be at least 1, or None")
        if host is not None and loras is not None:
            raise ValueError(
                "adapters are for requests on the GPU: there are none beside a host that attends"
            )
        self.config, self.pool, self.loras, self.host = config, pool, loras, host
        self._padded = padded or 0
        self.max_len = _longest(config, pool, max_len)
        blocks = -(-self.max_len // pool.block_size)
        self.batch = DecodeBatch(max_seqs, blocks, pool.block_size, pool.idle, self.device)
        """The sequences that decode: `join`, `leave` and `grow` it between steps."""
        ranks = Ranks(rank, world, group)
        self.model = Model(config, weights, pool, ranks, blocks * pool.block_size, padded or 0)
        name = attention or ("triton" if self.device.type == "cuda" else "sdpa")
        self.attention = make_attention(name, pool, self.model.heads, max_seqs, alone=padded is not None)
        self._graphs: DecodeGraphs | None = None
        if padded is not None:
            with torch.inference_mode():
                self.model.check_rows()
        elif graphs and self.device.type == "cuda" and self.attention.capturable:
            self._graphs = DecodeGraphs(self._captured, max_seqs, self.device)

    def step(
        self, chunks: Sequence[Prefill] = (), decode: bool = True, sides: Sides = NOBODY
    ) -> dict[int, int]:
        """Run the chunks and, if `decode`, each sequence of the batch by one token; return who got which token.

        The device is done then, and the batch has taken its tokens; a chunk's request joins it by the caller's hand.
        Chunks of one request must not be in one step twice. `sides` are decodes on the host, in two sub-batches of
        which the first has everything else; their callers keep account of tokens. Raises ValueError for a chunk
        outside its blocks or the model's positions, and for a decode whose next block is missing; nothing has changed
        then.
        """
        rows = self.batch.count if decode else 0
        hosted = [*sides.first, *sides.second]
        if not rows and not chunks and not hosted:
            return {}
        for chunk in chunks:
            self._check(chunk)
        if rows:
            self.batch.begin()
        with torch.inference_mode():
            laned = bool(hosted) or any(chunk.staged for chunk in chunks)
            logits = self._laned(chunks, rows, sides) if laned else self._logits(chunks, rows)
            tokens = choose(logits, self._choices(chunks, rows, hosted)).cpu().numpy()
        if not len(
            tokens
        ):  # a copy of nothing waits for nothing, and these keys and values may be paged out next
            self._wait()
        if rows:
            self.batch.advance(tokens[:rows])
        ids = self.batch.ids[:rows] + [chunk.id for chunk in chunks if chunk.samples] + [h.id for h in hosted]
        return dict(zip(ids, tokens.tolist(), strict=True))

    def logits(self, chunks: Sequence[Prefill] = (), decode: bool = True) -> torch.Tensor:
        """Return logits `[sampling rows, vocab]` on the CPU: the batch in the order of its `ids`, then the chunks.

        Keys and values are written as in `step`, but no token is chosen and the batch does not advance.
        """
        rows = self.batch.count if decode else 0
        for chunk in chunks:
            self._check(chunk)
        if rows:
            self.batch.begin()
        with torch.inference_mode():
            return self._logits(chunks, rows).cpu()  # waits for the device: its inputs may change now

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _laned(self, chunks: Sequence[Prefill], rows: int, sides: Sides) -> torch.Tensor:
        """Run a step of which the host has a part; logits of decodes, chunks, and the host's decodes."""
        assert self.host is not None, "this runner has no host that attends"
        model, none = self.model, torch.zeros(0, dtype=torch.int64, device=self.device)
        inputs = self._gathered([chunk for chunk in chunks if not chunk.staged], rows)
        staged = [(chunk.tokens, chunk.blocks) for chunk in chunks if chunk.staged]
        one = (inputs.tokens, inputs.positions, inputs.slots, inputs.attend)
        other = (none, none, none, self.attention.prepare(None, ()))
        lanes = [
            sub_batch(model, self.host, 0, one, staged, sides.first),
            sub_batch(model, self.host, 1, other, [], sides.second),
        ]
        done = run([lane for lane in lanes if lane is not None], self.config.layers)
        self.host.settle()
        end = rows + sum(len(chunk.tokens) for chunk in chunks)
        wanted = [
            _wanted(chunks, rows) + list(range(end, end + len(sides.first))),
            list(range(len(sides.second))),
        ]
        picked = [rows for lane, rows in zip(lanes, wanted, strict=True) if lane is not None]
        hidden = torch.cat([hidden[rows] for hidden, rows in zip(done, picked, strict=True)])
        return model.logits(model.fill_up(hidden))[: len(hidden)]

    def _logits(self, chunks: Sequence[Prefill], rows: int) -> torch.Tensor:
        if self._graphs is not None and rows and not chunks:
            return self._graphs.run(rows)
        inputs, delta = self._inputs(chunks, rows), self._delta(chunks, rows)
        hidden = self.model.forward(inputs.tokens, inputs.positions, inputs.slots, inputs.attend, delta)
        wanted = _wanted(chunks, rows)
        if len(wanted) != len(hidden):
            hidden = hidden[torch.tensor(wanted, dtype=torch.int64, device=self.device)]
        return self.model.logits(self.model.fill_up(hidden))[: len(wanted)]

    def _captured(self, rows: int) -> torch.Tensor:
        """Run the first rows of the batch from its own arrays, without a look at them on the host."""
        inputs = self._decoding(rows, 0)
        delta = self.loras.masked(self.batch.adapters.device[:rows]) if self.loras is not None else None
        hidden = self.model.forward(inputs.tokens, inputs.positions, inputs.slots, inputs.attend, delta)
        return self.model.logits(hidden)

    def _delta(self, chunks: Sequence[Prefill], rows: int) -> Delta | None:
        """Return what adapters add to the rows of a step."""
        if self.loras is None:
            return None
        parts = [np.full(len(chunk.tokens), chunk.adapter, np.int64) for chunk in chunks]
        return self.loras.delta(np.concatenate([self.batch.adapters.host[:rows], *parts]), self._padded)

    def _decoding(self, rows: int, longest: int, spans: Sequence[Span] = ()) -> _Inputs:
        batch, size = self.batch, self.pool.block_size
        tokens, positions, tables = (c.device[:rows] for c in (batch.tokens, batch.positions, batch.tables))
        blocks = tables.gather(1, (positions // size).unsqueeze(1)).squeeze(1).long()
        attend = self.attention.prepare(Decodes(tables, positions, longest) if rows else None, spans)
        return _Inputs(tokens, positions, self.pool.slots(blocks, positions), attend)

    def _inputs(self, chunks: Sequence[Prefill], rows: int) -> _Inputs:
        """Put decodes and chunks together, and fill up a padded shape."""
        found, fill = self._gathered(chunks, rows), self.model.fill_up
        return _Inputs(fill(found.tokens), fill(found.positions), found.slots, found.attend)

    def _gathered(self, chunks: Sequence[Prefill], rows: int) -> _Inputs:
        columns, spans = [], []
        end = rows
        for chunk in chunks:
            blocks = np.asarray(chunk.blocks, np.int64)
            positions = np.arange(chunk.start, chunk.start + len(chunk.tokens))
            slots = self.pool.slots(blocks[positions // self.pool.block_size], positions)
            columns.append((np.asarray(chunk.tokens, np.int64), positions, slots))
            on_device = torch.from_numpy(blocks).to(self.device)
            spans.append(Span(end, len(positions), chunk.start, on_device))
            end += len(positions)
        decoding = self._decoding(rows, self.batch.longest() if rows else 0, spans)
        parts = [decoding.tokens, decoding.positions, decoding.slots]
        if columns:
            new = torch.from_numpy(np.hstack([np.stack(column) for column in columns])).to(self.device)
            parts = [torch.cat(pair) for pair in zip(parts, new, strict=True)]
        return _Inputs(parts[0], parts[1], parts[2], decoding.attend)

    def _choices(self, chunks: Sequence[Prefill], rows: int, hosted: Sequence[Hosted] = ()) -> Choices:
        sampled = [(chunk.sampling, chunk.start + len(chunk.tokens)) for chunk in chunks if chunk.samples]
        sampled += [(each.sampling, each.position + 1) for each in hosted]
        if not sampled:
            return self.batch.choices() if rows else Choices.of([], [])
        samplings, ends = zip(*sampled, strict=True)
        choices = Choices.of(list(samplings), list(ends))
        return self.batch.choices().joined(choices) if rows else choices

    def _check(self, chunk: Prefill) -> None:
        end = chunk.start + len(chunk.tokens)
        if not len(chunk.tokens) or chunk.start < 0:
            raise ValueError(f"request {chunk.id}: a chunk needs tokens from 0 on, not {chunk.start}..{end}")
        if not -1 <= chunk.adapter < (0 if self.loras is None else self.loras.count):
            raise ValueError(f"request {chunk.id}: there is no slot {chunk.adapter} for adapters")
        if chunk.staged and (self.host is None or chunk.start):
            raise ValueError(f"request {chunk.id}: whole prompts are staged, by a runner that has a host")
        if end > min(len(chunk.blocks) * self.pool.block_size, self.max_len):
            raise ValueError(
                f"request {chunk.id}: its {len(chunk.blocks)} blocks, or {self.max_len} positions, end before {end}"
            )


def _wanted(chunks: Sequence[Prefill], rows: int) -> list[int]:
    """Return the rows that are to choose a token: all decodes, and the last of each chunk that does."""
    wanted, end = list(range(rows)), rows
    for chunk in chunks:
        end += len(chunk.tokens)
        wanted += [end - 1] if chunk.samples else []
    return wanted


def _longest(config: LlamaConfig, pool: KvPool, max_len: int) -> int:
    """Return the most tokens of a sequence: what is asked for, or all that model and pool hold."""
    room = min(config.max_positions, pool.blocks * pool.block_size)
    if not 0 <= max_len <= room:
        raise ValueError(f"max_len is {max_len}; model and pool hold at most {room} tokens of a sequence")
    return max_len or room


def _fit(
    config: LlamaConfig, weights: Weights, pool: KvPool, device: torch.device, rank: int, world: int
) -> None:
    """Raise ValueError unless weights and pool are this rank's of this model, alike in type and place."""
    shard = config.shard(rank, world)
    pairs = {
        "rank and world of the weights": ((weights.rank, weights.world), (rank, world)),
        "layers of the weights": (len(weights.layers), config.layers),
        "layers of the pool": (pool.layers, config.layers),
        "KV heads of the pool": (pool.kv_heads, shard.kv_heads),
        "head_dim of the pool": (pool.head_dim, config.head_dim),
        "dtype of the pool": (pool.dtype, weights.dtype),
        "device of the pool": (pool.device.type, device.type),
        "device of the weights": (weights.device.type, device.type),
    }
    for what, (found, needed) in pairs.items():
        if found != needed:
            raise ValueError(f"{what}: {found}, but {needed} is needed")
