"""A small model, a prompt, and what the ordinary runner says with its whole cache in one pool."""

import math

import torch

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, random_weights
from aquasim.runtime.longprompt import LongPrompt

CONFIG = LlamaConfig(
    vocab=97, hidden=64, layers=5, heads=8, kv_heads=4, head_dim=16, intermediate=96, max_positions=512
)
WEIGHTS = random_weights(CONFIG, seed=5)
PROMPT = [(31 * i * i + 7 * i) % 97 for i in range(75)]
PADDED, COUNT = 16, 40
ROW = 2 * CONFIG.head_dim * 4
"""Bytes of one token's keys and values in one head of one layer."""


def ordinary(
    count: int, padded: int | None = PADDED, device: str = "cpu"
) -> tuple[list[int], list[torch.Tensor]]:
    """Return what the runner says after the prompt, and the logits behind each token."""
    pool = KvPool.of(CONFIG, 32, 16, device=device, fill=math.nan)
    weights = random_weights(CONFIG, seed=5, device=device)
    runner = Runner(CONFIG, weights, pool, padded=padded, device=device)
    blocks = range(32)
    rows = [runner.logits([Prefill(1, PROMPT, 0, blocks)])[0]]
    runner.batch.join(1, int(rows[0].argmax()), len(PROMPT), blocks)
    while len(rows) < count:
        rows.append(runner.logits()[0])
        runner.batch.advance(rows[-1:][0].argmax().view(1).numpy())
    return [int(row.argmax()) for row in rows], rows


class Noted(LongPrompt):
    """Keeps the logits behind every token."""

    def __init__(self, *words: object, **options: object) -> None:
        super().__init__(*words, **options)  # type: ignore[arg-type]
        self.logits: list[torch.Tensor] = []

    def _logits(self, tokens: object) -> torch.Tensor:
        found = super()._logits(tokens)  # type: ignore[arg-type]
        self.logits.append(found[0].cpu())
        return found
