"""From a scenario to a run: builds one server, engine and workload, and lets time pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aquasim.core import POLICIES, Limits, Scheduler, make_policy
from aquasim.core.policies.base import Policy
from aquasim.errors import UserError
from aquasim.hardware.cost import SHARED_SAVING, StepCost
from aquasim.hardware.coverage import unmeasured
from aquasim.hardware.memory import GIB, kv_blocks
from aquasim.hardware.profile import Profile, load_profile
from aquasim.hardware.serving import Serving, load_serving
from aquasim.hardware.throttle import Heat
from aquasim.models import Model, load_model
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.scenario.schema import Scenario, SystemTable
from aquasim.scenario.workloads import make_workload
from aquasim.sim.carrier import PageCarrier, PageLayout
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
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
    model: Model
    gpus: tuple[int, ...]
    workload: Workload
    blocks: int
    max_model_len: int
    serving: Serving

    @classmethod
    def of(cls, scenario: Scenario) -> "Plan":
        """Resolve names, sizes and the workload.

        Raises:
            UserError: a name is unknown, the model does not fit, or the workload is faulty.
        """
        try:
            return cls._of(scenario)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(str(error)) from None

    @classmethod
    def _of(cls, scenario: Scenario) -> "Plan":
        machine, engine, tp = scenario.machine, scenario.engine, scenario.model.tp
        if machine.server not in TOPOLOGIES:
            raise UserError(f"machine.server is {machine.server!r}; known: {', '.join(TOPOLOGIES)}")
        topology = TOPOLOGIES[machine.server]
        profile = load_profile(machine.profile or topology.gpu)
        if lacking := topology.missing(profile):
            raise UserError(
                f"machine.profile: {profile.name} has no {' and no '.join(lacking)}, which {topology.name} needs"
            )
        model = load_model(scenario.model.name)
        gpus = _gpus(scenario, topology)
        fitting = kv_blocks(
            profile,
            model,
            tp,
            engine.block_size,
            engine.gpu_memory_utilization,
            max_tokens=engine.max_num_batched_tokens,
            max_sequences=engine.max_num_seqs,
        )
        blocks = engine.kv_blocks or fitting
        if blocks > fitting:
            raise UserError(
                f"engine.kv_blocks is {blocks}, but {model.name} with tp={tp} leaves room for {fitting} on"
                f" {profile.title} at gpu_memory_utilization {engine.gpu_memory_utilization}"
            )
        room = blocks * engine.block_size
        longest = engine.max_model_len or min(model.max_position, room)
        if longest > room:
            raise UserError(
                f"engine.max_model_len is {longest} tokens, but {model.name} with tp={tp} leaves room for"
                f" only {room} tokens of KV cache on {profile.title}; lower it or raise tp"
            )
        workload = make_workload(scenario.workload, scenario.seed, engine.block_size)
        _check_memory(scenario, profile, workload)
        serving = load_serving(engine.version).with_overheads(
            engine.decode_overhead_s, engine.mixed_overhead_s
        )
        return cls(scenario, topology, profile, model, gpus, workload, blocks, longest, serving)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results ought to know: of the workload, and of kernels nobody measured."""
        return (*self.workload.notes, *unmeasured(self.profile, self.model, self.scenario.model.tp))

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block on one GPU."""
        per_token = self.model.kv_bytes_per_token_gpu(self.scenario.model.tp)
        return per_token * self.scenario.engine.block_size


def _check_memory(scenario: Scenario, profile: Profile, workload: Workload) -> None:
    machine, size = scenario.machine, scenario.engine.block_size
    if machine.peer_gib * GIB > profile.memory_bytes:
        raise UserError(
            f"machine.peer_gib is {machine.peer_gib}, but a donor ({profile.title}) has"
            f" {profile.memory_bytes / GIB:.0f} GiB in all"
        )
    if scenario.engine.prefix_caching and workload.prefix is not None and workload.prefix_block % size:
        raise UserError(
            f"engine.block_size is {size}, but the workload's prefix hashes stand for {workload.prefix_block}"
            " tokens each; with prefix_caching the block size must divide that"
        )


def _gpus(scenario: Scenario, topology: Topology) -> tuple[int, ...]:
    machine, tp = scenario.machine, scenario.model.tp
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
    return gpus


def simulate_system(
    plan: Plan,
    name: str,
    *,
    record_events: bool = False,
    fused: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Run one system of a scenario to the end of its workload."""
    if name not in plan.scenario.systems:
        raise UserError(f"unknown system {name!r}; the scenario has: {', '.join(plan.scenario.systems)}")
    system = plan.scenario.systems[name]
    env = Clock()
    server = Server(env, plan.topology, plan.profile)
    policy = _policy(name, system)
    limits = make_limits(plan, system, fused)
    scheduler = Scheduler(limits, policy)
    cost = _cost(plan, limits)
    carrier = _carrier(plan, system, server, cost) if limits.tiers else None
    tables = RunTables()
    serving, throttle = plan.serving, plan.profile.throttle
    delay_ns = round(serving.request_s * 1e9)
    source = Source(env, plan.workload, limits.block_size, limits.prefix_caching, delay_ns)
    engine = Engine(
        env,
        scheduler,
        cost,
        tables,
        carrier,
        on_gone=source.gone,
        record_events=record_events,
        ahead=serving.ahead,
        heat=Heat(throttle) if throttle else None,
        idle_ns=round(serving.idle_s * 1e9),
        spared=limits.block_size * SHARED_SAVING if limits.prefix_caching else 0.0,
    )
    source.start(engine)
    _advance(env, plan.workload, source, progress)
    assert not engine.live, f"requests never ended: {list(engine.live)[:5]}"
    run = Run([(name, tables)], _meta(plan, name, system, limits, policy, server, env))
    run.log = engine.log
    return run


