"""Adapters of an engine: their bytes, what a miss costs by where it is met, who makes way, and leases for them."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core import Limits, Scheduler, Step, make_policy
from aquasim.hardware.cost import StepCost
from aquasim.hardware.lora import LoraCost, LoraShape
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.records.run import Run
from aquasim.records.tables import SOURCES, RunTables
from aquasim.sim.adapters import FILE_RATE, PIN_S, TENSOR_S, AdapterSettings, AdapterStore, Lru
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
from aquasim.sim.source import Source
from aquasim.sim.topology import TOPOLOGIES, Server
from aquasim.workload import Adapters, FixedLength, Poisson, Workload, synthetic

MISTRAL = load_model("Mistral-7B")
A100 = load_profile("a100")
COST = StepCost(A100, MISTRAL, 1, 4096)
MIB = 2**20
GB = 10**9


def workload(adapters: list[int], gap_ns: int = GB, output: int = 4) -> Workload:
    """One request per entry, `gap_ns` apart, each with its adapter."""
    n = len(adapters)
    return Workload(np.arange(n) * gap_ns, [64] * n, [output] * n, adapter=adapters)  # type: ignore[arg-type]


class Watched(AdapterStore):
    """Looks, whenever an iteration begins, whether the adapters of all that run are in slots."""

    def extra_ns(self, step: Step) -> int:
        """Return what the adapters add."""
        needed = {request.adapter for request in self._scheduler.running.values()} - {-1}
        assert needed <= set(self.slots.items)
        assert len(self.slots.items) <= self.settings.max_loras
        return super().extra_ns(step)


class Bench:
    """Mistral-7B on GPU 0 of an A100 server, with adapters."""

    def __init__(
        self,
        load: Workload,
        policy: str = "fcfs",
        adapters: type[AdapterStore] | None = AdapterStore,
        **options: object,
    ) -> None:
        self.env = Clock()
        self.server = Server(self.env, TOPOLOGIES["8xA100"], A100)
        self.tables = RunTables()
        kept = AdapterSettings(**({"count": 64} | options))  # type: ignore[arg-type]
        limits = Limits(blocks=3000, max_loras=kept.max_loras if adapters else 0)
        scheduler = Scheduler(limits, make_policy(policy))
        self.store = adapters(self.server, 0, MISTRAL, kept, scheduler, self.tables) if adapters else None
        self.source = Source(self.env, load, 16, False)
        self.engine = Engine(
            self.env, scheduler, COST, self.tables, on_gone=self.source.gone, loader=self.store
        )
        self.settled: list[tuple[int, int, int]] = []

    def lend(self, second: float, donor: int, size: int) -> "Bench":
        """Let a donor lend so many bytes from a time on."""

        def grant(_: object) -> None:
            assert self.store is not None
            self.store.use_peer(donor, size, lambda: self.settled.append((self.env.ns, donor, size)))

        self.env.at(round(second * 1e9), grant)
        return self

    def play(self) -> "Bench":
        """Let everything happen."""
        self.source.start(self.engine)
        self.env.play()
        assert not self.engine.live
        self.run = Run([("engine", self.tables)], {})
        return self

    @property
    def fetches(self) -> list[tuple[int, str]]:
        """Which adapters were fetched, and from where, in order."""
        rows = self.run.columns("fetches")
        return [
            (n, SOURCES[s]) for n, s in zip(rows["object"].tolist(), rows["source"].tolist(), strict=True)
        ]

    @property
    def fetch_ns(self) -> list[int]:
        """How long fetches took."""
        rows = self.run.columns("fetches")
        return (rows["end_ns"] - rows["start_ns"]).tolist()  # type: ignore[no-any-return]

    def rct(self) -> float:
        """Mean request completion time, seconds."""
        rows = self.run.columns("requests")
        return float((rows["finished_ns"] - rows["arrival_ns"]).mean() / 1e9)


# --- sizes and costs -------------------------------------------------------------------------------------------


def test_sizes_of_adapters() -> None:
    """Mistral-7B, 16 bits: all linear layers at rank 32 are exactly 160 MiB, at 64 320; attention at 64 is 104."""
    assert LoraShape(MISTRAL, 32).bytes == 160 * MIB
    assert LoraShape(MISTRAL, 64).bytes == 320 * MIB
    assert LoraShape(MISTRAL, 64, "attention").bytes == 104 * MIB
    assert LoraShape(MISTRAL, 32).tensors == 32 * 7 * 2
    assert LoraShape(load_model("OPT-30B"), 8).tensors == 48 * 6 * 2


def test_adapters_of_experts_are_refused() -> None:
    """For a mixture of experts only attention can be adapted; a rank below 1 is an error."""
    mixtral = load_model("Mixtral-8x7B")
    assert LoraShape(mixtral, 8, "attention").bytes > 0
    with pytest.raises(ValueError, match="experts"):
        LoraShape(mixtral, 8)
    with pytest.raises(ValueError, match="rank is 0"):
        LoraShape(MISTRAL, 0)


@given(tokens=st.integers(1, 8192), adapters=st.integers(0, 64), rank=st.sampled_from([8, 16, 64]))
def test_what_adapters_add_grows_with_everything(tokens: int, adapters: int, rank: int) -> None:
    """Nothing without adapters; else no less with more tokens, adapters or rank, and no less than reading weights."""
    cost = LoraCost(A100, LoraShape(MISTRAL, rank))
    assert cost.ns(tokens, 0) == 0
    assert cost.ns(tokens, adapters) <= cost.ns(tokens + 1, adapters)
    assert cost.ns(tokens, adapters) <= cost.ns(tokens, adapters + 1)
    assert cost.ns(tokens, adapters) <= LoraCost(A100, LoraShape(MISTRAL, 2 * rank)).ns(tokens, adapters)
    weights = adapters * LoraShape(MISTRAL, rank).bytes / A100.hbm_read * 1e9
    assert cost.ns(tokens, adapters) >= weights * (1 - 1e-9)


def test_decoding_with_an_adapter_costs_a_little() -> None:
    """At rank 16 a decode iteration takes 1 to 3 ms more than without (Punica: about 2 ms per token on A100)."""
    added = LoraCost(A100, LoraShape(MISTRAL, 16)).ns(32, 32)
    assert 1e6 < added < 3.5e6


def seconds(link: str, contiguous: bool, rank: int = 64) -> float:
    """Return what a copy to the slot takes, by hand."""
    shape = LoraShape(MISTRAL, rank)
    copies = 1 if contiguous else shape.tensors
    return A100.links[link].seconds(shape.bytes / copies, copies) + shape.tensors * TENSOR_S


@pytest.mark.parametrize("contiguous", [True, False])
def test_what_a_miss_costs(contiguous: bool) -> None:
    """To the nanosecond: file = read, pin, copies; host = copies; peer = copies over NVLink."""
    shape = LoraShape(MISTRAL, 64)
    for home, lease, source, link in (
        ("file", 0, "file", "pcie_h2d"), ("host", 0, "host", "pcie_h2d"), ("host", 30 * GB, "peer", "nvlink")
    ):  # fmt: skip
        load = workload([5])
        load = Workload(load.arrival + 10 * GB, load.prompt, load.output, adapter=load.adapter)
        bench = Bench(load, home=home, contiguous=contiguous).lend(0, 1, lease).play()
        expected = seconds(link, contiguous)
        if source == "file":
            expected += shape.bytes / FILE_RATE + shape.tensors * PIN_S
        assert bench.fetches == [(5, source)]
        assert bench.fetch_ns[0] == pytest.approx(expected * 1e9, abs=2)


def test_sources_are_ordered() -> None:
    """A file costs several times the host, and the host's many tensors more than a peer's one."""
    shape = LoraShape(MISTRAL, 64)
    file = shape.bytes / FILE_RATE + shape.tensors * PIN_S + seconds("pcie_h2d", False)
    host, column, peer = (seconds("pcie_h2d", False), seconds("pcie_h2d", True), seconds("nvlink", True))
    assert file > 5 * host > 5 * column > 10 * peer


# --- who makes way ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    needs=st.lists(st.integers(-1, 7), min_size=1, max_size=25),
    slots=st.integers(1, 4),
    spare=st.integers(0, 3),
)
def test_misses_are_those_of_two_least_recently_used_caches(needs: list[int], slots: int, spare: int) -> None:
    """Requests one after another miss where a naive model of slots and host cache misses, with the same source."""
    bench = Bench(workload(needs), max_loras=slots, max_cpu_loras=slots + spare).play()
    gpu: OrderedDict[int, None] = OrderedDict()
    host: OrderedDict[int, None] = OrderedDict()
    expected = []
    for adapter in needs:
        if adapter < 0:
            continue
        if adapter not in gpu:
            expected.append((adapter, "host" if adapter in host else "file"))
        for cache, size in ((host, slots + spare), (gpu, slots)):
            cache[adapter] = None
            cache.move_to_end(adapter)
            if len(cache) > size:
                cache.popitem(last=False)
    assert bench.fetches == expected


@given(
    size=st.integers(1, 4),
    uses=st.lists(st.tuples(st.integers(0, 8), st.sets(st.integers(0, 8), max_size=3)), max_size=40),
)
def test_kept_numbers_never_make_way(size: int, uses: list[tuple[int, set[int]]]) -> None:
    """Whoever makes way is the least recently used of those that are not kept."""
    lru, order = Lru(size), []  # type: tuple[Lru, list[int]]
    for number, kept in uses:
        if number in lru:
            lru.touch(number)
            order.remove(number)
            order.append(number)
        elif len(order) < size or set(order) - kept:
            evicted = lru.insert(number, kept)
            expected = next((n for n in order if n not in kept), None) if len(order) == size else None
            assert evicted == expected
            if evicted is not None:
                order.remove(evicted)
            order.append(number)
        assert list(lru.items) == order


@pytest.mark.parametrize("policy", ["fcfs", "fcfs-v0", "cfs", "aqua"])
def test_slots_hold_what_runs(policy: str) -> None:
    """Under load, every iteration's requests have their adapters in slots, of which there are no more than said."""
    law = Adapters(12, 0.5)
    load = law.assign(synthetic(Poisson(20), FixedLength(100), FixedLength(60), requests=120, seed=2), 2)
    bench = Bench(load, policy, Watched, max_loras=3, rank=16, home="host").play()
    store = bench.store
    assert store is not None
    assert bench.run.count("requests") == 120
    assert not store._decoding
    assert not store._decoders


