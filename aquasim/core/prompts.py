"""Steps of whole prompts before any decode: the iterations of vLLM 0.3, which AQUA's first release builds on."""

from typing import TYPE_CHECKING

from aquasim.core import loras, slices
from aquasim.core.chunked import Chunks, make_room, repeats
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

MAX_PADDINGS = 256
"""Most padding tokens in a prompt iteration (vLLM 0.3's `max_paddings`)."""


def build(s: "Scheduler") -> tuple[Chunks, bool, int]:
    """Prompts if any can start, which pauses decoding; else one decode iteration of everything resident.

    Returns:
        Prompts as (request, tokens), whether the batch decodes, and how often the step may repeat.
    """
    if s.parked:
        s.unpark()
    if s.policy.ranked:
        slices.select(s)
        s.unpark()
    chunks = _prompts(s)
    if chunks:
        return chunks, False, 1
    if s.policy.sliced and not s.policy.ranked:
        slices.select(s)
        s.unpark()
    preempted = False
    if len(s.batch.growing()) + _spare(s) > s.pool.free:
        preempted = _shrink(s)
    if s.batch.count:
        s.batch.grow_now(s.pool)
    alone = not (preempted or s.parked)
    return [], s.batch.count > 0, repeats(s) if alone and s.batch.count else 1


def _spare(s: "Scheduler") -> int:
    """Return 1 where a free block is asked for although the last sequence does not grow (vLLM 0.3's rule).

    Not of a sequence that is alone: it would give way to nobody.
    """
    if s.policy.sliced or len(s.running) < 2:
        return 0
    return next(reversed(s.running.values())) not in s.batch.growing()


def _shrink(s: "Scheduler") -> bool:
    preempted = False
    while not s.policy.sliced and s.running and len(s.batch.growing()) + _spare(s) > s.pool.free:
        s.preempt(s.policy.victim(s))
        preempted = True
    return make_room(s, [])[1] or preempted


def _prompts(s: "Scheduler") -> Chunks:
    """Waiting prompts that fit, in order: tokens are counted as padded to the longest.

    Those whose adapter finds no slot are passed over.
    """
    chunks: Chunks = []
    if s.paged and not s.policy.sliced and not slices.return_in_order(s):
        return chunks
    longest = total = 0
    budget = max(s.limits.max_num_batched_tokens, s.limits.max_model_len)
    slots = loras.resident(s)
    passed: list[Request] = []
    while (request := s.waiting.peek()) is not None:
        if slots is not None and not slots.fits(request):
            passed.append(s.waiting.take())
            continue
        hit = s.find_prefix(request)
        count = request.total - len(hit) * s.limits.block_size
        longest, total = max(longest, count), total + count
        padded = longest * (len(chunks) + 1)
        if padded > budget or padded - total > MAX_PADDINGS:
            break
        if not slices.admit(s, request, hit, head=not chunks):
            break
        s.start(request, hit, count)
        chunks.append((request, count))
        if slots is not None:
            slots.add(request)
    if passed:
        loras.put_back(s, passed)
    return chunks
