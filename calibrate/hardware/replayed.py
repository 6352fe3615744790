"""Were a real run's decisions the core's? Its events, fed to a fresh scheduler, must give the same commands."""

from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple

from aquasim.core import Limits, Scheduler
from aquasim.core.predictor import Predictor
from aquasim.records.run import Run
from aquasim.sim.simulate import Plan, system_limits


class Replayed(NamedTuple):
    """How many events and commands there were, and the first command that differs, as text; None: none does."""

    events: int
    commands: int
    differs: str | None


def check(plan: Plan, system: str, run: Run) -> Replayed:
    """Replay a run's event log through the core and compare every command."""
    assert run.log is not None
    assert run.commands is not None
    table = plan.scenario.systems[system]
    limits = system_limits(plan, table, fused=False)
    tiers = tuple((tier, 0 if tier == "peer" else blocks) for tier, blocks in limits.tiers)
    policy = plan.llm.policy(table, f"systems.{system}")
    if run.meta.get("predictor") is not None:
        policy.predictor = Predictor.from_json(run.meta["predictor"])
    again = _replay(replace(limits, tiers=tiers), policy, run.log)
    pairs = enumerate(zip_longest(run.commands, again))
    differs = next((f"command {i}: {was}, replayed {now}" for i, (was, now) in pairs if was != now), None)
    events = sum(event is not None for _, event in run.log)
    return Replayed(events, len(run.commands), differs)


def _replay(limits: Limits, policy: Any, log: list[Any]) -> list[Any]:
    """As `aquasim.core.replay`, with pages noted as a real pager's are."""
    scheduler = Scheduler(limits, policy)
    scheduler.pager.track = bool(limits.tiers)
    commands: list[Any] = []
    for now, event in log:
        if event is None:
            commands += scheduler.plan(now)
        else:
            scheduler.handle(now, event)
    return commands
