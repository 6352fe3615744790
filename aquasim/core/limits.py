"""The fixed sizes of one engine."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one engine may hold and do in an iteration; names as in vLLM.

    Raises:
        ValueError: a size is not positive, or `max_model_len` does not fit the pool.
    """

    blocks: int
    """KV blocks in HBM."""
    block_size: int = 16
    """Tokens in a block."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_len: int = 0
    """Longest sequence, prompt and output; 0: whatever the pool holds."""
    long_prefill_token_threshold: int = 0
    """Longest chunk of one prompt while others want to run; 0: no bound."""
    prefix_caching: bool = False
    prefill: Literal["chunked", "prompt-only"] = "chunked"
    """Chunks beside decodes (vLLM V1), or iterations of whole prompts before any decode (vLLM 0.3)."""
    tiers: tuple[tuple[str, int], ...] = field(default=())
    """Where paged-out blocks go, in order of preference: (name, blocks)."""
    max_loras: int = 0
    """Most different adapters among the requests that run; 0: no bound."""
    max_repeat: int = 4096
    """Most iterations one step may stand for; 1 for executors that run them one by one."""

    def __post_init__(self) -> None:
        for name in ("blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_repeat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_model_len < 0 or self.long_prefill_token_threshold < 0:
            raise ValueError("max_model_len and long_prefill_token_threshold must not be negative")
        if self.max_loras < 0:
            raise ValueError(f"max_loras is {self.max_loras}; it must not be negative")
        room = self.blocks * self.block_size
        if self.max_model_len == 0:
            object.__setattr__(self, "max_model_len", room)
        if self.max_model_len > room:
            raise ValueError(
                f"max_model_len is {self.max_model_len} tokens, but the KV pool holds only {room}"
                f" ({self.blocks} blocks of {self.block_size}); lower max_model_len or give more memory"
            )
