"""Feeds a workload to an executor in real time, and returns the run."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aquasim.errors import UserError
from aquasim.hardware.local import LOCAL
from aquasim.records.run import Run
from aquasim.records.tables import Outcome
from aquasim.runtime.local.build import Parts, build
from aquasim.runtime.local.options import Options
from aquasim.runtime.local.prompts import prompt_tokens
from aquasim.runtime.local.threads import use_threads
from aquasim.runtime.local.watch import Watch
from aquasim.sim.simulate import Plan

NAP_S = 50e-6
LEND_S = 15.0
"""How long to wait for donors."""


def run_local(
    plan: Plan, name: str, options: Options, progress: Callable[[float], None] | None = None
) -> Run:
    """Run one system of a scenario on this machine, from its first arrival to its last completion.

    Raises:
        UserError: see `build`.
    """
    if name not in plan.scenario.systems:
        raise UserError(f"unknown system {name!r}; the scenario has: {', '.join(plan.scenario.systems)}")
    clock = RunClock(options.watch)
    options = replace(options, threads=_use_threads(plan, options))
    parts = build(plan, name, options, clock)
    try:
        notes = borrow(parts)
        if options.watch is not None:  # a run that is to be compared starts warm
            warm_up(parts)
        feeder = Feeder(plan, parts, options.accelerate)
        clock.begin()
        feeder.run(progress)
        run = Run([(name, parts.executor.tables)], _meta(plan, name, parts, options) | {"notes": notes})
        run.log = parts.executor.log
        run.commands = parts.executor.commands
        return run
    finally:
        parts.close()


class RunClock:
    """Nanoseconds of a run: 0 until it begins, then real time, less what a watch says is to be left out."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._began = 0

    def begin(self) -> None:
        """Time runs from now on."""
        if self._watch is not None:
            self._watch.begin()
        self._began = time.monotonic_ns()

    def __call__(self) -> int:
        """Return the time."""
        if not self._began:
            return 0
        left_out = self._watch.waited_ns if self._watch is not None and self._watch.exclude else 0
        return time.monotonic_ns() - self._began - left_out


def borrow(parts: Parts) -> list[str]:
    """Wait until the memory that was asked of donors is there; return a note where some of it is not."""
    if not parts.wanted_blocks:
        return []
    tier = parts.executor.scheduler.pager.tiers["peer"]
    limit = time.monotonic() + LEND_S
    while tier.capacity < parts.wanted_blocks and time.monotonic() < limit:
        if not parts.executor.turn():
            time.sleep(NAP_S)
    if not tier.capacity:
        assert parts.client is not None
        raise UserError(f"no donor lent any memory within {LEND_S:g} s{_why(parts.client.failure)}")
    if tier.capacity < parts.wanted_blocks:
        return [f"peers lent {tier.capacity} of the {parts.wanted_blocks} blocks that the scenario has"]
    return []


def _why(failure: str | None) -> str:
    return f": {failure}" if failure else ""


def warm_up(parts: Parts) -> None:
    """Run iterations of several sizes, so that no request pays for what only the first one costs."""
    from aquasim.runtime.engine import Prefill

    runner, limits = parts.executor.runner, parts.executor.scheduler.limits
    most = min(limits.max_num_batched_tokens, limits.max_model_len - 1, runner.max_len - 1)
    for tokens in (most, max(1, most // 2), 1):
        blocks = tuple(range(-(-(tokens + 1) // limits.block_size)))
        runner.step([Prefill(-1, [1] * tokens, 0, blocks)], False)
        for id in range(min(4, limits.max_num_seqs)):
            runner.batch.join(-2 - id, 1, tokens, blocks)
            runner.step()
        for id in range(min(4, limits.max_num_seqs)):
            runner.batch.leave(-2 - id)


def _use_threads(plan: Plan, options: Options) -> int | None:
    """Let as many cores compute as were asked for; as calibration did where the machine at hand is meant."""
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    elif plan.scenario.machine.server == LOCAL:
        return use_threads()
    return options.threads


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
    limits, policy = executor.scheduler.limits, executor.scheduler.policy
    lent = parts.client.extents() if parts.client else []
    transports = sorted({mapped.transport for mapped in lent})
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
        "lent_bytes_per_s": [{"write": round(m.rate.write), "read": round(m.rate.read)} for m in lent],
        "threads": options.threads,
        "clock": "cpu" if options.watch is not None and options.watch.exclude else "wall",
        "repaired": executor.repaired,
        "predictor": policy.predictor.as_json() if policy.predictor is not None else None,
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
