"""A serving engine as a tenant: requests in, pages on peers or the host, memory lent when there is little to do."""

from collections.abc import Callable
from typing import Any

from aquasim.core import Scheduler
from aquasim.errors import UserError
from aquasim.records.tables import RunTables
from aquasim.sim.adapters import AdapterSettings, AdapterStore
from aquasim.sim.carrier import PageCarrier, PageLayout
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
from aquasim.sim.llm import Choice, Llm
from aquasim.sim.tenants.borrow import SWAP, PeerTiers, SwapSpace
from aquasim.sim.tenants.lend import Lending
from aquasim.sim.tenants.replicas import Autoscale, Replicas
from aquasim.sim.topology import Server

Tiers = tuple[tuple[str, int], ...]


class LlmTenant:
    """One `Llm` under one system's choice.

    `tiers` are (name, blocks) in order of preference: "host", "peer..." (from 0 blocks on, as leases come), or the
    release's "swap". `donors` are the GPUs, one per rank, of each peer tier.
    """

    def __init__(
        self,
        name: str,
        env: Clock,
        server: Server,
        llm: Llm,
        choice: Choice,
        tiers: Tiers,
        donors: dict[str, tuple[int, ...]],
        where: str,
        adapters: AdapterSettings | None = None,
    ) -> None:
        self.name = name
        self.llm = llm
        self.adapters: AdapterStore | None = None
        self._settings = adapters
        self.records: list[tuple[str, RunTables]] = []
        self.source = llm.source(env)
        self.lending: Lending | None = None
        self._env, self._server, self._choice = env, server, choice
        self._tiers, self._donors, self._where = tiers, donors, where
        self.engine, self.carrier = self._build(name)
        self.tables = self.records[0][1]
        self.sink: Engine | Replicas = self.engine
        self._peers: PeerTiers | None = None
        self.engine.on_released = self._released

    def start(self) -> None:
        """Let requests come."""
        self.source.start(self.sink)
        if self.lending is not None:
            self.lending.start()

    @property
    def done(self) -> bool:
        """Whether every request has come and gone."""
        engines = self.sink.engines if isinstance(self.sink, Replicas) else [self.engine]
        return self.source.sent == len(self.llm.workload) and not any(engine.live for engine in engines)

    def scale(self, gpus: tuple[int, ...], rule: Autoscale) -> None:
        """Have a second replica start on `gpus` under `rule`."""
        self.sink = Replicas(self._env, self.engine, self._replica(gpus), rule)

    def peers(self) -> PeerTiers:
        """Return what consumers of leases talk to, rank by rank."""
        if self._peers is None:
            self._peers = PeerTiers(self.engine, self._donors, self.llm.block_bytes, self.tables)
        return self._peers

    def swap_space(self, rank: int, size: int) -> SwapSpace:
        """Return one rank's swap space of `size` bytes, on the host for now."""
        gpu = self.llm.gpus[rank]
        self.carrier.shares.setdefault(SWAP, [(gpu, 0.0)] * self.llm.tp)
        return SwapSpace(
            self._server, self.engine, self.carrier, self._layout("column"), rank, size, self.tables
        )

    def lend(self, make: Callable[[Engine, PageLayout], Lending]) -> Lending:
        """Let the engine lend; `make` gets it and how its blocks are copied when the cache is rebuilt."""
        self.lending = make(self.engine, self._layout("scattered"))
        return self.lending

    def meta(self) -> dict[str, Any]:
        """Return what readers of the records need to know."""
        limits = self.engine.scheduler.limits
        return {
            "kind": "llm",
            "model": self.llm.model.name,
            "gpus": list(self.llm.gpus),
            "policy": self._choice.policy,
            "blocks": limits.blocks,
            "block_bytes": self.llm.block_bytes * self.llm.tp,
            "tiers": dict(limits.tiers),
            "requests": len(self.llm.workload),
        }

    def _build(self, name: str, llm: Llm | None = None) -> tuple[Engine, PageCarrier]:
        llm = llm or self.llm
        policy = llm.policy(self._choice, self._where)
        if policy.lanes is not None:
            raise UserError(f"{self._where}: policy {self._choice.policy!r} is for scenarios of one engine")
        slots = self._settings.max_loras if self._settings else 0
        limits = llm.limits(self._choice.policy, self._tiers, max_loras=slots)
        cost = llm.cost(limits)
        carrier = llm.carrier(self._server, self._choice, self._donors, cost)
        tables, scheduler = RunTables(), Scheduler(limits, policy)
        self.records.append((name, tables))
        store = None
        if self._settings is not None:
            store = AdapterStore(self._server, llm.gpus[0], llm.model, self._settings, scheduler, tables)
            self.adapters = self.adapters or store
        engine = llm.build(self._env, scheduler, cost, carrier, tables, self.source, loader=store)
        return engine, carrier

    def _replica(self, gpus: tuple[int, ...]) -> Callable[[], Engine]:
        from dataclasses import replace

        other = replace(self.llm, gpus=gpus)
        return lambda: self._build(f"{self.name}.2", other)[0]

    def _layout(self, copies: Any) -> PageLayout:
        return PageLayout.of(self.llm.model, self.llm.tp, self.llm.engine.block_size, copies, False)

    def _released(self, tier: str, blocks: int) -> None:
        if tier == "hbm":
            if self.lending is not None:
                self.lending.released(blocks)
        elif self._peers is not None:
            self._peers.released(tier, blocks)
