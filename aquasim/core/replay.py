"""Replay: the same events give the same commands."""

from collections.abc import Iterable

from aquasim.core.events import Command, Event
from aquasim.core.limits import Limits
from aquasim.core.policies.base import Policy
from aquasim.core.scheduler import Scheduler

Record = tuple[int, Event | None]
"""(time in ns, event), or (time, None) where `plan` was called."""


def replay(limits: Limits, policy: Policy, records: Iterable[Record]) -> list[Command]:
    """Feed a recorded stream to a fresh scheduler and return every command it gives."""
    scheduler = Scheduler(limits, policy)
    commands: list[Command] = []
    for now, event in records:
        if event is None:
            commands += scheduler.plan(now)
        else:
            scheduler.handle(now, event)
    return commands
