"""A serving engine resolved from tables: model, GPUs, workload, memory; and built into simulated time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.core.policies.base import Policy
from aquasim.errors import UserError
from aquasim.hardware.cost import SHARED_SAVING, StepCost
from aquasim.hardware.host import Host
from aquasim.hardware.lanes import LaneCost
from aquasim.hardware.local import ENGINE, as_stored, check_model
from aquasim.hardware.memory import GIB, kv_blocks
from aquasim.hardware.profile import Profile
from aquasim.hardware.rates import RateCost
from aquasim.hardware.serving import Serving, load_serving, measured_serving
from aquasim.hardware.steps import EngineCost, Steps
from aquasim.hardware.throttle import Heat
from aquasim.models import Model, load_model
from aquasim.records.tables import RunTables
from aquasim.scenario.schema import EngineTable, ModelTable, WorkloadTable
from aquasim.scenario.workloads import make_workload
from aquasim.sim.carrier import Copies, PageCarrier, PageLayout
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine, Loader
from aquasim.sim.source import Source
from aquasim.sim.topology import Server
from aquasim.workload import Workload


class Choice(Protocol):
    """How one system runs an engine: a scenario's system, or a tenant with the system's changes."""

    @property
    def policy(self) -> str:
        """A name in `POLICIES`."""

    @property
    def options(self) -> dict[str, Any]:
        """The policy's options."""

    @property
    def copies(self) -> Copies:
        """How a block leaves HBM."""

    @property
    def released(self) -> bool:
        """Gather columns at the cost of AQUA's release."""


