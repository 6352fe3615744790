"""Multi-level feedback queues with skip-join, after FastServe (Wu et al., 2023)."""

from typing import TYPE_CHECKING

from aquasim.core.policies.base import FOREVER, Policy
from aquasim.core.queues import Queue, Ranked
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

_ORDER = 1 << 40


class Mlfq(Policy):
    """Skip-join multi-level feedback: quanta double per level, a used-up quantum demotes, starvation promotes.

    A newcomer joins the first level whose quantum covers its prefill (`prompt_tokens` * 2^level prompt tokens),
    so that long prompts do not pass through levels they would use up at once. Within a level, first come first
    served. A request kept out for `starvation_s` seconds returns to the top level with a fresh quantum.

    Args:
        quantum: tokens a request may generate on the top level.
        prompt_tokens: longest prompt that joins the top level.
        levels: number of levels; the last one has no end.
        starvation_s: seconds out of memory after which a request is promoted.
    """

    sliced = True
    ranked = True
    pages = True

    def __init__(
        self, *, quantum: int = 16, prompt_tokens: int = 256, levels: int = 8, starvation_s: float = 60.0
    ) -> None:
        if min(quantum, prompt_tokens, levels) < 1 or not 0 < starvation_s < 1e9:
            raise ValueError("quantum, prompt_tokens, levels and starvation_s must be positive and finite")
        self.quantum = quantum
        self.prompt_tokens = prompt_tokens
        self.levels = levels
        self.starvation = round(starvation_s * 1e9)

    def queue(self) -> Queue:
        """Order by level, then arrival."""
        return Ranked(lambda request: request.rank)

    def admit(self, request: Request, s: "Scheduler") -> None:
        """Skip-join: the first level whose quantum covers the prefill."""
        level = 0
        while level < self.levels - 1 and self.prompt_tokens << level < request.prompt:
            level += 1
        request.level, request.quantum = level, 0
        request.rank = self._rank(request)

    def rank(self, request: Request) -> int:
        """Return level, then number. `quantum` counts the tokens generated when the level was entered."""
        self._demote(request, request.generated)
        return self._rank(request)

    def _rank(self, request: Request) -> int:
        return request.level * _ORDER + request.id

    def _demote(self, request: Request, generated: int) -> None:
        while request.level < self.levels - 1:
            quantum = self.quantum << request.level
            if generated - request.quantum < quantum:
                return
            request.quantum += quantum
            request.level += 1

    def refresh(self, s: "Scheduler") -> None:
        """Demote what used its quantum up, promote what starves."""
        tick = s.batch.tick
        for request in s.running.values():
            if request.decoding:
                self._demote(request, tick + request.offset + 1 - request.prompt)
                request.rank = self._rank(request)
                request.since = s.now
        starved = False
        for request in [*s.paged.values(), *s.waiting]:
            if request.level and s.now - request.since >= self.starvation:
                request.level, request.quantum, request.since = 0, request.generated, s.now
                request.rank = self._rank(request)
                starved = True
        if starved and isinstance(s.waiting, Ranked):
            s.waiting.rebuild()

    def horizon(self, s: "Scheduler") -> int:
        """Return the iterations until the first running request has used its quantum up."""
        if not (s.paged or len(s.waiting)):
            return FOREVER
        tick = s.batch.tick
        left = FOREVER
        for request in s.running.values():
            if request.level < self.levels - 1:
                used = tick + request.offset + 1 - request.prompt - request.quantum
                left = min(left, (self.quantum << request.level) - used)
        return max(1, left)

    def wake_at(self, s: "Scheduler") -> int | None:
        """Return when the next request starves."""
        out = [r.since for r in [*s.paged.values(), *s.waiting] if r.level]
        due = min(out, default=s.now) + self.starvation
        return due if out and due > s.now else None

    def victim(self, s: "Scheduler") -> Request:
        """Return the running request of greatest rank."""
        return max(s.running.values(), key=lambda request: request.rank)
