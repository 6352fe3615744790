"""From a scenario to a run: builds one server, engine and workload, and lets time pass."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aquasim.core import POLICIES, Limits, Scheduler, lanes
from aquasim.core.policies.base import Policy
from aquasim.errors import UserError
from aquasim.hardware.coverage import unmeasured
from aquasim.hardware.host import HOSTS, Host
from aquasim.hardware.lanes import LaneCost
from aquasim.hardware.local import DEVICES, ENGINE, LOCAL, load_cached
from aquasim.hardware.memory import GIB
from aquasim.hardware.profile import Profile, load_profile
from aquasim.hardware.steps import Steps
from aquasim.models import Model, load_model
from aquasim.records.metrics import makespan
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.scenario.schema import MachineTable, Scenario, SystemTable
from aquasim.sim.clock import Clock
from aquasim.sim.llm import Llm
from aquasim.sim.source import Source
from aquasim.sim.topology import TOPOLOGIES, Server, Topology
from aquasim.workload import Workload

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Plan:
    """A scenario resolved into objects, shared by all of its systems."""

    scenario: Scenario
    topology: Topology
    profile: Profile
    llm: Llm

    @classmethod
    def of(cls, scenario: Scenario, profile: Profile | None = None, model: Model | None = None) -> "Plan":
        """Resolve names, sizes and the workload; with `profile` and `model` instead of the scenario's.

        Raises:
            UserError: a name is unknown, the model does not fit, or the workload is faulty.
        """
        try:
            return cls._of(scenario, profile, model)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(str(error)) from None

    @classmethod
    def _of(cls, scenario: Scenario, profile: Profile | None, model: Model | None) -> "Plan":
        if profile is None and scenario.machine.server == LOCAL and scenario.machine.profile is None:
            profile = local_profile(scenario)
        topology, profile = find_server(scenario.machine.server, profile or scenario.machine.profile)
        _check_machine(scenario, topology, profile)
        machine = scenario.machine
        pcie = machine.pcie_gbs
        profile = profile.with_bandwidths({"nvlink": machine.link_gbs, "pcie_d2h": pcie, "pcie_h2d": pcie})
        gpus = machine.gpus if machine.gpus is not None else tuple(range(scenario.model.tp))
        llm = Llm.of(
            profile, scenario.model, gpus, scenario.engine, scenario.workload, scenario.seed, model=model
        )
        return cls(scenario, topology, profile, llm)

    @property
    def workload(self) -> Workload:
        """What arrives."""
        return self.llm.workload

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results ought to know: of the workload, and of kernels nobody measured."""
        if self.llm.serving.name == ENGINE:  # measured as a whole, with this very model
            return self.workload.notes
        return (*self.workload.notes, *unmeasured(self.profile, self.llm.model, self.llm.tp))


def local_profile(scenario: Scenario) -> Profile:
    """Return what was measured of this machine with a scenario's model; UserError where nothing was."""
    model = load_model(scenario.model.name)
    found = next((each for each in (load_cached(model, device) for device in DEVICES) if each), None)
    if found is None:
        raise UserError(
            f"machine.server is {LOCAL!r}, and this machine was not measured with {model.name} yet:"
            " `aquasim calibrate --scenario NAME` does that (under a minute)"
        )
    return found


def find_server(name: str, given: Profile | str | None) -> tuple[Topology, Profile]:
    """Return a server's topology and its GPUs' profile, or the one that is given, itself or by name.

    Raises:
        UserError: one of them is unknown or faulty, or the profile lacks a link that the server has.
    """
    if name not in TOPOLOGIES:
        raise UserError(f"machine.server is {name!r}; known: {', '.join(TOPOLOGIES)}")
    topology = TOPOLOGIES[name]
    if name == LOCAL and given is None:
        raise UserError(
            f"machine.server is {LOCAL!r}: give machine.profile, one that aquasim calibrate wrote"
        )
    try:
        profile = given if isinstance(given, Profile) else load_profile(given or topology.gpu)
    except ValueError as error:
        raise UserError(f"machine.profile: {error}") from None
    if lacking := topology.missing(profile):
        raise UserError(
            f"machine.profile: {profile.name} has no {' and no '.join(lacking)}, which {topology.name} needs"
        )
    return topology, profile