def test_an_iteration_waits_for_its_adapters_and_others_wait_with_it() -> None:
    """The step that starts a request begins when its last adapter is there; fetches come one after another."""
    bench = Bench(workload([1, 2], gap_ns=0), max_loras=2, home="host").play()
    fetches = bench.run.columns("fetches")
    assert fetches["start_ns"].tolist() == [0, fetches["end_ns"][0]]
    assert bench.run.columns("steps")["start_ns"][0] == fetches["end_ns"][1]


def test_without_adapters_nothing_is_different() -> None:
    """A store that no request needs leaves every record as it is without one."""
    rows = [Bench(workload([-1] * 8, 10**7), adapters=s).play().tables.rows for s in (AdapterStore, None)]
    assert rows[0] == rows[1]


def test_an_iteration_takes_what_its_adapters_add() -> None:
    """Steps of a request with an adapter last as long as without, and the extra of one token and one adapter."""
    plain, adapted = (Bench(workload([a]), rank=16, home="host").play().run.columns("steps") for a in (-1, 3))
    extra = LoraCost(A100, LoraShape(MISTRAL, 16))
    assert (adapted["first_ns"] - plain["first_ns"]).tolist() == [extra.ns(64, 1), extra.ns(1, 1)]


def test_the_same_run_twice() -> None:
    """Records are equal to the last byte, and differ with another seed."""

    def rows(seed: int) -> dict[str, bytearray]:
        load = synthetic(Poisson(5), FixedLength(64), FixedLength(16), requests=40, seed=1)
        bench = Bench(Adapters(20, 1.0).assign(load, seed), max_loras=4, home="host", contiguous=True)
        return bench.lend(0, 1, 5 * GB).lend(3, 1, GB).play().tables.rows

    assert rows(1) == rows(1)
    assert rows(1)["fetches"] != rows(2)["fetches"]


