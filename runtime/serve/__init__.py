"""An OpenAI-compatible server over the executor: completions with streaming, cancellation and metrics."""

from aquasim.runtime.serve.engine import Engine, Stream
from aquasim.runtime.serve.text import Tokenizer, load_tokenizer

__all__ = ["Engine", "Stream", "Tokenizer", "load_tokenizer"]
