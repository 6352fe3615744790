"""The offloaded long prompt: how long a token takes by where half its cache is, and how that half moves."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import ceil, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.hardware.cost import StepCost
from aquasim.hardware.links import LinkKind
from aquasim.hardware.offload import Relay, SplitCache, pipelined
from aquasim.hardware.profile import Profile, load_profile
from aquasim.models import load_model
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.tenants.longprompt import ROUND_S, LongPrompt, LongPromptSettings
from aquasim.sim.topology import TOPOLOGIES, Server

OPT = load_model("OPT-30B")
GB = 10**9
LAYERS = 48


@cache
def shipped(name: str) -> Profile:
    """Return a shipped profile."""
    return load_profile(name)


def with_link(profile: Profile, name: str, bandwidth: float) -> Profile:
    """Return a profile with another bandwidth of one link."""
    link = profile.links[name]
    links = profile.links | {name: LinkKind(name, bandwidth, link.start, max(link.peak, bandwidth))}
    return replace(profile, links=links)


class Bench:
    """A long prompt on GPU 0 of an otherwise idle server, for `seconds`."""

    def __init__(
        self, gpu: str = "h100", seconds: float = 3.0, profile: Profile | None = None, **options: object
    ):
        self.env = Clock()
        self.profile = profile or shipped(gpu)
        self.server = Server(self.env, TOPOLOGIES["8xA100" if gpu == "a100" else "8xH100"], self.profile)
        self.tables = RunTables()
        settings = LongPromptSettings(**({"output": 16} | options))  # type: ignore[arg-type]
        self.prompt = LongPrompt(
            "long", self.env, self.server, self.profile, 0, OPT, settings, self.tables, round(seconds * 1e9)
        )
        self.settled: list[tuple[int, int, int]] = []

    def lend(self, second: float, donor: int, size: int) -> "Bench":
        """Let a donor lend so many bytes from a time on."""

        def grant(_: object) -> None:
            self.prompt.use_peer(donor, size, lambda: self.settled.append((self.env.ns, donor, size)))

        self.env.at(round(second * 1e9), grant)
        return self

    def at(self, second: float, action: Callable[[], None]) -> "Bench":
        """Do something at a time."""
        self.env.at(round(second * 1e9), lambda _: action())
        return self

    def play(self) -> "Bench":
        """Let everything happen."""
        self.prompt.start()
        self.env.play()
        assert self.prompt.done
        self.work = Run([("long", self.tables)], {}).columns("work")
        self.start, self.end = self.work["start_ns"], self.work["end_ns"]
        self.ms = (self.end - self.start) / 1e6
        self.read = self.work["peer_bytes"] + self.work["host_bytes"]
        return self

    def token_ms(self) -> float:
        """Mean milliseconds of a token that is not a sequence's first."""
        return float(self.ms[self.read > 0].mean())

    def speed(self, since: float, until: float) -> float:
        """Return ms per token, firsts left out, of tokens made between two times (s)."""
        inside = (self.start >= since * 1e9) & (self.end <= until * 1e9) & (self.read > 0)
        return float(self.ms[inside].mean())

    def memory(self, tier: str) -> list[int]:
        """Sizes of a tier, in order."""
        columns = Run([("long", self.tables)], {}).columns("memory")
        return columns["bytes"][columns["tier"] == sorted(self.tables.tiers).index(tier)].tolist()  # type: ignore[no-any-return]


# --- the arithmetic of S4 --------------------------------------------------------------------------------------


