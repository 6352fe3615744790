"""Links: who gets how much of them, when the last byte arrives, and what copies of pages cost."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core import Move, Transfer
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.sim.carrier import Copies, PageCarrier, PageLayout
from aquasim.sim.clock import Clock
from aquasim.sim.fabric import CopyEngine, Done, Fabric, Flow, Port, fair_rates
from aquasim.sim.topology import TOPOLOGIES, Server

GB = 1e9
"""Bytes per second at which a byte takes a nanosecond."""


def nothing() -> None:
    """Do nothing when a flow is done."""


def rates(capacities: dict[str, float], flows: list[tuple[str, float]]) -> list[float]:
    """Return fair rates of flows given as (port letters, cap)."""
    ports = {name: Port(name, capacity) for name, capacity in capacities.items()}
    return fair_rates([Flow(tuple(ports[c] for c in path), 1, cap, nothing) for path, cap in flows])


@pytest.mark.parametrize(
    ("capacities", "flows", "expected"),
    [
        ({"a": 9.0}, [("a", inf)], [9]),
        ({"a": 9.0}, [("a", inf)] * 3, [3, 3, 3]),
        ({"a": 9.0}, [("a", 1.0), ("a", inf), ("a", inf)], [1, 4, 4]),
        ({"a": 9.0}, [("a", 1.0), ("a", 2.0)], [1, 2]),
        ({"a": 1.0, "b": 1.0}, [("ab", inf), ("a", inf), ("b", inf)], [0.5, 0.5, 0.5]),
        ({"a": 1.0, "b": 2.0}, [("ab", inf), ("a", inf), ("b", inf)], [0.5, 0.5, 1.5]),
        ({"a": 10.0, "b": 4.0}, [("a", inf), ("ab", inf), ("b", inf), ("b", inf)], [26 / 3, 4 / 3, 4 / 3, 4 / 3]),
        ({"a": 10.0, "b": 4.0}, [("a", 3.0), ("ab", inf), ("b", 0.5)], [3, 3.5, 0.5]),
        ({"a": 6.0, "b": 6.0, "c": 6.0}, [("ab", inf), ("bc", inf), ("ca", inf)], [3, 3, 3]),
        ({"a": 8.0, "b": 1.0}, [("ab", inf), ("a", inf)], [1, 7]),
    ],
    ids=[
        "alone", "one bottleneck", "cap gives way", "caps leave room", "line", "line, unequal",
        "two bottlenecks", "two bottlenecks and caps", "ring", "bottleneck elsewhere",
    ],
)  # fmt: skip
def test_rates_solved_by_hand(
    capacities: dict[str, float], flows: list[tuple[str, float]], expected: list[float]
) -> None:
    """Progressive filling gives the max-min fair rates that pencil and paper give."""
    assert rates(capacities, flows) == pytest.approx(expected, rel=1e-9)


PORTS = "abcde"
PATH = st.lists(st.sampled_from(PORTS), min_size=1, max_size=4, unique=True).map("".join)
SPEED = st.floats(1e6, 5e11)
NETS = st.tuples(
    st.fixed_dictionaries(dict.fromkeys(PORTS, SPEED)),
    st.lists(st.tuples(PATH, st.one_of(st.just(inf), SPEED)), min_size=1, max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(net=NETS)
def test_rates_are_max_min_fair(net: tuple[dict[str, float], list[tuple[str, float]]]) -> None:
    """No port is exceeded, and every flow runs at its cap or passes a full port where nobody has more than it.

    That is the definition of max-min fairness, and implies that no usable capacity is left idle.
    """
    capacities, flows = net
    found = rates(capacities, flows)
    used = {name: sum(r for r, (path, _) in zip(found, flows, strict=True) if name in path) for name in PORTS}
    assert all(used[name] <= capacities[name] * (1 + 1e-9) for name in PORTS)
    for rate, (path, cap) in zip(found, flows, strict=True):
        assert 0 < rate <= cap * (1 + 1e-9)
        full = [name for name in path if used[name] >= capacities[name] * (1 - 1e-9)]
        most = {n: max(r for r, (p, _) in zip(found, flows, strict=True) if n in p) for n in full}
        assert rate >= cap * (1 - 1e-9) or any(rate >= most[name] * (1 - 1e-9) for name in full)


def deliver(capacities: dict[str, float], flows: list[tuple[int, str, int, float]]) -> list[int]:
    """Return when flows of (start, path, bytes, cap) arrive, and check that ports count their bytes."""
    env = Clock()
    fabric = Fabric(env)
    ports = {name: fabric.port(name, capacity) for name, capacity in capacities.items()}
    arrived = [-1] * len(flows)

    def send(index: int) -> None:
        _, path, size, cap = flows[index]
        fabric.start([ports[c] for c in path], size, cap, lambda: arrived.__setitem__(index, env.ns))

    for index, flow in enumerate(flows):
        env.at(flow[0], lambda _, index=index: send(index))  # type: ignore[misc]
    env.play()
    assert not fabric.flows
    for name, port in ports.items():
        assert port.carried == sum(size for _, path, size, _ in flows if name in path)
    return arrived


@pytest.mark.parametrize(
    ("capacities", "flows", "expected"),
    [
        ({"a": GB}, [(0, "a", 1000, inf)], [1000]),
        ({"a": GB}, [(7, "a", 1000, GB / 4)], [4007]),
        ({"a": 3 * GB}, [(0, "a", 1000, inf)], [334]),
        ({"a": GB}, [(0, "a", 1000, inf), (0, "a", 1000, inf)], [2000, 2000]),
        ({"a": GB}, [(0, "a", 1000, inf)] * 3, [3000] * 3),
        ({"a": GB}, [(0, "a", 1000, inf), (500, "a", 1000, inf)], [1500, 2000]),
        ({"a": GB}, [(0, "a", 3000, inf), (0, "a", 1000, inf), (2000, "a", 500, inf)], [4500, 2000, 3000]),
        ({"a": GB, "b": GB}, [(0, "ab", 1000, inf), (0, "a", 1000, inf), (0, "b", 500, inf)], [2000, 2000, 1000]),
        ({"a": GB}, [(0, "a", 600, GB / 5), (0, "a", 600, inf)], [3000, 750]),
    ],
    ids=[
        "alone", "capped", "rounds up", "together", "three", "overlap", "leave and join", "line",
        "cap",
    ],
)  # fmt: skip
def test_bytes_arrive_when_calculated_by_hand(
    capacities: dict[str, float], flows: list[tuple[int, str, int, float]], expected: list[int]
) -> None:
    """Arrival and departure change the shares at once; the last byte is in at the nanosecond of the sum."""
    assert deliver(capacities, flows) == expected


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 20), size=st.integers(1, 10**7))
def test_equal_flows_end_together_within_a_nanosecond(count: int, size: int) -> None:
    """A rate that is no binary fraction may cost the rounding of one nanosecond, and never more or less."""
    arrived = deliver({"a": GB}, [(0, "a", size, inf)] * count)
    assert len(set(arrived)) == 1
    assert count * size <= arrived[0] <= count * size + 1


FLOWS = st.lists(
    st.tuples(st.integers(0, 10**6), PATH, st.integers(1, 10**7), st.one_of(st.just(inf), SPEED)),
    min_size=1,
    max_size=10,
)


@settings(max_examples=100, deadline=None)
@given(capacities=st.fixed_dictionaries(dict.fromkeys(PORTS, SPEED)), flows=FLOWS)
def test_every_byte_arrives_and_none_early(
    capacities: dict[str, float], flows: list[tuple[int, str, int, float]]
) -> None:
    """Every flow ends, no sooner than its size at the least of its cap and its ports, nor later than one by one."""
    arrived = deliver(capacities, flows)
    alone = []
    for (start, path, size, cap), end in zip(flows, arrived, strict=True):
        seconds = size / min(cap, *(capacities[name] for name in path))
        alone.append(seconds)
        assert end - start >= seconds * 1e9 * (1 - 1e-9) - 1
    changes = 2 * len(flows)
    last = max(start for start, *_ in flows)
    assert max(arrived) <= last + sum(alone) * 1e9 * (1 + 1e-9) + changes


@settings(max_examples=50, deadline=None)
@given(flows=FLOWS)
def test_the_rates_add_up_to_the_bytes(flows: list[tuple[int, str, int, float]]) -> None:
    """A flow's rate summed over time is its size, to what passes in the nanosecond of its end."""
    env = Clock()
    fabric = Fabric(env)
    ports = {name: fabric.port(name, 1e9 * (1 + i)) for i, name in enumerate(PORTS)}
    moved: dict[Flow, float] = {}
    before: list[tuple[int, dict[Flow, float]]] = [(0, {})]

    def account() -> None:
        since, shares = before[0]
        for flow, rate in shares.items():
            moved[flow] = moved.get(flow, 0.0) + rate * (env.ns - since) / 1e9
        before[0] = env.ns, {flow: flow.rate for flow in fabric.flows}

    def begin(path: str, size: int, cap: float) -> None:
        fabric.start([ports[n] for n in path], size, cap, nothing)

    fabric.watch(account)
    for start, path, size, cap in flows:
        env.at(start, lambda _, p=path, s=size, c=cap: begin(p, s, c))  # type: ignore[misc]
    env.play()
    assert len(moved) == len(flows)
    for flow, total in moved.items():
        assert total == pytest.approx(flow.size, abs=2 * flow.rate * 1e-9 + 1e-6 * flow.size)