# --- leases ----------------------------------------------------------------------------------------------------


def test_adapters_that_fit_the_lease_come_from_the_peer() -> None:
    """A lease of 10.5 adapters holds the first ten; the others come from the host."""
    size = LoraShape(MISTRAL, 64).bytes
    load = workload(list(range(20)))
    load = Workload(load.arrival + 5 * GB, load.prompt, load.output, adapter=load.adapter)
    bench = Bench(load, home="host", contiguous=True).lend(0, 1, size * 21 // 2).play()
    assert [source for _, source in bench.fetches] == ["peer"] * 10 + ["host"] * 10
    assert bench.server.fabric.ports["gpu1.h2d"].carried == 10 * size
    assert bench.settled[0][0] == pytest.approx(10 * A100.links["pcie_h2d"].seconds(size) * 1e9, abs=20)


@pytest.mark.parametrize("shadow", [True, False])
def test_a_revoked_lease_sends_adapters_home(shadow: bool) -> None:
    """After a revocation they come from the host, after a new lease from the peer again; all grants settle.

    Copying back is what AQUA's release does; without, memory is returned at once, for the host has it all.
    """
    load = workload([i % 4 for i in range(30)])
    bench = Bench(load, home="host", contiguous=True, shadow=shadow)
    bench.lend(0, 1, 30 * GB).lend(10.5, 1, 0).lend(20.5, 1, 30 * GB).play()
    sources = [source for _, source in bench.fetches]
    assert sources[3:10] == ["peer"] * 7
    assert sources[11:20] == ["host"] * 9
    assert sources[23:] == ["peer"] * 7
    assert [size for _, _, size in bench.settled] == [30 * GB, 0, 30 * GB]
    back = bench.server.fabric.ports["gpu1.d2h"].carried
    assert back == (64 * LoraShape(MISTRAL, 64).bytes if shadow else 0)
    assert (bench.settled[1][0] == 10.5 * GB) is not shadow


def test_a_fetch_under_way_keeps_its_memory() -> None:
    """A lease that is called back while an adapter is read from it settles when that one is there."""
    load = Workload([10 * GB], [64], [4], adapter=[3])  # type: ignore[arg-type]
    bench = Bench(load, home="host", shadow=False).lend(0, 1, 30 * GB).lend(10.0005, 1, 0).play()
    fetches = bench.run.columns("fetches")
    assert bench.fetches == [(3, "peer")]
    assert bench.settled[1][0] == fetches["end_ns"][0] > 10.0005 * GB


# --- S6 --------------------------------------------------------------------------------------------------------


def test_completion_times_follow_the_source() -> None:
    """Many adapters, few slots: requests complete soonest from a peer, then from the host, last from files."""
    load = Adapters(40, 0.0).assign(
        synthetic(Poisson(1.2), FixedLength(256), FixedLength(64), requests=80, seed=3), 3
    )
    file = Bench(load, max_loras=4).play().rct()
    host = Bench(load, max_loras=4, home="host").play().rct()
    peer = Bench(load, max_loras=4, home="host", contiguous=True).lend(0, 1, 30 * GB).play().rct()
    assert file > host > peer
    assert 1.1 < file / peer < 1.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"max_loras": 0}, "max_loras is 0"),
        ({"max_loras": 4, "max_cpu_loras": 2}, "below max_loras"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, int], message: str) -> None:
    """Sizes that make no sense are ValueErrors."""
    with pytest.raises(ValueError, match=message):
        AdapterSettings(**({"count": 4} | options))  # type: ignore[arg-type]
