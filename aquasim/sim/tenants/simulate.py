"""Several tenants on one server: builds them and their leases, and lets time pass until all are done."""

from collections.abc import Callable
from typing import Any

from aquasim.core.informers import BatchInformer, QueueInformer, WindowInformer
from aquasim.errors import UserError
from aquasim.hardware.memory import GIB
from aquasim.models import load_model
from aquasim.producers import load_producer
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.records.tenants import makespan
from aquasim.scenario.server import BatchTable, LendsTable, LlmTable, LongPromptTable
from aquasim.sim.clock import Clock
from aquasim.sim.leasing import MARKETS, Market
from aquasim.sim.simulate import links
from aquasim.sim.tenants.base import Tenant
from aquasim.sim.tenants.batch import BatchTenant
from aquasim.sim.tenants.borrow import SWAP, tier_donors
from aquasim.sim.tenants.lend import Lending, Rebuild
from aquasim.sim.tenants.llm import LlmTenant
from aquasim.sim.tenants.longprompt import LongPrompt, LongPromptSettings
from aquasim.sim.tenants.plan import SystemPlan, gpus_of
from aquasim.sim.tenants.replicas import Autoscale
from aquasim.sim.topology import Server

LONGEST_S = 7 * 86400
"""Simulated time after which a run that has not ended is called stuck."""
EVENTS = 4096


def simulate_tenants(plan: SystemPlan, progress: Callable[[float], None] | None = None) -> Run:
    """Run one system of a scenario with tenants to the end."""
    env = Clock()
    built = Built(plan, env)
    tenants = list(built.tenants.values())
    for tenant in tenants:
        tenant.start()
    while busy := [tenant.name for tenant in tenants if not tenant.done]:
        more = env.play(EVENTS)
        assert more or all(tenant.done for tenant in tenants), f"stuck: {busy}"
        assert env.ns < LONGEST_S * 1e9, f"no end: {busy}"
        if progress is not None:
            progress(min(_progress(tenant, env, plan) for tenant in tenants))
    run = Run(built.records, _meta(plan, built), plan.system)
    run.meta["links"] = links(built.server, makespan(run))
    return run


def _progress(tenant: Tenant, env: Clock, plan: SystemPlan) -> float:
    if isinstance(tenant, LlmTenant):
        return tenant.source.sent / len(tenant.llm.workload)
    return min(1.0, env.ns / plan.duration_ns)


