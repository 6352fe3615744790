"""Generates one sequence whose KV cache is partly elsewhere."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from aquasim.records.tables import RunTables
from aquasim.runtime.engine import LlamaConfig, Sampling, Weights
from aquasim.runtime.engine.model import Model
from aquasim.runtime.engine.parallel import Ranks
from aquasim.runtime.engine.sampling import GREEDY, Choices, choose
from aquasim.runtime.longprompt.cache import SplitKv, Traffic
from aquasim.runtime.tensors import Moves, PeerPool


@dataclass(frozen=True, slots=True)
class Iteration:
    """One token, or one chunk of the prompt: its time, copies, and what moved between lender and host before it."""

    tokens: int
    seconds: float
    traffic: Traffic
    moves: Moves


class LongPrompt:
    """Runs a model for one sequence of at most `tokens` tokens, a `share` of its KV heads elsewhere.

    Elsewhere is `pool`: memory that others lend, and the host's as far as that does not reach. The share is one of
    every layer's KV heads, to the nearest head (FlexGen's `--percent 100 0 50 50 100 0`: half; AQUA, long prompts).
    Between two iterations the pool responds, and a donor may have its memory back. For one thread; several sequences
    one after another. Every token is a row of `tables.work`, with the bytes that were read for it.

    `padded` is as for the runner: products at exactly so many rows, for comparisons bit by bit.

    Raises:
        ValueError: a share outside 0 to 1, tokens beyond the model's positions, a segment below 1, weights of a
            part of the model only.
    """

    def __init__(
        self, config: LlamaConfig, weights: Weights, pool: PeerPool, *, tokens: int, share: float = 0.5,
        segment: int = 512, device: str | torch.device = "cpu", padded: int | None = None,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        _check(config, weights, tokens, share, segment)
        self.config, self.pool = config, pool
        self.remote = round(share * config.kv_heads)
        """KV heads of every layer that are not on the device."""
        self.tables = RunTables()
        self.iterations: list[Iteration] = []
        self._device, self._now = torch.device(device), now
        self._kv = SplitKv(
            config, self.remote, tokens, segment, pool, dtype=weights.dtype, device=self._device
        )
        self._model = Model(config, weights, self._kv, Ranks(), tokens, padded or 0)

    @property
    def remote_bytes(self) -> tuple[int, int]:
        """Bytes of KV cache in leased memory and in host memory."""
        return self._kv.remote_bytes

    @property
    def cached(self) -> int:
        """Tokens whose keys and values are there."""
        return self._kv.cached

    def step(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """Compute the next tokens of the sequence and return the one that follows them.

        Raises ValueError for none or too many of them, PoolFullError if neither lenders nor the host have room.
        """
        end = self.cached + len(tokens)
        if not tokens or end > self._kv.tokens:
            raise ValueError(f"{len(tokens)} tokens after {self.cached}; the cache holds {self._kv.tokens}")
        start = self._now()
        moves = self.pool.respond()
        with torch.inference_mode():
            self._kv.begin(len(tokens))
            chosen = choose(self._logits(tokens), Choices.of([sampling], [end]))
            token = int(chosen.item())
            traffic = self._kv.end()
        self._record(len(tokens), start, traffic, moves)
        return token

    def generate(
        self, prompt: Sequence[int], count: int, *, chunk: int = 0, sampling: Sampling = GREEDY,
        stop: Sequence[int] = (), on_token: Callable[[int], object] | None = None,
    ) -> list[int]:  # fmt: skip
        """Begin a new sequence and return `count` tokens after `prompt`, or fewer if one of `stop` comes.

        The prompt is computed `chunk` tokens at a time (0: at once). Raises as `step`.
        """
        self.clear()
        told: list[int] = []
        pieces = [
            prompt[at : at + (chunk or len(prompt))] for at in range(0, len(prompt), chunk or len(prompt))
        ]
        for piece in pieces:
            token = self.step(piece, sampling)
        while True:
            told.append(token)
            if on_token is not None:
                on_token(token)
            if len(told) == count or token in stop:
                return told
            token = self.step([token], sampling)

    def clear(self) -> None:
        """Forget the sequence; its memory elsewhere is free again."""
        self._kv.clear()

    def close(self) -> None:
        """Free what is elsewhere; the pool stays the caller's."""
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return logits `[1, vocab]` after the last token."""
        model, count = self._model, len(tokens)
        rows = torch.tensor(tokens, dtype=torch.int64, device=self._device)
        positions = torch.arange(self.cached, self.cached + count, device=self._device)
        hidden = model.forward(model.fill_up(rows), model.fill_up(positions), positions, self._kv.attend)
        return model.logits(model.fill_up(hidden[count - 1 : count]))[:1]

    def _record(self, count: int, start: int, traffic: Traffic, moves: Moves) -> None:
        end = self._now()
        self.iterations.append(Iteration(count, (end - start) / 1e9, traffic, moves))
        self.tables.work(start, end, 1, traffic.peer_read, traffic.host_read)


def _check(config: LlamaConfig, weights: Weights, tokens: int, share: float, segment: int) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must be between 0 and 1")
    if not 0 < tokens <= config.max_positions:
        raise ValueError(f"tokens is {tokens}; it must be 1 to {config.max_positions}, the model's positions")
    if segment < 1:
        raise ValueError(f"segment is {segment}; it must be at least 1")
    if weights.world > 1:
        raise ValueError(f"the weights are a part of {weights.world}; a long prompt runs on one rank")