def test_traffic_is_half_the_cache_per_token() -> None:
    """OPT-30B at 8,192 tokens of context and share 0.5 reads 5.64 GB for a token, and 5.72 GB for the last of 128."""
    bench = Bench("a100", 40.0, output=128).play()
    read = bench.read[:128]
    assert read[0] == 0
    assert read[1] == 8192 * OPT.kv_bytes_per_token // 2 == 5_637_144_576
    assert np.diff(read[1:]).tolist() == [OPT.kv_bytes_per_token // 2] * 126
    assert 5.64e9 <= read[1:].mean() <= 5.72e9
    assert read[-1] == pytest.approx(5.724e9, rel=1e-3)


@pytest.mark.parametrize(
    ("gpu", "host_ms", "peer_ms", "ratio"), [("a100", 227, 51, 4.5), ("h100", 113, 32, 3.6)]
)
def test_figures_of_the_paper(gpu: str, host_ms: float, peer_ms: float, ratio: float) -> None:
    """Pinned host memory gives 227 ms a token on A100 and 113 on H100, a peer 4.5 and 3.6 times the speed.

    On the peer, loads hide behind compute. (H100: 109 ms, for its link was measured at 52.4 GB/s, not 50.)
    """
    host = Bench(gpu, 10.0).play().token_ms()
    peer = Bench(gpu, 10.0).lend(0, 1, 20 * GB).play().token_ms()
    assert host == pytest.approx(host_ms, rel=0.04)
    assert peer == pytest.approx(peer_ms, rel=0.02)
    assert host / peer == pytest.approx(ratio, rel=0.07)


def test_six_times_needs_a_slow_host() -> None:
    """AQUA's 6x on A100 comes out if DRAM sustains 17 to 19 GB/s: pageable memory, a CPU copying 30 GB/s."""
    host = Bench("a100", 10.0, pinned=False, copy_bytes_per_s=30e9).play()
    peer = Bench("a100", 10.0).lend(0, 1, 20 * GB).play()
    assert 17e9 < (host.read[1] / (host.ms[1] / 1e3)) < 19e9
    assert host.token_ms() / peer.token_ms() == pytest.approx(6.2, abs=0.3)


# --- one token, in closed form ---------------------------------------------------------------------------------


def compute_ns(profile: Profile, context: int) -> int:
    """Return compute of one token on an idle GPU."""
    idle = round(LAYERS * ROUND_S * 1e9)
    return StepCost(profile, OPT, 1, 8192).decode(1, context)[0] + idle


def test_a_token_bound_by_loads_takes_all_loads_and_the_last_layers_compute() -> None:
    """To the nanosecond: bytes / rate of copies of a layer's K and V, and one layer's compute."""
    bench = Bench("a100").play()
    link = bench.profile.links["pcie_h2d"]
    for token, took in enumerate((bench.end - bench.start)[1:16].tolist(), 8192):
        loads = ceil(1e9 * LAYERS * 2 * link.seconds(28 * token * 128 * 2))
        assert abs(took - loads - compute_ns(bench.profile, token) // LAYERS) <= 2


def test_a_token_bound_by_compute_takes_all_of_it_and_the_first_layers_load() -> None:
    """To the microsecond: compute, the HBM time of the bytes that arrive meanwhile, one layer's load."""
    bench = Bench("h100").lend(0, 1, 20 * GB).play()
    link = bench.profile.links["nvlink"]
    for token, took in enumerate((bench.end - bench.start)[1:16].tolist(), 8192):
        size = LAYERS * 2 * 28 * token * 128 * 2
        load = 1e9 * 2 * link.seconds(28 * token * 128 * 2)
        expected = compute_ns(bench.profile, token) + load + size / bench.profile.hbm_read * 1e9
        assert took == pytest.approx(expected, abs=1000)


def test_without_a_remote_share_a_token_is_its_compute() -> None:
    """Share 0 reads and writes nothing, and a token takes its compute, to the nanosecond."""
    bench = Bench("h100", share=0.0).play()
    assert bench.read.max() == 0
    assert (bench.end - bench.start)[1:16].tolist() == [
        compute_ns(bench.profile, t) for t in range(8192, 8207)
    ]
    assert not any(port.carried for port in bench.server.fabric.ports.values())


@given(
    layers=st.integers(1, 60),
    load=st.integers(0, 10**6),
    compute=st.integers(0, 10**6),
    begin=st.integers(0, 99),
)
def test_the_pipeline_is_what_its_layers_add_up_to(layers: int, load: int, compute: int, begin: int) -> None:
    """Load and compute of equal layers, played layer by layer, end when the closed form says."""
    now = begin + load
    for _ in range(layers - 1):
        now += max(load, compute)
    now += compute
    assert pipelined(begin, begin + layers * load, layers * compute, layers, compute) == now


@given(
    cpu=st.floats(1e9, 1e12),
    bandwidth=st.floats(1e9, 1e11),
    size=st.integers(1, 10**9),
    start=st.floats(0, 1e-5),
)
def test_a_relay_is_never_faster_than_the_link_or_the_cpu(
    cpu: float, bandwidth: float, size: int, start: float
) -> None:
    """Nor slower than both one after the other."""
    link = LinkKind("link", bandwidth, start, bandwidth)
    rate = Relay(cpu).link_rate(link, size)
    assert rate <= min(cpu, link.rate(size)) * (1 + 1e-9)
    assert rate >= 1 / (1 / cpu + 1 / link.rate(size)) * (1 - 1e-9)


def test_pageable_memory_delays_compute_too() -> None:
    """A layer's compute is launched after the CPU's copies: with a fast link, a token is copies and compute."""
    profile = with_link(shipped("h100"), "pcie_h2d", 10e12)
    profile = with_link(profile, "host_dram", 1e15)
    bench = Bench(profile=profile, pinned=False, copy_bytes_per_s=100e9).play()
    copies = bench.read[1] / 100e9 * 1e9
    assert (bench.end - bench.start)[1] == pytest.approx(copies + compute_ns(profile, 8192), rel=0.08)
    assert (bench.end - bench.start)[1] > copies + compute_ns(profile, 8192)


def test_split_layers_hide_less() -> None:
    """With attention as a layer of its own, loads hide behind the feed-forward network only: a token takes longer."""
    whole, split = (Bench("a100", split_layers=s).play().token_ms() for s in (False, True))
    assert whole * 1.05 < split < whole + compute_ns(shipped("a100"), 8192) / 1e6


def test_a_prefill_hides_its_stores() -> None:
    """The prompt's remote share, written layer by layer, adds one layer's store to the prefill, or half one."""
    bench, local = Bench("h100").play(), Bench("h100", share=0.0).play()
    link = bench.profile.links["pcie_d2h"]
    store = 2 * link.seconds(28 * 8192 * 128 * 2) * 1e3
    assert 0 < bench.ms[0] - local.ms[0] <= store * 1.01
    written = bench.server.fabric.ports["gpu0.d2h"].carried
    sequences = int((bench.read == 0).sum())
    tokens = len(bench.ms) - sequences
    assert written == (sequences * 8192 + tokens) * OPT.kv_bytes_per_token // 2


# --- more and less of everything -------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(shares=st.lists(st.floats(0.45, 1), min_size=2, max_size=2).map(sorted), peer=st.booleans())
def test_a_larger_share_never_makes_tokens_faster(shares: list[float], peer: bool) -> None:
    """A token's time does not fall with the remote share, wherever that is."""
    times = [
        Bench(seconds=1.2, share=s, output=4).lend(0, 1, (20 * GB) * peer).play().token_ms() for s in shares
    ]
    assert times[0] <= times[1] + 1e-6


@settings(max_examples=15, deadline=None)
@given(rates=st.lists(st.floats(5e9, 400e9), min_size=2, max_size=2).map(sorted), peer=st.booleans())
def test_a_faster_link_never_makes_tokens_slower(rates: list[float], peer: bool) -> None:
    """A token's time does not rise with the bandwidth of the link it loads over (but for HBM: 1 %)."""
    link = "nvlink" if peer else "pcie_h2d"
    times = [
        Bench(seconds=2.5, profile=with_link(shipped("h100"), link, rate), output=4)
        .lend(0, 1, (20 * GB) * peer)
        .play()
        .token_ms()
        for rate in rates
    ]
    assert times[0] >= times[1] * 0.99


def test_a_partial_lease_lies_between() -> None:
    """A lease of half the remote share gives a speed between host and peer, the rest being read over PCIe."""
    host, half, peer = (Bench().lend(0, 1, size).play() for size in (0, 2_850_000_000, 20 * GB))
    assert host.token_ms() > half.token_ms() * 1.5 > peer.token_ms() * 1.5
    columns = [2_850_000_000 // (8208 * 24576), 28]
    assert columns[0] == 14
    at = int(np.flatnonzero(half.work["peer_bytes"])[0])
    assert half.work["peer_bytes"][at] * 28 == half.read[at] * 14


def test_two_donors_add_up() -> None:
    """Two leases of half the state each are as good as one of all of it."""
    one = Bench().lend(0, 1, 20 * GB).play()
    two = Bench().lend(0, 1, 2_900_000_000).lend(0, 2, 2_900_000_000).play()
    assert two.work["host_bytes"].sum() == 0
    assert two.token_ms() == pytest.approx(one.token_ms(), rel=0.03)


# --- moving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("shadow", [True, False])
def test_a_revocation_gives_host_speed_and_a_new_lease_gives_it_back(blocking: bool, shadow: bool) -> None:
    """Speeds before, during and after are those of host and peer; every grant settles; no token is lost."""
    bench = Bench(seconds=16.0, output=128, blocking=blocking, shadow=shadow)
    bench.lend(0, 1, 20 * GB).lend(5, 1, 0).lend(11, 1, 20 * GB).play()
    peer, host = 32.3, 109.0
    assert bench.speed(1.5, 5) == pytest.approx(peer, rel=0.03)
    assert bench.speed(6.5, 11) == pytest.approx(host, rel=0.03)
    assert bench.speed(12.5, 16) == pytest.approx(peer, rel=0.03)
    assert [size for _, _, size in bench.settled] == [20 * GB, 0, 20 * GB]
    firsts = np.flatnonzero(bench.read == 0).tolist()
    assert firsts == list(range(0, len(bench.read), 128))
    assert bench.memory("peer") == [0, 28 * 24576 * 8320, 0, 28 * 24576 * 8320, 0]


def test_moving_takes_the_donors_host_link() -> None:
    """A demotion begins at the next token's end and takes state / (rate of the donor's host link).

    While it blocks, nothing is generated; the donor's link carries the state each way, the tenant's own none.
    """
    bench = Bench(seconds=8.0, output=1000).lend(0, 1, 20 * GB).lend(4, 1, 0).play()
    state = 28 * 24576 * 9192
    link = bench.profile.links["pcie_d2h"]
    begun = int(bench.end[bench.end >= 4 * GB][0])
    settled = bench.settled[1][0]
    assert settled - begun == pytest.approx(96 * link.seconds(state / 96) * 1e9, abs=5)
    assert not ((bench.start >= begun) & (bench.start < settled)).any()
    ports = bench.server.fabric.ports
    assert ports["gpu1.h2d"].carried == ports["gpu1.d2h"].carried == state
    assert ports["gpu0.h2d"].carried == bench.work["host_bytes"].sum()


def test_without_blocking_tokens_go_on_from_the_old_place() -> None:
    """While the state moves back, tokens are still read from the peer; then from the host, never from both."""
    bench = Bench(seconds=8.0, output=1000, blocking=False).lend(0, 1, 20 * GB).lend(4, 1, 0).play()
    settled = bench.settled[1][0]
    moving = (bench.start >= 4 * GB) & (bench.end <= settled)
    assert moving.sum() >= 2
    assert (bench.work["host_bytes"][moving] == 0).all()
    assert (bench.work["peer_bytes"][bench.start >= settled] == 0).all()
    assert np.diff(bench.start).max() < 10**9


def test_what_is_written_during_a_move_goes_to_both_places() -> None:
    """A prompt prefilled while its cache moves is stored in the old and in the new place."""
    bench = Bench(seconds=3.0, output=1000, blocking=False).lend(0, 1, 20 * GB).play()
    prompt = 8192 * OPT.kv_bytes_per_token // 2
    ports = bench.server.fabric.ports
    assert ports["gpu0.d2h"].carried == prompt
    assert ports["gpu0.nvlink-out"].carried == prompt + (len(bench.ms) - 1) * OPT.kv_bytes_per_token // 2


def test_without_a_shadow_only_cached_tokens_move() -> None:
    """AQUA's release copies whole tensors; else what no token was written to stays where it is."""
    state = []
    for shadow in (True, False):
        bench = Bench(seconds=4.0, prompt=8192, output=8192, shadow=shadow, blocking=True)
        bench.lend(0, 1, 20 * GB).lend(3, 1, 0).play()
        state.append(bench.server.fabric.ports["gpu1.d2h"].carried)
    assert state[0] == 28 * 24576 * 16384
    assert 28 * 24576 * 8192 <= state[1] <= 28 * 24576 * 8300


def test_a_donor_that_leaves_makes_way_for_one_with_room() -> None:
    """What one donor no longer holds goes to another that lends more than it was given, by way of the host."""
    bench = Bench(seconds=8.0, output=1000)
    bench.lend(0, 1, 20 * GB).lend(0, 2, 20 * GB).lend(4, 1, 0).play()
    assert bench.speed(6, 8) == pytest.approx(32.5, rel=0.03)
    assert bench.server.fabric.ports["gpu2.nvlink-out"].carried > 0
    assert {donor for _, donor, _ in bench.settled} == {1, 2}


GRANTS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3), st.integers(0, 7 * GB)), max_size=8)


