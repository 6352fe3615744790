"""From a scenario with tenants to objects: names, sizes, GPUs and pairs resolved and checked, system by system."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from aquasim.errors import UserError
from aquasim.hardware.coverage import unmeasured
from aquasim.hardware.lora import LoraShape
from aquasim.hardware.profile import Profile
from aquasim.scenario.server import BatchTable, LlmTable, LongPromptTable, ServerScenario
from aquasim.sim.adapters import AdapterSettings
from aquasim.sim.leasing import Settings
from aquasim.sim.leasing.base import MIB
from aquasim.sim.llm import Llm
from aquasim.sim.simulate import find_server
from aquasim.sim.topology import Topology

TenantTable = LlmTable | BatchTable | LongPromptTable


@dataclass(frozen=True)
class SystemPlan:
    """A scenario as one system runs it."""

    scenario: ServerScenario
    system: str
    topology: Topology
    profile: Profile

    @classmethod
    def of(
        cls, scenario: ServerScenario, system: str, changes: Mapping[str, Any] | None = None
    ) -> "SystemPlan":
        """Apply the system's changes and check what they give.

        Raises:
            UserError: a name is unknown, GPUs are taken twice, something does not fit, or pairs make no sense.
        """
        if system not in scenario.systems:
            raise UserError(f"unknown system {system!r}; the scenario has: {', '.join(scenario.systems)}")
        try:
            under = scenario.under(system, changes)
            plan = cls(under, system, *find_server(under.machine.server, under.machine.profile))
            plan.check()
        except UserError:
            raise
        except ValueError as error:
            raise UserError(str(error)) from None
        return plan

    @cached_property
    def tenants(self) -> dict[str, TenantTable]:
        """Those that are there."""
        return {n: t for n, t in self.scenario.tenants.items() if n not in self.scenario.without}

    @cached_property
    def llms(self) -> dict[str, Llm]:
        """The serving engines, with their workloads; each tenant draws from streams of its own seed."""
        found = {}
        for index, (name, table) in enumerate(self.scenario.tenants.items()):
            if isinstance(table, LlmTable) and name in self.tenants:
                where = f"tenants.{name}."
                seed = self.scenario.seed + 1000 * index
                llm = Llm.of(self.profile, table.model, table.gpus, table.engine, table.workload, seed, where)
                if table.adapters is not None:
                    llm = self._beside_adapters(name, table, llm)
                late = replace(llm.workload, arrival=llm.workload.arrival + round(table.start_s * 1e9))
                found[name] = replace(llm, workload=late)
        return found

    def adapters(self, name: str, table: LlmTable) -> AdapterSettings:
        """Return how a tenant keeps its workload's adapters."""
        kept, asked = table.adapters, table.workload.adapters
        assert kept is not None
        if asked is None:
            raise UserError(f"tenants.{name}.adapters: its workload asks for none; give workload.adapters")
        try:
            return AdapterSettings(
                count=asked.count,
                rank=kept.rank,
                targets=kept.targets,
                max_loras=kept.max_loras,
                max_cpu_loras=kept.max_cpu_loras,
                home=kept.home,
                contiguous=kept.contiguous,
                shadow=self.scenario.leases.protocol == "faithful",
            )
        except ValueError as error:
            raise UserError(f"tenants.{name}.adapters: {error}") from None

    def _beside_adapters(self, name: str, table: LlmTable, llm: Llm) -> Llm:
        """Take the adapters' slots from the KV cache, unless its size is given."""
        if llm.tp > 1:
            raise UserError(f"tenants.{name}.adapters: known for one GPU only, and model.tp is {llm.tp}")
        settings = self.adapters(name, table)
        slots = settings.max_loras * LoraShape(llm.model, settings.rank, settings.targets).bytes
        return llm if table.engine.kv_blocks else llm.without(slots)

    @cached_property
    def pairs(self) -> dict[str, tuple[int, ...]]:
        """The donor GPUs of each tenant that borrows: one per rank, then the next one per rank, and so on."""
        if self.scenario.leases.protocol == "none":
            return {}
        found = {}
        for name, donors in self.scenario.pairs.items():
            if name in self.tenants:
                there = [donor for donor in donors if donor in self.tenants]
                found[name] = tuple(gpu for donor in there for gpu in gpus_of(self.tenants[donor]))
        return found

    @property
    def settings(self) -> Settings:
        """The protocol's constants."""
        leases = self.scenario.leases
        return Settings(
            poll_ns=round(leases.poll_s * 1e9),
            message_ns=round(leases.message_s * 1e9),
            lease_ns=round(leases.lease_s * 1e9),
            heartbeat_ns=round(leases.heartbeat_s * 1e9),
            drain_ns=round(leases.drain_s * 1e9),
            extent_bytes=leases.extent_mib * MIB,
        )

    @property
    def duration_ns(self) -> int:
        """How long tenants without requests go on."""
        return round(self.scenario.duration_s * 1e9)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results ought to know."""
        notes: dict[str, None] = {}
        for name, llm in self.llms.items():
            for note in (*llm.workload.notes, *unmeasured(self.profile, llm.model, llm.tp)):
                notes[f"{name}: {note}"] = None
        return tuple(notes)

    # --- checks ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise UserError for what cannot be."""
        self._check_names()
        self._check_gpus()
        for name, llm in self.llms.items():
            self._check_lender(name, llm)
        if self.scenario.leases.protocol != "none":
            for name, donors in self.scenario.pairs.items():
                if name in self.tenants:
                    self._check_pair(name, [donor for donor in donors if donor in self.tenants])

    def _check_names(self) -> None:
        known = self.scenario.tenants
        pairs = self.scenario.pairs
        places = {
            "pairs": [*pairs, *(donor for donors in pairs.values() for donor in donors)],
            "without": self.scenario.without,
            "show": self.scenario.show,
        }
        for place, names in places.items():
            for name in names:
                if name not in known:
                    raise UserError(f"{place}: no tenant is called {name!r}; there are: {', '.join(known)}")
        if not self.tenants:
            raise UserError(f"systems.{self.system}: without leaves no tenant")

    def _check_gpus(self) -> None:
        taken = Counter(gpu for name in self.tenants for gpu in self._all_gpus(name))
        for name in self.tenants:
            for gpu in self._all_gpus(name):
                if gpu >= self.topology.gpus:
                    raise UserError(
                        f"tenants.{name}: there is no GPU {gpu}; {self.topology.name} has {self.topology.gpus}"
                    )
                if taken[gpu] > 1:
                    others = [n for n in self.tenants if gpu in self._all_gpus(n)]
                    raise UserError(
                        f"GPU {gpu} is given to {' and '.join(dict.fromkeys(others))}; one tenant per GPU"
                    )

    def _all_gpus(self, name: str) -> tuple[int, ...]:
        table = self.tenants[name]
        more = table.autoscale.gpus if isinstance(table, LlmTable) and table.autoscale else ()
        return (*gpus_of(table), *more)

    def _check_pair(self, name: str, donors: list[str]) -> None:
        where = f"pairs.{name}"
        table = self.tenants[name]
        if isinstance(table, BatchTable):
            raise UserError(f"{where}: {name} is a batch producer, which borrows nothing")
        for donor in donors:
            if not _lends(self.tenants[donor]):
                raise UserError(f"{where}: {donor} does not lend (its key lends)")
        if _lends(table):
            raise UserError(
                f"{where}: {name} lends and borrows, which goes round in circles; take its key lends or the pair out"
            )
        if isinstance(table, LlmTable) and table.adapters is not None and "peer" in table.tiers:
            raise UserError(f"{where}: donors hold {name}'s adapters or its pages, not both; take one out")
        gpus, given = gpus_of(table), self.pairs[name]
        if len(given) % len(gpus):
            raise UserError(
                f"{where}: {len(given)} donor GPUs for {len(gpus)} ranks; give as many for each rank"
            )
        if self.scenario.leases.protocol == "faithful" and len(given) > len(gpus):
            raise UserError(f"{where}: faithful, and AQUA's release knows one donor per consumer GPU")
        for index, lender in enumerate(given):
            if not self.topology.connected(gpus[index % len(gpus)], lender):
                raise UserError(
                    f"{where}: GPU {lender} has no peer link to GPU {gpus[index % len(gpus)]} on {self.topology.name}"
                )

    def _check_lender(self, name: str, llm: Llm) -> None:
        table = self.tenants[name]
        assert isinstance(table, LlmTable)
        if table.lends is None:
            return
        kept = llm.blocks_of(table.lends.retain_gib) * llm.engine.block_size
        if kept >= llm.blocks * llm.engine.block_size:
            raise UserError(
                f"tenants.{name}.lends.retain_gib is {table.lends.retain_gib:g}, but its KV cache has"
                f" {llm.blocks * llm.block_bytes / 2**30:.1f} GiB per GPU; nothing would be left to lend"
            )
        if kept < llm.max_model_len:
            raise UserError(
                f"tenants.{name}.engine.max_model_len is {llm.max_model_len}, but with lends.retain_gib"
                f" {table.lends.retain_gib:g} only {kept} tokens of KV cache may be left"
            )


def gpus_of(table: TenantTable) -> tuple[int, ...]:
    """Return a tenant's GPUs in the order of ranks."""
    return table.gpus if isinstance(table, LlmTable) else (table.gpu,)


def _lends(table: TenantTable) -> bool:
    if isinstance(table, BatchTable):
        return table.lends
    return isinstance(table, LlmTable) and table.lends is not None