class Built:
    """The tenants of one run, connected by a market if anybody lends."""

    def __init__(self, plan: SystemPlan, env: Clock) -> None:
        self.plan = plan
        self.env = env
        self.server = Server(env, plan.topology, plan.profile)
        self.market = self._market()
        self.meta: dict[str, dict[str, Any]] = {}
        self.tenants: dict[str, Tenant] = {}
        for name, table in plan.tenants.items():
            self.tenants[name] = self._tenant(name, table)

    @property
    def records(self) -> list[tuple[str, RunTables]]:
        """Every engine's tables."""
        return [
            each
            for name, tenant in self.tenants.items()
            for each in (tenant.records if isinstance(tenant, LlmTenant) else [(name, tenant.tables)])
        ]

    @property
    def faithful(self) -> bool:
        """Whether memory is lent as AQUA's release does."""
        return self.plan.scenario.leases.protocol == "faithful"

    def _market(self) -> Market | None:
        protocol = self.plan.scenario.leases.protocol
        if protocol == "none":
            return None
        pairs: dict[int, tuple[int, ...]] = {}
        for name, donors in self.plan.pairs.items():
            ranks = gpus_of(self.plan.tenants[name])
            pairs |= {gpu: donors[rank :: len(ranks)] for rank, gpu in enumerate(ranks) if donors}
        market: Market = MARKETS[protocol](self.env, pairs, self.plan.settings)
        return market

    def _tenant(self, name: str, table: Any) -> Tenant:
        if isinstance(table, BatchTable):
            return self._batch(name, table)
        if isinstance(table, LongPromptTable):
            return self._long_prompt(name, table)
        assert isinstance(table, LlmTable)
        return self._llm(name, table)

    # --- image and audio producers ---------------------------------------------------------------------------

    def _batch(self, name: str, table: BatchTable) -> Tenant:
        plan, tables = self.plan, RunTables()
        producer = load_producer(table.model)
        batch = table.batch or producer.max_batch
        tenant = BatchTenant(
            name,
            self.env,
            self.server,
            table.gpu,
            producer,
            batch,
            plan.duration_ns,
            tables,
            self._peak(table, tables),
        )
        if table.lend_gib is not None and table.lend_gib * GIB > tenant.free_bytes:
            raise UserError(
                f"tenants.{name}.lend_gib is {table.lend_gib:g}, but {table.model} at batch {batch} leaves only"
                f" {tenant.free_bytes / GIB:.1f} GiB free on {plan.profile.title}"
            )
        self.meta[name] = {"kind": "batch", "model": producer.name, "gpus": [table.gpu], "batch": batch}
        return tenant

    def _peak(self, table: BatchTable, tables: RunTables) -> Callable[[int], None] | None:
        """Return what is done when the first batch has shown how much memory is free."""
        if self.market is None or not table.lends:
            return None
        loan = self.market.lender(table.gpu, lambda size: None, tables)
        informer = BatchInformer(retain_bytes=round(table.retain_gib * GIB))

        def peak(free: int) -> None:
            if table.lend_gib is not None:
                free = round(table.lend_gib * GIB) + informer.retain_bytes
            size = -informer.inform(free)
            if size:
                loan.offer(size)

        return peak

    # --- long prompts ----------------------------------------------------------------------------------------

    def _long_prompt(self, name: str, table: LongPromptTable) -> Tenant:
        plan, tables = self.plan, RunTables()
        model = load_model(table.model)
        settings = LongPromptSettings(
            prompt=table.prompt,
            output=table.output,
            batch=table.batch,
            share=table.share,
            pinned=table.pinned,
            copy_bytes_per_s=table.copy_gbs * 1e9,
            blocking=self.faithful,
            shadow=self.faithful,
            split_layers=table.split_layers,
        )
        try:
            tenant = LongPrompt(
                name,
                self.env,
                self.server,
                plan.profile,
                table.gpu,
                model,
                settings,
                tables,
                plan.duration_ns,
            )
        except ValueError as error:
            raise UserError(f"tenants.{name}: {error}") from None
        if self.market is not None and plan.pairs.get(name):
            self.market.borrower(
                table.gpu, [tenant.cache.bytes(tenant.cache.remote, settings.tokens)], tenant, tables
            )
        self.meta[name] = {"kind": "long-prompt", "model": model.name, "gpus": [table.gpu]}
        return tenant

    # --- serving engines -------------------------------------------------------------------------------------

    def _llm(self, name: str, table: LlmTable) -> Tenant:
        llm, where = self.plan.llms[name], f"tenants.{name}"
        donors = tier_donors(self.plan.pairs.get(name, ()), llm.tp)
        tiers = self._tiers(name, table, donors)
        peers = {tier: ranks for tier, ranks in donors.items() if tier in dict(tiers)}
        adapters = self.plan.adapters(name, table) if table.adapters else None
        tenant = LlmTenant(name, self.env, self.server, llm, table, tiers, peers, where, adapters)
        if self.market is not None and donors and tenant.adapters is not None:
            each = tenant.adapters.shape.bytes
            self.market.borrower(
                table.gpus[0], [each] * tenant.adapters.settings.count, tenant.adapters, tenant.tables
            )
        elif self.market is not None and donors and "peer" in table.tiers:
            self._borrow(tenant, table)
        if self.market is not None and table.lends is not None:
            self._lend(tenant, table.lends)
        if table.autoscale is not None:
            scale = table.autoscale
            tenant.scale(scale.gpus, Autoscale(scale.queue, round(scale.start_s * 1e9)))
        self.meta[name] = tenant.meta()
        return tenant

    def _tiers(
        self, name: str, table: LlmTable, donors: dict[str, tuple[int, ...]]
    ) -> tuple[tuple[str, int], ...]:
        """Return the tiers' sizes in blocks: peers begin with none, for leases come later."""
        llm = self.plan.llms[name]
        if self.faithful and "peer" in table.tiers:
            if table.host_gib <= 0:
                raise UserError(
                    f"tenants.{name}.host_gib is 0, but it is the swap space that a donor may hold"
                )
            return ((SWAP, llm.blocks_of(table.host_gib)),)
        found: list[tuple[str, int]] = []
        for tier in table.tiers:
            if tier == "peer":
                found += [(each, 0) for each in donors]
            elif table.host_gib <= 0:
                raise UserError(f"tenants.{name}: tier 'host' is used, but host_gib is 0")
            else:
                found.append((tier, llm.blocks_of(table.host_gib)))
        return tuple(found)

    def _borrow(self, tenant: LlmTenant, table: LlmTable) -> None:
        assert self.market is not None
        llm = tenant.llm
        if not self.faithful and table.peer_gib <= 0:
            raise UserError(f"tenants.{tenant.name}: tier 'peer' is used, but peer_gib is 0")
        for rank, gpu in enumerate(llm.gpus):
            if self.faithful:  # all K in one call, all V in another
                half = llm.blocks_of(table.host_gib) * llm.block_bytes // 2
                space = tenant.swap_space(rank, 2 * half)
                self.market.borrower(gpu, [half, half], space, tenant.tables)
            else:
                size = round(table.peer_gib * GIB)
                self.market.borrower(gpu, [size], tenant.peers().rank(rank), tenant.tables)

    def _lend(self, tenant: LlmTenant, table: LendsTable) -> None:
        assert self.market is not None
        llm, market = tenant.llm, self.market
        retain = round(table.retain_gib * GIB)
        informer: QueueInformer | WindowInformer
        if table.informer == "window":
            informer = WindowInformer(retain_bytes=retain)
        else:
            informer = QueueInformer(
                min_retain_bytes=retain,
                max_bytes=llm.blocks * llm.block_bytes,
                donate_queue=table.donate_queue,
                reclaim_queue=table.reclaim_queue,
            )
        rebuild = Rebuild(table.allocate_s, table.capture_s)
        how = table.resize or ("rebuild" if self.faithful else "remap")
        lending = tenant.lend(
            lambda engine, layout: Lending(
                self.server,
                engine,
                llm.gpus,
                layout,
                informer,
                round(table.interval_s * 1e9),
                rebuild if how == "rebuild" else None,
                tenant.tables,
            )
        )
        for rank, gpu in enumerate(llm.gpus):
            lending.loans.append(
                market.lender(gpu, lambda size, rank=rank: lending.regained(rank, size), tenant.tables)  # type: ignore[misc]
            )


def _meta(plan: SystemPlan, built: Built) -> dict[str, Any]:
    serving = {name: meta for name, meta in built.meta.items() if "blocks" in meta}
    engines = {engine: engine.split(".2")[0] for engine, _ in built.records}
    return {
        "scenario": plan.scenario.model_dump(mode="json", exclude_none=True, exclude={"systems"}),
        "system": plan.system,
        "tenants": built.meta,
        "blocks": {e: serving[n]["blocks"] if n in serving else 1 for e, n in engines.items()},
        "block_bytes": {e: serving[n]["block_bytes"] if n in serving else 0 for e, n in engines.items()},
        "profile": plan.profile.name,
        "seed": plan.scenario.seed,
        "notes": list(plan.notes),
    }
