"""A prompt whose KV cache does not fit: a share of every layer's heads in memory that others lend (FlexGen, AQUA).

with PeerPool(None, "long", want_bytes=16 << 30, host_bytes=16 << 30, device=0) as pool:
    engine = LongPrompt(config, weights, pool, tokens=32768, share=0.5, device="cuda")
    tokens = engine.generate(prompt, 128)
    engine.iterations[-1].traffic    # bytes read from lenders and from the host for the last token
    engine.close()
"""

from aquasim.runtime.longprompt.cache import SplitKv, Traffic
from aquasim.runtime.longprompt.engine import Iteration, LongPrompt

__all__ = ["Iteration", "LongPrompt", "SplitKv", "Traffic"]