@dataclass(frozen=True)
class Llm:
    """A model on some GPUs, its engine's limits, and its workload. `where` names its tables in errors."""

    profile: Profile
    model: Model
    tp: int
    gpus: tuple[int, ...]
    engine: EngineTable
    workload: Workload
    blocks: int
    max_model_len: int
    serving: Serving
    where: str

    @classmethod
    def of(
        cls,
        profile: Profile,
        model_table: ModelTable,
        gpus: tuple[int, ...],
        engine: EngineTable,
        workload_table: WorkloadTable,
        seed: int,
        where: str = "",
        model: Model | None = None,
    ) -> "Llm":
        """Resolve names, sizes and the workload; `model` stands in for the one that `model_table` names.

        Raises:
            UserError: a name is unknown, the model does not fit, or the workload is faulty.
            ValueError: the same, said by a part that knows no scenario.
        """
        tp, model = model_table.tp, model or load_model(model_table.name)
        own = profile.blocks.get("runtime", {}) if engine.version == ENGINE else None
        if own:
            check_model(profile, model)
            model = as_stored(model, own["itemsize"])
        if len(gpus) != tp:
            raise UserError(f"{where}gpus names {len(gpus)} GPUs, model.tp is {tp}; give one per rank")
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
        what = f"{model.name} with tp={tp} leaves room for"
        if blocks > fitting:
            raise UserError(
                f"{where}engine.kv_blocks is {blocks}, but {what} {fitting} on"
                f" {profile.title} at gpu_memory_utilization {engine.gpu_memory_utilization}"
            )
        room = blocks * engine.block_size
        longest = engine.max_model_len or min(model.max_position, room)
        if longest > room:
            raise UserError(
                f"{where}engine.max_model_len is {longest} tokens, but {what}"
                f" only {room} tokens of KV cache on {profile.title}; lower it or raise tp"
            )
        workload = make_workload(workload_table, seed, engine.block_size)
        if (
            engine.prefix_caching
            and workload.prefix is not None
            and workload.prefix_block % engine.block_size
        ):
            raise UserError(
                f"{where}engine.block_size is {engine.block_size}, but the workload's prefix hashes stand for"
                f" {workload.prefix_block} tokens each; with prefix_caching the block size must divide that"
            )
        version = load_serving(engine.version) if own is None else measured_serving(ENGINE, own)
        serving = version.with_overheads(engine.decode_overhead_s, engine.mixed_overhead_s)
        return cls(profile, model, tp, gpus, engine, workload, blocks, longest, serving, where)

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block on one GPU."""
        return self.model.kv_bytes_per_token_gpu(self.tp) * self.engine.block_size

    def blocks_of(self, size: float) -> int:
        """KV blocks per GPU in so many GiB."""
        return int(size * GIB) // self.block_bytes

    def without(self, size: int) -> "Llm":
        """Return the engine with so many bytes per GPU less for its KV cache."""
        blocks = self.blocks - -(-size // self.block_bytes)
        if blocks < 1:
            raise UserError(f"{self.where}adapters take {size / GIB:.1f} GiB, more than the KV cache has")
        longest = min(self.max_model_len, blocks * self.engine.block_size)
        return replace(self, blocks=blocks, max_model_len=longest)

    def limits(
        self, policy: str, tiers: tuple[tuple[str, int], ...], fused: bool = True, max_loras: int = 0
    ) -> Limits:
        """Return the engine's limits: memory in blocks, tiers in blocks per rank."""
        engine = self.engine
        return Limits(
            blocks=self.blocks,
            block_size=engine.block_size,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            long_prefill_token_threshold=engine.long_prefill_token_threshold,
            prefix_caching=engine.prefix_caching,
            prefill="prompt-only" if policy == "fcfs-v0" else engine.prefill,
            tiers=tiers,
            max_loras=max_loras,
            max_repeat=1 << 30 if fused else 1,
        )

    def cost(self, limits: Limits) -> Steps:
        """Return what iterations cost; prompts that are not chunked may exceed the budget of tokens."""
        if self.serving.name == ENGINE:
            host = self.serving.decode_s, self.serving.mixed_s
            block = self.profile.blocks["runtime"]
            return EngineCost(block["step"], (round(host[0] * 1e9), round(host[1] * 1e9)))
        if "rates" in self.profile.blocks:
            return self._rated()
        longest = limits.max_model_len if limits.prefill == "prompt-only" else 0
        most = max(limits.max_num_batched_tokens, longest) + limits.max_num_seqs
        sampling = self.engine.sampling
        try:
            return StepCost(self.profile, self.model, self.tp, most, serving=self.serving, sampling=sampling)
        except ValueError as error:
            raise UserError(f"{self.where}{error}") from None

    def _rated(self) -> RateCost:
        try:
            return RateCost(self.profile, self.model, self.tp, serving=self.serving)
        except ValueError as error:
            raise UserError(f"{self.where}{error}") from None

    def lane_cost(self, cost: Steps, host: Host | None, where: str) -> LaneCost:
        """Return what iterations with lanes cost on a host.

        Raises:
            UserError: nothing is known of the host, or of the layers of the GPU's iterations.
        """
        if host is None:
            raise UserError(
                f"{where}: decode attention on the host, but nothing is known of this server's processor"
            )
        if not isinstance(cost, StepCost | RateCost):
            raise UserError(
                f"{where}: lanes need times of layers, which profile {self.profile.name} does not have"
            )
        kv_bytes = self.model.kv_bytes_per_token_gpu(self.tp) * self.tp // self.model.layers
        return LaneCost(cost, host, kv_bytes, self.profile.links["pcie_d2h"].bandwidth * self.tp)

    def policy(self, choice: Choice, where: str) -> Policy:
        """Make the policy; `where` names its table in errors."""
        try:
            policy = make_policy(choice.policy, **choice.options)
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: {error}") from None
        if policy.overlap and not policy.sliced and self.engine.prefill == "prompt-only":
            raise UserError(f"{where}: {choice.policy} overlaps transfers with chunked prefill only")
        return policy

    def carrier(
        self, server: Server, choice: Choice, donors: Mapping[str, tuple[int, ...]], cost: Steps
    ) -> PageCarrier:
        """Return what moves its pages; `donors` are the GPUs, one per rank, whose memory each peer tier is."""
        size = self.engine.block_size
        layout = PageLayout.of(self.model, self.tp, size, choice.copies, choice.released)
        return PageCarrier(server, self.gpus, donors, layout, cost, round(self.serving.transfer_s * 1e9))

    def build(
        self,
        env: Clock,
        scheduler: Scheduler,
        cost: Steps,
        carrier: PageCarrier | None,
        tables: RunTables,
        source: Source,
        record_events: bool = False,
        loader: Loader | None = None,
        lane_time: LaneCost | None = None,
    ) -> Engine:
        """Put an engine together that runs the scheduler's decisions and tells `source` who left."""
        serving, throttle = self.serving, self.profile.throttle
        return Engine(
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
            spared=self.engine.block_size * SHARED_SAVING if self.engine.prefix_caching else 0.0,
            loader=loader,
            padded=serving.padded,
            lane_time=lane_time,
        )

    def source(self, env: Clock) -> Source:
        """Return what feeds the workload in."""
        delay_ns = round(self.serving.request_s * 1e9)
        engine = self.engine
        return Source(env, self.workload, engine.block_size, engine.prefix_caching, delay_ns)