def _check_machine(scenario: Scenario, topology: Topology, profile: Profile) -> None:
    machine, tp = scenario.machine, scenario.model.tp
    if machine.peer_gib * GIB > profile.memory_bytes:
        raise UserError(
            f"machine.peer_gib is {machine.peer_gib}, but a donor ({profile.title}) has"
            f" {profile.memory_bytes / GIB:.0f} GiB in all"
        )
    if machine.link_gbs is not None and topology.peer == "pcie":
        raise UserError(
            f"machine.link_gbs: GPUs of {topology.name} have no NVLink; machine.pcie_gbs is theirs"
        )
    gpus = machine.gpus if machine.gpus is not None else tuple(range(tp))
    if len(gpus) != tp:
        raise UserError(f"machine.gpus names {len(gpus)} GPUs, model.tp is {tp}; give one per rank")
    if machine.donors and len(machine.donors) != tp:
        raise UserError(f"machine.donors names {len(machine.donors)} GPUs, model.tp is {tp}; one per rank")
    used = [*gpus, *machine.donors]
    if len(set(used)) != len(used) or max(used) >= topology.gpus:
        raise UserError(
            f"machine.gpus {list(gpus)} and donors {list(machine.donors)} must be different GPUs below"
            f" {topology.gpus} ({topology.name})"
        )


