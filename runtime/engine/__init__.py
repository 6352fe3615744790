"""A Llama-family model runner in torch: weights, paged KV cache, attention, one forward per step.

What runs when, and which block belongs to whom, is decided elsewhere and passed in.

    config = LlamaConfig.read("model.gguf")
    pool = KvPool.of(config, blocks=1024, block_size=16)
    runner = Runner(config, load_weights("model.gguf", config), pool)
    tokens = runner.step([Prefill(1, prompt, start=0, blocks=(7, 3))])
    runner.batch.join(1, tokens[1], position=len(prompt), blocks=(7, 3))
    tokens = runner.step()  # {1: the next token}

Torch is loaded when a name that needs it is first asked for; `LlamaConfig` needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquasim.runtime.engine.attention import Attention
    from aquasim.runtime.engine.batch import DecodeBatch
    from aquasim.runtime.engine.config import LlamaConfig, RopeScaling
    from aquasim.runtime.engine.lanes import Hosted, HostLanes, Sides
    from aquasim.runtime.engine.parallel import Ranks
    from aquasim.runtime.engine.pool import KvPool
    from aquasim.runtime.engine.runner import Prefill, Runner
    from aquasim.runtime.engine.sampling import Sampling
    from aquasim.runtime.engine.weights import Weights, load_weights, random_weights

__all__ = [
    "Attention",
    "DecodeBatch",
    "HostLanes",
    "Hosted",
    "KvPool",
    "LlamaConfig",
    "Prefill",
    "Ranks",
    "RopeScaling",
    "Runner",
    "Sampling",
    "Sides",
    "Weights",
    "load_weights",
    "random_weights",
]

_MODULES = {
    "Attention": "attention",
    "DecodeBatch": "batch",
    "HostLanes": "lanes",
    "Hosted": "lanes",
    "KvPool": "pool",
    "LlamaConfig": "config",
    "Prefill": "runner",
    "Ranks": "parallel",
    "RopeScaling": "config",
    "Runner": "runner",
    "Sampling": "sampling",
    "Sides": "lanes",
    "Weights": "weights",
    "load_weights": "weights",
    "random_weights": "weights",
}


def __getattr__(name: str) -> Any:
    """Load a public name's module when it is first asked for."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