def test_hbm_traffic_is_counted_per_gpu() -> None:
    """A peer copy reads one GPU's HBM and writes the other's at its rate, until it ends."""
    env = Clock()
    server = Server(env, TOPOLOGIES["8xH100"], load_profile("h100"))
    link, path = server.between(0, 1)
    server.fabric.start(path, 10**9, 1e11, nothing)
    assert server.fabric.hbm == {0: 1e11, 1: 1e11}
    server.fabric.start(server.to_host(0)[1], 10**6, 1e10, nothing)
    assert server.fabric.hbm == {0: 1.1e11, 1: 1e11}
    env.play()
    assert not server.fabric.hbm
    assert link.name == "nvlink"


# --- copy engines ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(slots=st.integers(1, 4), seed=st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_copy_engines_are_fifo_and_bounded(slots: int, seed: list[int]) -> None:
    """Copies start in the order they were asked for, as many at a time as there are slots, and none waits idly."""
    env = Clock()
    engine = CopyEngine(slots)
    started: list[int] = []
    running: set[int] = set()

    def submit(index: int, length: int) -> None:
        def copy(release: Done) -> None:
            started.append(index)
            running.add(index)
            assert len(running) == engine.active <= slots

            def over(_: object) -> None:
                running.remove(index)
                release()
                assert len(running) == slots or not engine.waiting

            env.at(env.ns + length, over)

        engine.submit(copy)

    for index, length in enumerate(seed):
        env.at(index // 3, lambda _, i=index, n=length: submit(i, n))  # type: ignore[misc]
    env.play()
    assert started == list(range(len(seed)))
    assert engine.active == 0


# --- what pages cost ---------------------------------------------------------------------------------------


def rate(
    copies: Copies, link: str, kind: str = "out", model: str = "CodeLlama-34B", released: bool = False
) -> float:
    """Return GB/s at which pages of one H100 travel over an idle link."""
    shape = load_model(model)
    layout = PageLayout.of(shape, 2 if "70B" in model else 1, 16, copies, released)
    return layout.rate(load_profile("h100").links[link], kind) / 1e9


@pytest.mark.parametrize("link", ["nvlink", "pcie_d2h", "pcie_h2d"])
def test_small_copies_are_as_slow_on_every_link(link: str) -> None:
    """32 KiB copies run at about 8 GB/s on NVLink and PCIe alike: start-up dominates."""
    assert rate("scattered", link) == pytest.approx(8.2, rel=0.08)


def test_columns_are_several_times_faster_over_nvlink() -> None:
    """1.25 MiB columns: about 40 GB/s over PCIe, near three times that over NVLink, gather kernel included."""
    over_pcie, over_nvlink = (rate("column", link, model="Llama-3.1-70B") for link in ("pcie_d2h", "nvlink"))
    assert over_pcie == pytest.approx(39, rel=0.05)
    assert over_nvlink > 2.5 * over_pcie


def test_whole_blocks_gain_what_coalescing_promises() -> None:
    """Blocks as one copy: NVLink at least 4 times PCIe, and 5 times its own scattered rate or more."""
    over_nvlink = rate("block", "nvlink", model="Llama-3.1-70B")
    assert over_nvlink >= 4 * rate("block", "pcie_d2h", model="Llama-3.1-70B")
    assert over_nvlink >= 5 * rate("scattered", "nvlink", model="Llama-3.1-70B")


@pytest.mark.parametrize("model", ["CodeLlama-34B", "Llama-3.1-70B", "OPT-30B"])
def test_columns_are_layers_times_larger_than_scattered_copies(model: str) -> None:
    """Descriptors: 2 x layers, 2 and 1 per block; the bytes are the same."""
    shape = load_model(model)
    layouts = {c: PageLayout.of(shape, 1, 16, c, False) for c in ("scattered", "column", "block")}
    assert {c: layout.descriptors for c, layout in layouts.items()} == {
        "scattered": 2 * shape.layers,
        "column": 2,
        "block": 1,
    }
    assert len({layout.block_bytes for layout in layouts.values()}) == 1


def test_the_released_columns_lose_most_of_the_link() -> None:
    """As released, Python-issued gathers and a synchronise per block leave 6 GB/s out and 35 GB/s in of NVLink."""
    assert rate("column", "nvlink", "out", released=True) == pytest.approx(6.3, rel=0.05)
    assert rate("column", "nvlink", "in", released=True) == pytest.approx(34.7, rel=0.05)


# --- transfers of an engine --------------------------------------------------------------------------------


def carry(
    transfers: list[Transfer], gpus: tuple[int, ...], donors: tuple[int, ...]
) -> tuple[list[int], Server]:
    """Carry transfers that start together; return when each landed."""
    env = Clock()
    profile, model = load_profile("h100"), load_model("Llama-3.1-8B")
    server = Server(env, TOPOLOGIES["8xH100"], profile)
    layout = PageLayout.of(model, len(gpus), 16, "block", False)
    carrier = PageCarrier(server, gpus, {"peer": donors}, layout, StepCost(profile, model, len(gpus)))
    landed = [-1] * len(transfers)
    for index, transfer in enumerate(transfers):
        carrier.carry(transfer, lambda index=index: landed.__setitem__(index, env.ns))  # type: ignore[misc]
    env.play()
    return landed, server


def page(kind: str, tier: str, blocks: int, to: str = "") -> Transfer:
    """Return a transfer of one request's blocks."""
    return Transfer(0, kind, tier, blocks, (Move(0, blocks),), (), to)  # type: ignore[arg-type]


def alone_ns(kind: str, link: str, blocks: int, tp: int = 1) -> int:
    """Return the time of a transfer on an idle link, by the layout's own figures."""
    profile, model = load_profile("h100"), load_model("Llama-3.1-8B")
    layout = PageLayout.of(model, tp, 16, "block", False)
    seconds = blocks * profile.links[link].seconds(layout.block_bytes)
    return -int(-seconds * 1e9 // 1)


@pytest.mark.parametrize(
    ("kind", "tier", "link", "ports"),
    [
        ("out", "host", "pcie_d2h", {"gpu0.d2h", "gpu0.pcie", "dram0"}),
        ("in", "host", "pcie_h2d", {"gpu0.h2d", "gpu0.pcie", "dram0"}),
        ("out", "peer", "nvlink", {"gpu0.nvlink-out", "gpu1.nvlink-in"}),
        ("in", "peer", "nvlink", {"gpu1.nvlink-out", "gpu0.nvlink-in"}),
    ],
)
def test_a_transfer_takes_its_path_and_time(kind: str, tier: str, link: str, ports: set[str]) -> None:
    """Blocks pass every port of their path, and take one start-up and one crossing per block."""
    landed, server = carry([page(kind, tier, 100)], (0,), (1,))
    assert landed[0] == pytest.approx(alone_ns(kind, link, 100), abs=1)
    assert {name for name, port in server.fabric.ports.items() if port.carried} == ports


def test_a_migration_goes_from_the_donor_to_the_host() -> None:
    """Pages that a lease loses leave the donor over its own PCIe port."""
    _, server = carry([page("migrate", "peer", 10, "host")], (0,), (1,))
    carried = {name for name, port in server.fabric.ports.items() if port.carried}
    assert carried == {"gpu1.d2h", "gpu1.pcie", "dram0"}


def test_ranks_carry_their_shares_side_by_side() -> None:
    """Two ranks move half the bytes each over ports of their own, and the transfer lands with the last."""
    landed, server = carry([page("out", "peer", 100)], (2, 3), (0, 1))
    assert landed[0] == pytest.approx(alone_ns("out", "nvlink", 100, tp=2), abs=1)
    assert server.fabric.ports["gpu2.nvlink-out"].carried == server.fabric.ports["gpu1.nvlink-in"].carried > 0


def test_transfers_of_one_direction_queue_at_the_copy_engine() -> None:
    """Two page-outs take twice the time of one; a page-in runs beside them."""
    one = alone_ns("out", "nvlink", 100)
    landed, _ = carry(
        [page("out", "peer", 100), page("out", "peer", 100), page("in", "peer", 100)], (0,), (1,)
    )
    assert landed == pytest.approx([one, 2 * one, one], abs=2)


def test_an_empty_transfer_lands_at_once() -> None:
    """No blocks to move (all found in HBM): done in the same instant."""
    assert carry([page("in", "host", 0)], (0,), (1,))[0] == [0]