def simulate_system(
    plan: Plan,
    name: str,
    *,
    record_events: bool = False,
    fused: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Run one system of a scenario to the end of its workload.

    Raises:
        UserError: there is no such system, or what it asks for does not fit together or stands still.
    """
    if name not in plan.scenario.systems:
        raise UserError(f"unknown system {name!r}; the scenario has: {', '.join(plan.scenario.systems)}")
    system, llm = plan.scenario.systems[name], plan.llm
    env = Clock()
    server = Server(env, plan.topology, plan.profile)
    policy = llm.policy(system, f"systems.{name}")
    limits = system_limits(plan, system, fused)
    cost = llm.cost(limits)
    lane_time = _lanes(plan, cost, limits, policy, f"systems.{name}")
    donors = {"peer": plan.scenario.machine.donors}
    carrier = llm.carrier(server, system, donors, cost) if limits.tiers else None
    if policy.predictor is not None and carrier is not None:
        policy.predictor = replace(policy.predictor, copies=carrier.expectations(limits))
    tables = RunTables()
    source = llm.source(env)
    engine = llm.build(
        env, Scheduler(limits, policy), cost, carrier, tables, source, record_events, lane_time=lane_time
    )
    source.start(engine)
    _advance(env, plan.workload, source, progress)
    if engine.live and policy.lanes is not None and not policy.lanes.guarded:
        raise UserError(
            f"systems.{name}: {len(engine.live)} requests never end: without its guards (faithful) this scheduler"
            " stands still where a request outgrows its limits"
        )
    assert not engine.live, f"requests never ended: {list(engine.live)[:5]}"
    run = Run([(name, tables)], _meta(plan, name, system, limits, policy))
    run.meta["links"] = links(server, makespan(run))
    run.log = engine.log
    return run


def _lanes(plan: Plan, cost: Steps, limits: Limits, policy: Policy, where: str) -> LaneCost | None:
    """Return what iterations with lanes cost, and tell the policy what to expect; None where it has none."""
    if policy.lanes is None:
        return None
    try:
        lanes.check(limits, policy)
    except ValueError as error:
        own = f"; {where}.engine gives it limits of its own" if "max_num_batched" in str(error) else ""
        raise UserError(f"{where}: {error}{own}") from None
    if not policy.lanes.host:
        return None
    found = plan.llm.lane_cost(cost, _host(plan), where)
    policy.predictor = found.predictor(limits)
    return found


def _host(plan: Plan) -> Host | None:
    """Return the server's processor, with the cores and the bandwidth that the scenario gives it."""
    machine = plan.scenario.machine
    if not plan.topology.host:
        return None
    gbs = machine.host_gbs
    return HOSTS[plan.topology.host].changed(machine.host_cores, None if gbs is None else gbs * 1e9)


def system_limits(plan: Plan, system: SystemTable, fused: bool = True) -> Limits:
    """Return the limits of one system's engine.

    Raises:
        UserError: the system uses a tier that the machine does not have or cannot reach.
    """
    limits = plan.llm.limits(system.policy, _tiers(plan, system), fused)
    changes = system.engine.model_dump(exclude_none=True)
    rules = POLICIES[system.policy].lanes if system.policy in POLICIES else None
    staging = rules is not None and rules.host and "host" in system.tiers
    if staging:  # a layer more, that prompts bound for the host are computed in
        depth = plan.llm.model.layers
        changes["blocks"] = blocks = limits.blocks * depth // (depth + 1)
        changes["max_model_len"] = min(limits.max_model_len, blocks * limits.block_size)
    return replace(limits, **changes) if changes else limits


def _tiers(plan: Plan, system: SystemTable) -> tuple[tuple[str, int], ...]:
    """Return a system's tiers, in blocks per rank."""
    machine = plan.scenario.machine
    tiers = []
    for tier in system.tiers:
        gib = machine.peer_gib if tier == "peer" else machine.host_gib
        if gib <= 0:
            raise UserError(f"systems: tier {tier!r} is used, but machine.{tier}_gib is {gib}")
        if tier == "peer":
            _check_donors(plan, machine)
        tiers.append((tier, plan.llm.blocks_of(gib)))
    return tuple(tiers)


def _check_donors(plan: Plan, machine: MachineTable) -> None:
    if not machine.donors:
        raise UserError("systems: tier 'peer' is used, but machine.donors names no GPU")
    for gpu, donor in zip(plan.llm.gpus, machine.donors, strict=True):
        if not plan.topology.connected(gpu, donor):
            raise UserError(
                f"machine.donors: GPU {donor} has no peer link to GPU {gpu} on {plan.topology.name}"
            )


def _advance(env: Clock, workload: Workload, source: Source, progress: Progress | None) -> None:
    """Let time pass until nothing is left to happen."""
    while env.play(-1 if progress is None else 4096):
        if progress is not None:
            progress(source.sent / len(workload))


def _meta(plan: Plan, name: str, system: SystemTable, limits: Limits, policy: Policy) -> dict[str, Any]:
    llm = plan.llm
    return {
        "scenario": plan.scenario.model_dump(mode="json", exclude_none=True),
        "system": name,
        "policy": system.policy,
        "oracle": policy.oracle,
        "blocks": limits.blocks,
        "block_size": limits.block_size,
        "block_bytes": llm.block_bytes * llm.tp,
        "tiers": dict(limits.tiers),
        "max_model_len": limits.max_model_len,
        "profile": plan.profile.name,
        "model": llm.model.name,
        "predictor": policy.predictor.as_json() if policy.predictor is not None else None,
        "seed": plan.scenario.seed,
        "workload": plan.workload.name,
        "requests": len(plan.workload),
        "notes": list(plan.notes),
        "slo": plan.scenario.slo.model_dump(exclude_none=True) if plan.scenario.slo else None,
    }


def links(server: Server, seconds: float | None) -> dict[str, dict[str, float]]:
    """What each link carried, and its share of what it could have carried in the run's makespan, so many seconds.

    `busy_s` is the time with any traffic; `share` is `bytes / (capacity * seconds)`.
    """
    return {
        port.name: {
            "bytes": port.carried,
            "capacity": port.capacity,
            "busy_s": port.busy(server.fabric.env.ns),
            "share": port.carried / port.capacity / seconds if seconds else 0.0,
        }
        for port in server.fabric.ports.values()
        if port.carried
    }
