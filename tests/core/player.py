"""Plays jobs against a scheduler by hand-sized steps and writes what it commands, a line each.

A log line reads `time: what`. `decode N@C` is N sequences of C computed tokens in all; `+r` joined, `-r` left the
batch; `r[a:b]` is a prefill chunk, `!` if it samples a token; `after` lists the transfers that a command waits
for; `x` who lost its memory; `host0` and `host1` who decodes on the host in which sub-batch; `staged` whose prompt
leaves its KV there.
"""

from typing import Any

from aquasim.core import (
    Arrived,
    Command,
    Event,
    Limits,
    Reject,
    Released,
    Scheduler,
    Step,
    StepDone,
    Transfer,
    TransferDone,
)
from aquasim.core.policies.base import Policy

Jobs = list[tuple[int, int, int]]
"""(arrival, prompt, output) per request."""


def step_line(step: Step) -> str:
    """Write every field of a step that says something."""
    parts = [f"decode {step.batch}@{step.context}"] if step.batch else []
    parts += [f"x{step.repeat}"] if step.repeat > 1 else []
    parts += [f"+{id}" for id in step.joined] + [f"-{id}" for id in step.left]
    parts += [f"{c.request}[{c.start}:{c.start + c.tokens}]{'!' * c.last}" for c in step.chunks]
    parts += [f"after {','.join(map(str, step.after))}"] if step.after else []
    parts += [f"x {','.join(map(str, step.preempted))}"] if step.preempted else []
    if step.lanes is not None:
        first, second, _, _, staged = step.lanes
        parts += [f"{n} {','.join(map(str, ids))}" for n, ids in (("host0", first), ("host1", second)) if ids]
        parts += [f"staged {','.join(map(str, staged))}"] if staged else []
    return f"step{step.step} {' '.join(parts)}"


def line(command: Command) -> str:
    """Write a command in full."""
    if isinstance(command, Step):
        return step_line(command)
    if isinstance(command, Transfer):
        moves = " ".join(f"{move.request}:{move.blocks}" for move in command.moves)
        after = f" after {','.join(map(str, command.after))}" if command.after else ""
        to = f"->{command.to}" if command.to else ""
        assert command.blocks == sum(move.blocks for move in command.moves)
        return f"t{command.transfer} {command.kind} {command.tier}{to} {moves}{after}"
    if isinstance(command, Released):
        return f"released {command.tier} {command.blocks}"
    assert isinstance(command, Reject)
    return f"reject {command.request}: {command.reason}"


class Player:
    """Plays jobs one iteration per unit of time; transfers land one unit later, or with the step that awaits them."""

    def __init__(self, limits: Limits, policy: Policy, jobs: Jobs) -> None:
        self.scheduler = Scheduler(limits, policy)
        self.jobs = jobs
        self.todo = {id: output for id, (_, _, output) in enumerate(jobs)}
        self.decoding: dict[int, None] = {}
        self.step: Step | None = None
        self.moving: list[int] = []
        self.log: list[str] = []

    def play(self, extra: dict[int, Event] | None = None, until: int = 100) -> list[str]:
        """Play to the end of the jobs, or up to `until`; `extra` events by time."""
        for now in range(until):
            self._facts(now)
            if extra and now in extra:
                self.scheduler.handle(now, extra[now])
            for command in self.scheduler.plan(now):
                self.log.append(f"{now}: {line(command)}")
                self._take(command)
            self.scheduler.check()
            if not self.todo:
                break
        return self.log

    def _facts(self, now: int) -> None:
        for number in self.moving:
            self.scheduler.handle(now, TransferDone(number))
        self.moving = []
        if self.step is not None:
            done = StepDone(self.step.step, 1, self._finish(self.step))
            self.step = None
            self.scheduler.handle(now, done)
        for id, (arrival, prompt, output) in enumerate(self.jobs):
            if arrival == now:
                self.scheduler.handle(now, Arrived(id, prompt, output))

    def _take(self, command: Command) -> None:
        if isinstance(command, Transfer):
            self.moving.append(command.transfer)
        elif isinstance(command, Reject):
            del self.todo[command.request]
        elif isinstance(command, Step):
            self.step = command
            for id in command.left:
                del self.decoding[id]
            self.decoding.update(dict.fromkeys(command.joined))

    def _finish(self, step: Step) -> tuple[int, ...]:
        finished = []
        producers = [c.request for c in step.chunks if c.last] + (list(self.decoding) if step.batch else [])
        if step.lanes is not None:
            producers += step.lanes.first + step.lanes.second
        for id in producers:
            self.todo[id] -= 1
            if self.todo[id] == 0:
                del self.todo[id]
                self.decoding.pop(id, None)
                finished.append(id)
        return tuple(finished)


def limits(**changes: Any) -> Limits:
    """Return an engine of 4 blocks of 4 tokens that plans one iteration at a time."""
    sizes = {"blocks": 4, "block_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 64, "max_repeat": 1}
    return Limits(**(sizes | changes))
