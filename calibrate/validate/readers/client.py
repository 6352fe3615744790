"""What the load generator of two datasets does: shared-prefix prompts that repeat, in stages of constant rate."""

import numpy as np
from numpy.typing import NDArray

from aquasim.hardware.serving import Sampling

PROMPTS = 100
"""The client sends request i the prompt of request i - 100: the prefix cache hits from the second round on."""
BLOCK = 16
FEWER_BLOCKS = 1 << 20

# vLLM takes what clients leave out from the model's generation_config.json: these set top_p, or top_k.
TOP_P = ("meta-llama/Llama-2-", "meta-llama/Llama-3.1-", "Qwen/Qwen3-", "Qwen/Qwen2.5-")


def sampling_of(model: str) -> Sampling:
    """Return how a model chooses tokens when the client does not say."""
    return "top-p" if model.startswith(TOP_P) else "greedy"


def repeated_prefixes(prompt: NDArray[np.int64], shared: int = 0, groups: int = 1) -> list[tuple[int, ...]]:
    """Return prefix hashes, one per block of 16 tokens, for prompts that repeat every `PROMPTS` requests.

    The first `shared` tokens are the same for all prompts of one of `groups` groups: a system prompt.
    """
    common = shared // BLOCK
    return [
        (
            *range(
                -(i % PROMPTS % groups + 1) * FEWER_BLOCKS,
                -(i % PROMPTS % groups + 1) * FEWER_BLOCKS + common,
            ),
            *range(i % PROMPTS * FEWER_BLOCKS + common, i % PROMPTS * FEWER_BLOCKS - (-int(tokens) // BLOCK)),
        )
        for i, tokens in enumerate(prompt)
    ]