def _cost(plan: Plan, limits: Limits) -> StepCost:
    """Return what iterations cost; prompts that are not chunked may exceed the budget of tokens."""
    longest = limits.max_model_len if limits.prefill == "prompt-only" else 0
    most = max(limits.max_num_batched_tokens, longest) + limits.max_num_seqs
    tp, sampling = plan.scenario.model.tp, plan.scenario.engine.sampling
    try:
        return StepCost(plan.profile, plan.model, tp, most, serving=plan.serving, sampling=sampling)
    except ValueError as error:
        raise UserError(str(error)) from None


def _policy(name: str, system: SystemTable) -> Policy:
    try:
        return make_policy(system.policy, **system.options)
    except (ValueError, TypeError) as error:
        raise UserError(f"systems.{name}: {error}") from None


def make_limits(plan: Plan, system: SystemTable, fused: bool = True) -> Limits:
    """Return the limits of one system's engine: memory in blocks, tiers in blocks per rank."""
    engine, machine = plan.scenario.engine, plan.scenario.machine
    tiers = []
    for tier in system.tiers:
        gib = machine.peer_gib if tier == "peer" else machine.host_gib
        if gib <= 0:
            raise UserError(f"systems: tier {tier!r} is used, but machine.{tier}_gib is {gib}")
        if tier == "peer":
            _check_donors(plan)
        tiers.append((tier, int(gib * GIB) // plan.block_bytes))
    prefill = "prompt-only" if system.policy == "fcfs-v0" else engine.prefill
    return Limits(
        blocks=plan.blocks,
        block_size=engine.block_size,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=plan.max_model_len,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        prefix_caching=engine.prefix_caching,
        prefill=prefill,
        tiers=tuple(tiers),
        max_repeat=1 << 30 if fused else 1,
    )


def _check_donors(plan: Plan) -> None:
    machine = plan.scenario.machine
    if not machine.donors:
        raise UserError("systems: tier 'peer' is used, but machine.donors names no GPU")
    server = Server(Clock(), plan.topology, plan.profile)
    for gpu, donor in zip(plan.gpus, machine.donors, strict=True):
        if not server.connected(gpu, donor):
            raise UserError(
                f"machine.donors: GPU {donor} has no peer link to GPU {gpu} on {plan.topology.name}"
            )


def _carrier(plan: Plan, system: SystemTable, server: Server, cost: StepCost) -> PageCarrier:
    scenario = plan.scenario
    layout = PageLayout.of(
        plan.model, scenario.model.tp, scenario.engine.block_size, system.copies, system.released
    )
    return PageCarrier(server, plan.gpus, scenario.machine.donors, layout, cost)


def _advance(env: Clock, workload: Workload, source: Source, progress: Progress | None) -> None:
    """Let time pass until nothing is left to happen."""
    while env.play(-1 if progress is None else 4096):
        if progress is not None:
            progress(source.sent / len(workload))


def _meta(
    plan: Plan, name: str, system: SystemTable, limits: Limits, policy: Policy, server: Server, env: Clock
) -> dict[str, Any]:
    seconds = env.ns / 1e9
    ports = [port for port in server.fabric.ports.values() if port.carried]
    return {
        "scenario": plan.scenario.model_dump(mode="json", exclude_none=True),
        "system": name,
        "policy": system.policy,
        "oracle": policy.oracle,
        "blocks": limits.blocks,
        "block_size": limits.block_size,
        "block_bytes": plan.block_bytes * plan.scenario.model.tp,
        "tiers": dict(limits.tiers),
        "max_model_len": limits.max_model_len,
        "profile": plan.profile.name,
        "model": plan.model.name,
        "seed": plan.scenario.seed,
        "workload": plan.workload.name,
        "requests": len(plan.workload),
        "notes": list(plan.notes),
        "slo": plan.scenario.slo.model_dump(exclude_none=True) if plan.scenario.slo else None,
        "links": {
            p.name: {
                "bytes": p.carried,
                "capacity": p.capacity,
                "busy_s": p.busy,
                "share": p.carried / p.capacity / seconds,
            }
            for p in ports
        },
    }


__all__ = ["POLICIES", "Plan", "simulate_system"]
