"""The scheduler without a clock: arrivals by iteration in, one record per iteration out."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aquasim.core.events import Arrived, Reject, Step, StepDone, Transfer, TransferDone
from aquasim.core.limits import Limits
from aquasim.core.policies.base import Policy
from aquasim.core.scheduler import Scheduler


class Job(NamedTuple):
    """A request that arrives before iteration `step` and ends after `output` tokens."""

    step: int
    prompt: int
    output: int
    prefix: tuple[int, ...] = ()
    priority: int = 0


class Iteration(NamedTuple):
    """What one call of the scheduler decided."""

    i: int
    tokens: dict[int, int]
    preempted: tuple[int, ...]
    running: int
    waiting: int
    kv_used: int


def iterate(limits: Limits, policy: Policy, jobs: Sequence[Job]) -> Iterator[Iteration | Reject]:
    """Run every job to its end, one iteration at a time; transfers take no time.

    Yields:
        An `Iteration` per call that schedules something, and a `Reject` per request that cannot run.
    """
    scheduler = Scheduler(limits, policy)
    order = sorted(range(len(jobs)), key=lambda id: jobs[id].step)
    left = {id: job.output for id, job in enumerate(jobs)}
    decoding: dict[int, None] = {}
    call = arrived = 0
    while left:
        if arrived < len(order) and not scheduler.requests:
            call = max(call, jobs[order[arrived]].step)
        while arrived < len(order) and jobs[order[arrived]].step <= call:
            id = order[arrived]
            job = jobs[id]
            longest = min(job.output, max(1, limits.max_model_len - job.prompt))
            left[id] = longest
            event = Arrived(id, job.prompt, longest, job.priority, job.prefix, job.output)
            scheduler.handle(call, event)
            arrived += 1
        commands = scheduler.plan(call)
        for command in commands:
            if isinstance(command, Transfer):
                scheduler.handle(call, TransferDone(command.transfer))
            elif isinstance(command, Reject):
                del left[command.request]
                yield command
        step = next((c for c in commands if isinstance(c, Step)), None)
        if step is not None:
            tokens = _tokens(step, decoding)
            used = limits.blocks - scheduler.pool.free
            yield Iteration(
                call, tokens, step.preempted, len(scheduler.running), len(scheduler.waiting), used
            )
            scheduler.handle(call, StepDone(step.step, 1, _finish(step, decoding, left)))
        call += 1


def _tokens(step: Step, decoding: dict[int, None]) -> dict[int, int]:
    for id in step.left:
        decoding.pop(id, None)
    decoding.update(dict.fromkeys(step.joined))
    tokens = dict.fromkeys(decoding, 1) if step.batch else {}
    tokens.update({chunk.request: chunk.tokens for chunk in step.chunks})
    if step.lanes is not None:
        tokens.update(dict.fromkeys(step.lanes.first + step.lanes.second, 1))
    return dict(sorted(tokens.items()))


def _finish(step: Step, decoding: dict[int, None], left: dict[int, int]) -> tuple[int, ...]:
    producers = [chunk.request for chunk in step.chunks if chunk.last]
    if step.batch:
        producers += decoding
    if step.lanes is not None:
        producers += step.lanes.first + step.lanes.second
    finished = []
    for id in producers:
        left[id] -= 1
        if left[id] == 0:
            del left[id]
            decoding.pop(id, None)
            finished.append(id)
    return tuple(finished)
