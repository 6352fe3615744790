"""Tokens for a workload that has lengths only: by seed, and equal where prefixes are shared."""

from collections.abc import Sequence

import numpy as np


def prompt_tokens(
    request: int, length: int, prefix: Sequence[int], block_size: int, vocab: int, seed: int
) -> list[int]:
    """Return `length` tokens below `vocab`.

    The block that a prefix hash stands for has the tokens of that hash, whoever asks; the rest are the request's own.
    """
    parts = [_draw(abs(int(hash)), 1, block_size, vocab, seed) for hash in prefix]
    own = length - block_size * len(parts)
    assert own >= 0, "a prefix is longer than its prompt"
    parts.append(_draw(request, 2, own, vocab, seed))
    return [token for part in parts for token in part]


def _draw(key: int, kind: int, count: int, vocab: int, seed: int) -> list[int]:
    drawn: list[int] = np.random.default_rng([seed, kind, key]).integers(0, vocab, count).tolist()
    return drawn
