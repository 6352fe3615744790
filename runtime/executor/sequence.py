"""What the executor knows of a request: its tokens, when it ends, and when things happened."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NOWHERE = -2
"""Stands for no step: the one before the first is -1."""
OnToken = Callable[[int, int, bool], None]
"""Called with (request, token, whether it was the last)."""


@dataclass(eq=False, slots=True)
class Sequence:
    """A request's tokens, prompt first. The newest generated one is not computed yet. Times are ns."""

    id: int
    tokens: list[int]
    prompt: int
    output: int
    """Most tokens to generate."""
    arrival: int
    sampling: Any
    stop: frozenset[int] = frozenset()
    """Tokens that end it."""
    on_token: OnToken | None = None
    adapter: int = -1
    """Number of its LoRA adapter; -1: none."""
    admitted: int = -1
    first_token: int = -1
    cached: int = 0
    joined: int = 0
    """Step in which it began to decode."""
    decoding: bool = False
    hosted: int = NOWHERE
    """The last step in which it decoded on the host's cores, while that run of steps goes on."""
    since: int = NOWHERE
    """The first step of that run."""
    repaired: int = field(default=0)
    """Tokens computed again because their pages came back spoilt."""

    @property
    def generated(self) -> list[int]:
        """The output so far."""
        return self.tokens[self.prompt :]

    @property
    def todo(self) -> int:
        """Tokens that may still be generated."""
        return self.output - (len(self.tokens) - self.prompt)

    def take(self, token: int, now: int) -> bool:
        """Append a generated token at `now`; say whether it was the last."""
        self.tokens.append(token)
        if self.first_token < 0:
            self.first_token = now
        last = self.todo == 0 or token in self.stop
        if self.on_token is not None:
            self.on_token(self.id, token, last)
        return last