@settings(max_examples=40, deadline=None)
@given(grants=GRANTS, blocking=st.booleans(), shadow=st.booleans())
def test_whatever_is_lent_state_is_somewhere_and_grants_settle(
    grants: list[tuple[float, int, int]], blocking: bool, shadow: bool
) -> None:
    """Columns on peers and host sum to the remote share, no donor holds more than it lends once it settled, all
    grants settle, and every iteration reads every byte of the cached prefix.
    """
    bench = Bench(seconds=2.5, output=12, blocking=blocking, shadow=shadow)
    last: dict[int, float] = {}
    lent = 0
    for second, donor, size in sorted(grants):
        if second - last.get(donor, -inf) > 1.6:  # not again before the last one settled
            last[donor] = second
            lent += 1
            bench.lend(second, donor, size)
    bench.play()
    assert len(bench.settled) == lent
    tokens = np.arange(len(bench.read)) % 12
    expected = np.where(tokens == 0, 0, (8192 + tokens - 1) * OPT.kv_bytes_per_token // 2)
    assert bench.read.tolist() == expected.tolist()
    peer = bench.memory("peer")
    state = 28 * 24576 * 8204
    assert all(0 <= size <= min(state, 21 * GB) for size in peer)
    if not shadow:
        assert [a + b for a, b in zip(peer, bench.memory("host"), strict=True)] == [state] * (
            len(peer) - 1
        ) + [0]


def test_grants_settle_after_the_end_too() -> None:
    """A tenant whose time is up gives all memory back at once."""
    bench = Bench(seconds=1.0, output=4).lend(0, 1, 20 * GB).lend(5, 1, 0).lend(6, 1, GB).play()
    assert [at for at, _, _ in bench.settled[1:]] == [5 * GB, 6 * GB]
    assert bench.memory("peer")[-1] == 0


# --- sharing ---------------------------------------------------------------------------------------------------


def test_another_transfer_shares_the_link_fairly() -> None:
    """Beside one more flow over the same host link, loads get half of it: tokens take twice as long."""
    bench = Bench("a100", 12.0, output=1000)
    _, path = bench.server.from_host(0)

    def disturb() -> None:
        bench.server.fabric.start(path, 10**15, inf, lambda: None)

    bench.at(6, disturb)
    bench.prompt.start()
    bench.env.at(12 * GB, lambda _: None)
    while bench.env.ns < 12 * GB:
        bench.env.play(1)
    work = Run([("long", bench.tables)], {}).columns("work")
    took = work["end_ns"] - work["start_ns"]
    alone = took[(work["end_ns"] < 6 * GB) & (work["host_bytes"] > 0)].mean()
    shared = took[work["start_ns"] > 6 * GB].mean()
    assert shared / alone == pytest.approx(2, rel=0.01)


def test_transfers_of_others_stretch_compute() -> None:
    """Where another GPU reads this one's memory, compute that waits for HBM takes longer by that share."""
    alone, beside = Bench(share=0.0).play(), Bench(share=0.0)
    _, path = beside.server.between(0, 3)
    size = round(376e9 * 10)

    def read() -> None:
        beside.server.fabric.start(path, size, inf, lambda: None)

    beside.at(0, read).play()
    share = 376e9 / beside.profile.hbm_read
    ratio = float(beside.ms[1] / alone.ms[1])
    assert 1 + share / 2 < ratio < 1 / (1 - share)


# --- the rest --------------------------------------------------------------------------------------------------


def test_the_same_run_twice() -> None:
    """Records are equal to the last byte."""
    rows = [
        Bench(seconds=6.0).lend(1, 1, 3 * GB).lend(3, 1, 0).lend(3, 2, GB).play().tables.rows
        for _ in range(2)
    ]
    assert rows[0] == rows[1]


def test_time_ends_with_the_token_under_way() -> None:
    """No token begins after the duration; the last one ends, and tokens follow without a gap."""
    bench = Bench(seconds=2.0).play()
    assert bench.start.max() < 2 * GB <= bench.end.max()
    assert bench.start[1:].tolist() == bench.end[:-1].tolist()
    assert bench.work["items"].tolist() == [1] * len(bench.ms)


def test_a_batch_makes_a_token_of_each_sequence() -> None:
    """Two sequences read twice the bytes and make two tokens at a time."""
    one, two = (Bench(batch=b, prompt=2048, seconds=2.0).play() for b in (1, 2))
    assert two.read[1] == 2 * one.read[1]
    assert set(two.work["items"].tolist()) == {2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": 0}, "prompt is 0"),
        ({"share": 1.5}, "between 0 and 1"),
        ({"round_s": -1.0}, "not be negative"),
        ({"prompt": 65536, "share": 0.1}, "raise share"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, float], message: str) -> None:
    """Sizes that make no sense, and a local share that does not fit beside the weights, are ValueErrors."""
    with pytest.raises(ValueError, match=message):
        Bench(**options)  # type: ignore[arg-type]


def test_columns_are_whole_heads() -> None:
    """The remote share is whole KV heads, and its bytes add up with the local ones."""
    cache = SplitCache.of(OPT, 1, 0.5)
    assert (cache.columns, cache.remote) == (56, 28)
    assert cache.bytes(56, 100) == 100 * OPT.kv_bytes_per_token
    assert SplitCache.of(OPT, 3, 1 / 3).remote == 56
