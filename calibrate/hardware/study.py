"""Runs a scenario's systems for real and simulates them; what comes out is data, printed elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aquasim.calibrate.engine.local import Show, ensure
from aquasim.calibrate.engine.points import Ranges
from aquasim.calibrate.hardware.judge import Figure, compare, figures
from aquasim.calibrate.hardware.replayed import Replayed, check
from aquasim.calibrate.hardware.speed import slowdown, slowed
from aquasim.errors import UserError
from aquasim.hardware import local
from aquasim.hardware.profile import Profile, load_profile
from aquasim.models import Model
from aquasim.records.run import Run
from aquasim.runtime.local import Options, run_local
from aquasim.runtime.local.lend import lending
from aquasim.runtime.local.plan import kind_of, real_model
from aquasim.runtime.local.watch import Watch
from aquasim.scenario import Scenario
from aquasim.sim.simulate import Plan, simulate_system

SCHEMA = "aquasim.hardware/1"


@dataclass
class Real:
    """One real run, and what was seen of the core meanwhile."""

    run: Run
    slowdown: float
    waited_s: float
    replayed: Replayed


@dataclass
class Study:
    """A scenario's systems on this machine. `predicted` are simulations by the profile alone, made before any run."""

    plan: Plan
    systems: list[str]
    options: Options
    profile: Profile
    measured_now: bool
    accelerate: float = 1.0
    """Arrivals come so many times as fast, in `plan` too."""
    predicted: dict[str, dict[str, float]] = field(default_factory=dict)
    real: dict[str, list[Real]] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 of the profile."""
        return local.digest(self.profile.blocks)

    def predict(self) -> None:
        """Simulate every system by the profile, before anything runs."""
        for system in self.systems:
            self.predicted[system] = figures(simulate_system(self.plan, system).summary())

    def measure(self, repeats: int, clock: str, done: Callable[[str, int, Real], None]) -> None:
        """Run every system `repeats` times for real, in turn, so that a drift of the machine hits all alike."""
        with self._peers() as socket:
            for turn in range(repeats):
                for system in self.systems:
                    real = self._run(system, clock, socket)
                    self.real.setdefault(system, []).append(real)
                    done(system, turn, real)

    @contextmanager
    def _peers(self) -> Iterator[Path | None]:
        """Give the socket of a coordinator where a system pages to peers: the user's, or one of our own."""
        used = any("peer" in self.plan.scenario.systems[system].tiers for system in self.systems)
        if self.options.peers is not None or not used:
            yield self.options.peers
            return
        llm = self.plan.llm
        with lending(llm.blocks_of(self.plan.scenario.machine.peer_gib) * llm.block_bytes) as socket:
            yield socket

    def _run(self, system: str, clock: str, socket: Path | None) -> Real:
        watch = Watch(exclude=clock == "cpu")
        threads = int(self.profile.blocks["runtime"]["threads"])
        run = run_local(self.plan, system, replace(self.options, watch=watch, peers=socket, threads=threads))
        factor = slowdown(watch.probes, self.profile)
        run.meta["slowdown"], run.meta["profile_hash"] = factor, self.hash
        return Real(run, factor, watch.waited_ns * 1e-9, check(self.plan, system, run))

    def judge(self) -> list[Figure]:
        """Set simulated figures beside measured ones, system by system."""
        found = []
        for system, runs in self.real.items():
            close = [self._at_speed(system, real.slowdown) for real in runs]
            measured = [figures(real.run.summary()) for real in runs]
            found += compare(system, measured, self.predicted[system], close)
        return found

    def _at_speed(self, system: str, factor: float) -> dict[str, float]:
        """Simulate a system on a core so much slower than at calibration."""
        plan = plan_at(self.plan.scenario, slowed(self.profile, factor), self.plan.llm.model, self.accelerate)
        return figures(simulate_system(plan, system).summary())

    @property
    def replayed(self) -> bool:
        """Whether every decision of every run was the core's."""
        return all(real.replayed.differs is None for runs in self.real.values() for real in runs)

    def document(self, found: Sequence[Figure], scenario: str) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "schema": SCHEMA,
            "scenario": scenario,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": local.machine(),
            "profile": {"sha256": self.hash, "measured_now": self.measured_now},
            "figures": [figure.as_json() for figure in found],
            "runs": {system: [_about(real) for real in runs] for system, runs in self.real.items()},
            "replay_equal": self.replayed,
            "missed": sum(figure.ok is False for figure in found),
        }


def _about(real: Real) -> dict[str, Any]:
    meta = real.run.meta
    return {
        "figures": figures(real.run.summary()),
        "slowdown": real.slowdown,
        "waited_s": real.waited_s,
        "clock": meta["clock"],
        "transports": meta["transports"],
        "lent_bytes_per_s": meta["lent_bytes_per_s"],
        "notes": meta["notes"],
        "replay": real.replayed._asdict(),
    }


def prepare(scenario: Scenario, systems: Sequence[str], options: Options, show: Show | None = None) -> Study:
    """Resolve a scenario for this machine, and measure the machine where that was not done yet.

    Raises:
        UserError: an unknown system, a server other than "local", a profile of another machine, missing weights.
    """
    check_scenario(scenario, systems)
    model = real_model(scenario, options)
    if scenario.machine.profile is not None:
        profile, now = _given(scenario.machine.profile), False
        local.check_model(profile, model)
    else:
        bare = Plan.of(scenario, local.unmeasured_profile(), model)
        profile, now = ensure(model, ranges_of(bare), kind_of(options), show)
    times = options.accelerate
    plan = plan_at(scenario, profile, model, times)
    chosen = list(systems) or list(scenario.systems)
    return Study(plan, chosen, replace(options, accelerate=1.0), profile, now, times)


def check_scenario(scenario: Scenario, systems: Sequence[str]) -> None:
    """Raise UserError for an unknown system, and for a scenario of another machine or engine."""
    unknown = [system for system in systems if system not in scenario.systems]
    if unknown:
        raise UserError(f"unknown system {unknown[0]!r}; the scenario has: {', '.join(scenario.systems)}")
    if scenario.machine.server != local.LOCAL:
        raise UserError(
            f"machine.server is {scenario.machine.server!r}; what runs here is compared with {local.LOCAL!r} only"
            " (--set machine.server=local --set engine.version=aquasim)"
        )
    if scenario.engine.version != local.ENGINE:
        raise UserError(
            f"engine.version is {scenario.engine.version!r}; what runs here is {local.ENGINE!r}"
            f" (--set engine.version={local.ENGINE})"
        )


def plan_at(scenario: Scenario, profile: Profile, model: Model, accelerate: float) -> Plan:
    """Resolve a scenario with a profile and a model, its arrivals so many times as fast."""
    plan = Plan.of(scenario, profile, model)
    workload = plan.workload
    faster = replace(workload, arrival=(workload.arrival / accelerate).astype("int64"))
    return replace(plan, llm=replace(plan.llm, workload=faster))


def ranges_of(plan: Plan) -> Ranges:
    """Return what a scenario's engine may meet."""
    engine, llm = plan.scenario.engine, plan.llm
    return Ranges(
        engine.max_num_seqs, engine.max_num_batched_tokens, llm.max_model_len, llm.blocks, engine.block_size
    )


def _given(path: str) -> Profile:
    """Load the profile that a scenario names, if it is this machine's."""
    try:
        profile = load_profile(path)
    except ValueError as error:
        raise UserError(f"machine.profile: {error}") from None
    local.check_machine(profile)
    return profile
