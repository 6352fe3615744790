"""Decisions: who runs, who waits, whose pages move. Standard library only: no clock, no randomness, no devices.

`Scheduler` is one state machine: `handle(now, event)` records a fact, `plan(now)` decides. Executors (the
simulator, the runtime, a fake one in the tests) carry the commands out and report back with events. The same
events always give the same commands.
"""

from aquasim.core.events import (
    Aborted,
    Arrived,
    Chunk,
    Command,
    Event,
    Lanes,
    Move,
    Reject,
    Released,
    Step,
    StepDone,
    TierResized,
    Transfer,
    TransferDone,
)
from aquasim.core.limits import Limits
from aquasim.core.policies import POLICIES, make_policy
from aquasim.core.replay import replay
from aquasim.core.scheduler import Scheduler

__all__ = [
    "POLICIES",
    "Aborted",
    "Arrived",
    "Chunk",
    "Command",
    "Event",
    "Lanes",
    "Limits",
    "Move",
    "Reject",
    "Released",
    "Scheduler",
    "Step",
    "StepDone",
    "TierResized",
    "Transfer",
    "TransferDone",
    "make_policy",
    "replay",
]
