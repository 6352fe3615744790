"""Feeds a workload to an executor in real time, and returns the run."""

import time
from collections.abc import Callable
from typing import Any

from aquasim.errors import UserError
from aquasim.records.run import Run
from aquasim.records.tables import Outcome
from aquasim.runtime.local.build import Parts, build
from aquasim.runtime.local.options import Options
from aquasim.runtime.local.prompts import prompt_tokens
from aquasim.sim.simulate import Plan

NAP_S = 50e-6


def run_local(
    plan: Plan, name: str, options: Options, progress: Callable[[float], None] | None = None
) -> Run:
    """Run one system of a scenario on this machine, from its first arrival to its last completion.

    Raises:
        UserError: see `build`.
    """
    if name not in plan.scenario.systems:
        raise UserError(f"unknown system {name!r}; the scenario has: {', '.join(plan.scenario.systems)}")
    begun = [time.monotonic_ns()]
    parts = build(plan, name, options, lambda: time.monotonic_ns() - begun[0])
    try:
        feeder = Feeder(plan, parts, options.accelerate)
        begun[0] = time.monotonic_ns()
        feeder.run(progress)
        run = Run([(name, parts.executor.tables)], _meta(plan, name, parts, options))
        run.log = parts.executor.log
        return run
    finally:
        parts.close()


class Feeder:
    """Submits requests when they are due; under a cap, only as open ones go."""

    def __init__(self, plan: Plan, parts: Parts, accelerate: float) -> None:
        workload = plan.workload
        self._plan, self._parts = plan, parts
        self._arrival = (workload.arrival / accelerate).astype("int64").tolist()
        self._cap = workload.cap or len(workload)
        self._open = self._sent = 0
        self._hashed = plan.scenario.engine.prefix_caching and workload.prefix is not None
        parts.executor.feed = self.feed
        parts.executor.on_gone = self._gone

    def feed(self, now: int) -> None:
        """Submit what is due by `now` (ns)."""
        workload, executor = self._plan.workload, self._parts.executor
        while self._sent < len(self._arrival) and self._arrival[self._sent] <= now and self._open < self._cap:
            i = self._sent
            self._sent += 1
            self._open += 1
            size = executor.scheduler.limits.block_size
            prefix = workload.block_hashes(i, size) if self._hashed else ()
            vocab, seed = self._parts.config.vocab, self._plan.scenario.seed
            tokens = prompt_tokens(i, int(workload.prompt[i]), prefix, size, vocab, seed)
            priority = int(workload.priority[i]) if workload.priority is not None else 0
            due = self._arrival[i] if self._cap == len(self._arrival) else now
            executor.submit(i, tokens, int(workload.output[i]), priority=priority, prefix=prefix, arrival=due)

    def run(self, progress: Callable[[float], None] | None) -> None:
        """Turn until every request has come and gone."""
        executor = self._parts.executor
        while self._sent < len(self._arrival) or executor.busy:
            if not executor.turn():
                time.sleep(NAP_S)
            if progress is not None:
                progress(self._sent / len(self._arrival))

    def _gone(self, id: int, outcome: Outcome) -> None:
        self._open -= 1


def _meta(plan: Plan, name: str, parts: Parts, options: Options) -> dict[str, Any]:
    executor = parts.executor
    limits = executor.scheduler.limits
    transports = sorted({mapped.transport for mapped in parts.client.extents()}) if parts.client else []
    pager = executor.pager
    return {
        "scenario": plan.scenario.model_dump(mode="json", exclude_none=True),
        "system": name,
        "policy": plan.scenario.systems[name].policy,
        "on": "hardware",
        "device": parts.device,
        "dtype": parts.dtype,
        "weights": str(options.weights) if options.weights else "random",
        "accelerate": options.accelerate,
        "transports": transports,
        "repaired": executor.repaired,
        "blocks": limits.blocks,
        "block_size": limits.block_size,
        "block_bytes": pager.hbm.block_bytes if pager is not None else None,
        "model": plan.llm.model.name,
        "seed": plan.scenario.seed,
        "requests": len(plan.workload),
        "notes": [],
        "slo": plan.scenario.slo.model_dump(exclude_none=True) if plan.scenario.slo else None,
        "links": None,
    }
