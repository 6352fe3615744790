"""Builds what a run needs: weights, cache, tiers, executor; and says early what this machine lacks."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aquasim.core import Limits, Scheduler
from aquasim.core.hosts import HOST
from aquasim.errors import UserError
from aquasim.hardware.memory import GIB
from aquasim.runtime.arenas import Arena, ArenaError, create
from aquasim.runtime.copy import Copier, CopyError, open_copier
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.leased import LeasedTier
from aquasim.runtime.executor.worker import Threaded
from aquasim.runtime.local.copies import expected
from aquasim.runtime.local.lanes import Host
from aquasim.runtime.local.options import Options
from aquasim.runtime.local.plan import shape_of
from aquasim.runtime.local.watch import Watched
from aquasim.runtime.pager import Pager, Window
from aquasim.runtime.peers import PeerClient
from aquasim.scenario.schema import SystemTable
from aquasim.sim.simulate import Plan, system_limits

if TYPE_CHECKING:
    from aquasim.runtime.engine import KvPool, LlamaConfig, Runner

MOST_OF_RAM = 0.7
"""Share of the memory at hand that weights, cache and the tier "host" may take."""


@dataclass
class Parts:
    """What a run consists of; `close` frees it."""

    executor: Executor
    config: "LlamaConfig"
    device: str
    dtype: str
    copier: Copier
    worker: Threaded
    arenas: list[Arena]
    client: PeerClient | None = None
    leased: LeasedTier | None = None
    host: Host | None = None
    wanted_blocks: int = 0
    """Blocks that were asked of donors."""

    def close(self) -> None:
        """Free memory and end threads."""
        self.worker.close()
        if self.client is not None:
            self.client.close()
        if self.leased is not None:
            self.leased.close()
        self.copier.close()
        if self.host is not None:
            self.host.close()
        for arena in self.arenas:
            arena.close()


def build(plan: Plan, name: str, options: Options, now: Callable[[], int]) -> Parts:
    """Build one system of a scenario.

    Raises:
        UserError: the model is of another family, memory or a GPU is missing, or a tier cannot be had.
    """
    system = plan.scenario.systems[name]
    if "peer" in system.tiers and options.peers is None:
        raise UserError(
            f"systems.{name} pages to peers: start `aquasim coordinator` and `aquasim donate`, give --peers SOCKET"
            " (--peers own starts both)"
        )
    limits = system_limits(plan, system, fused=False)
    try:
        return _build(plan, system, name, limits, options, now)
    except (ArenaError, CopyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: {error}") from None


def _build(
    plan: Plan, system: SystemTable, name: str, limits: Limits, options: Options, now: Callable[[], int]
) -> Parts:
    device = _device(options.device)
    dtype = options.dtype or ("float32" if device == "cpu" else "bfloat16")
    config, runner, pool = _model(plan, limits, options, device, dtype)
    copier = open_copier("cpu" if device == "cpu" else 0)
    pager = Pager(copier, Window(pool.base, pool.block_bytes), options.check, now)
    worker = Threaded() if options.watch is None else Watched(options.watch)
    policy = plan.llm.policy(system, f"systems.{name}")
    tiers = tuple((tier, 0 if tier == "peer" else blocks) for tier, blocks in limits.tiers)
    scheduler = Scheduler(_with_tiers(limits, tiers), policy)
    host = Host(runner, policy, limits, device) if policy.lanes is not None and policy.lanes.host else None
    if policy.predictor is not None:
        assert host is not None
        nvlink = plan.profile.links["nvlink"].bandwidth
        copies = expected(system.tiers, copier, pool, host.arena, nvlink)
        policy.predictor = replace(policy.predictor, copies=copies)
    executor = Executor(
        scheduler, runner, pager if tiers else None, now=now, worker=worker, record_events=True
    )
    parts = Parts(executor, config, device, dtype, copier, worker, [], host=host)
    for tier, blocks in limits.tiers:
        if tier == "peer":
            _lease(parts, options, blocks, pool.block_bytes)
        else:
            _own(parts, pager, tier, blocks, pool.block_bytes)
    return parts


def _with_tiers(limits: Limits, tiers: tuple[tuple[str, int], ...]) -> Limits:
    return replace(limits, tiers=tiers)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r}: valid are auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    return name


def _model(
    plan: Plan, limits: Limits, options: Options, device: str, dtype: str
) -> tuple["LlamaConfig", "Runner", "KvPool"]:
    import torch

    from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, load_weights, random_weights

    kind = getattr(torch, dtype)
    config = LlamaConfig.read(options.weights) if options.weights else LlamaConfig.from_model(plan.llm.model)
    if options.weights and limits.max_model_len > config.max_positions:
        raise UserError(
            f"engine.max_model_len is {limits.max_model_len}, but {options.weights} has {config.max_positions}"
            f" positions: --set engine.max_model_len={config.max_positions}"
        )
    _check_ram(options.weights or plan.llm.model.name, limits, config, kind.itemsize, device)
    where: Any = {"dtype": kind, "device": device}
    if options.weights:
        weights = load_weights(options.weights, config, **where)
    else:
        weights = random_weights(config, plan.scenario.seed, **where)
    pool = KvPool.of(config, limits.blocks, limits.block_size, **where)
    longest = min(limits.max_model_len, config.max_positions)
    runner = Runner(config, weights, pool, device=device, max_seqs=limits.max_num_seqs, max_len=longest)
    return config, runner, pool


def _check_ram(name: Any, limits: Limits, config: "LlamaConfig", itemsize: int, device: str) -> None:
    """Raise UserError unless all that is kept in host memory fits it: on a GPU's machine, the tier "host" only."""
    block = limits.block_size * config.layers * 2 * config.kv_heads * config.head_dim * itemsize
    pages = dict(limits.tiers).get(HOST, 0)
    cache, host = limits.blocks * block, pages * block
    weights = shape_of(config, str(name)).parameters * itemsize
    own = weights + cache if device == "cpu" else 0
    have = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if own > MOST_OF_RAM * have:
        raise UserError(
            f"{name}: weights of {weights / GIB:.1f} GiB and a cache of {cache / GIB:.1f} GiB"
            f" ({limits.blocks} blocks) do not fit the {have / GIB:.1f} GiB of memory at hand;"
            " set engine.kv_blocks, or a smaller model"
        )
    if own + host > MOST_OF_RAM * have:
        beside = f" beside weights and cache of {own / GIB:.1f} GiB" if own else ""
        raise UserError(
            f"{name}: pages of {host / GIB:.1f} GiB on the host ({pages} blocks) do not fit the"
            f" {have / GIB:.1f} GiB of memory at hand{beside}; set a smaller machine.host_gib"
        )


def _own(parts: Parts, pager: Pager, tier: str, blocks: int, block_bytes: int) -> None:
    if parts.host is not None and tier == HOST:
        arena = parts.host.arena
    else:
        arena = create("host", blocks * block_bytes)
        parts.arenas.append(arena)
        arena.scrub()  # touched now, not when the first pages leave
    slots = pager.tier(tier)
    slots.add("own", arena.ptr, blocks * block_bytes)
    slots.grow(blocks)


def _lease(parts: Parts, options: Options, blocks: int, block_bytes: int) -> None:
    parts.leased = LeasedTier(parts.executor, "peer")
    device = "cpu" if parts.device == "cpu" else 0
    parts.client = PeerClient(
        options.peers, f"engine-{os.getpid()}", device=device,
        usable=parts.leased.usable, evacuate=parts.leased.evacuate,
    )  # fmt: skip
    parts.leased.client = parts.client
    parts.client.start()
    if not parts.client.wait_connected(5.0):
        raise UserError(f"--peers {options.peers}: no coordinator answers there")
    parts.client.want(blocks * block_bytes)
    parts.wanted_blocks = blocks
