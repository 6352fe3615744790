"""AQUA's requirements M4, M6, M7 and M10, end to end: an engine that pages and one that lends, on one server."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import aquasim
from aquasim.records.run import Run

SERVER = """
question = "Who pages where while lent memory comes and goes?"
seed = 3

[machine]
server = "8xH100"

[leases]
poll_s = 4.0

[pairs]
user = ["lender"]

[tenants.user]
kind = "llm"
gpus = [0]
model.name = "Llama-3.1-8B"
policy = "cfs"
tiers = ["peer", "host"]
copies = "column"
host_gib = 4
peer_gib = 4
engine = {kv_blocks = 600, max_model_len = 2048}

[tenants.user.workload]
requests = 70
arrivals = {kind = "fixed", gap_s = 0.4}
prompt = {kind = "fixed", tokens = 600}
output = {kind = "fixed", tokens = 600}

[tenants.lender]
kind = "llm"
gpus = [1]
model.name = "Llama-3.1-8B"
engine = {kv_blocks = 4000, max_model_len = 2048, max_num_seqs = 32}
lends = {retain_gib = 0.5}

# Busy, quiet (it lends), busy (it wants its memory back), quiet (it lends again).
[tenants.lender.workload]
requests = 188
arrivals = {kind = "piecewise", phases = [[30, 2], [0.2, 14], [40, 3], [0.2, 60]]}
prompt = {kind = "fixed", tokens = 200}
output = {kind = "fixed", tokens = 200}

[systems.intended]
leases.protocol = "intended"

[systems.faithful]
leases.protocol = "faithful"

[systems.none]
leases.protocol = "none"
tenants.user.tiers = ["host"]
"""
POLL, TICK, MESSAGE = 4_000_000_000, 100_000_000, 1_000_000
ORIGINAL = 4000 * 16 * 131_072
"""Bytes of the lender's KV cache: 16 tokens a block, 128 KiB a token."""
BOTH = pytest.mark.parametrize("protocol", ["intended", "faithful"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a function that simulates the server under a protocol, once."""
    path: Path = tmp_path_factory.mktemp("elastic") / "server.toml"
    path.write_text(SERVER)
    return cache(lambda protocol: aquasim.simulate(path, protocol))


def events(run: Run, *names: str) -> pd.DataFrame:
    """Return what happened to leases, by time: bytes of one instant, kind and pair summed."""
    rows = run.leases[run.leases["event"].isin(names)]
    keys = ["time_ns", "event", "donor", "consumer"]
    sums: pd.DataFrame = rows.groupby(keys, observed=True)["bytes"].sum().reset_index()
    return sums.sort_values("time_ns", kind="stable")


def times(run: Run, name: str) -> list[int]:
    """Return when something happened to leases."""
    return events(run, name)["time_ns"].tolist()


def following(times: list[int], since: int) -> int:
    """Return the first of `times` at or after `since`."""
    return min(time for time in times if time >= since)


def cache_sizes(run: Run) -> list[tuple[int, int]]:
    """(ns, bytes) of the lender's KV cache, in order."""
    rows = run.memory[(run.memory["engine"] == "lender") & (run.memory["tier"] == "hbm")]
    return list(zip(rows["time_ns"], rows["bytes"], strict=True))


def peer_sizes(run: Run) -> list[tuple[int, int]]:
    """(ns, bytes) of what the borrower may use or has on the donor, in order."""
    rows = run.memory[(run.memory["engine"] == "user") & (run.memory["tier"] == "peer")]
    return list(zip(rows["time_ns"], rows["bytes"], strict=True))


def moves(run: Run) -> list[tuple[int, int]]:
    """(begin, end) of every change of what the borrower keeps on the donor, in order."""
    settled = times(run, "settled")
    return [(t, following(settled, t)) for t in sorted({*times(run, "granted"), *times(run, "revoked")})]


def traffic(run: Run, since: float, until: float) -> set[tuple[str, str]]:
    """(kind, tier) of the borrower's page transfers that began in a span of time (s)."""
    rows = run.transfers[(run.transfers["start_ns"] >= since * 1e9) & (run.transfers["end_ns"] < until * 1e9)]
    rows = rows[rows["engine"] == "user"]
    return set(zip(rows["kind"], rows["tier"], strict=True))


@BOTH
def test_m04_memory_is_free_before_it_is_lent(simulated: Any, protocol: str) -> None:
    """Whenever bytes are offered, the donor's cache has shrunk by as much; cache and loan never exceed its memory."""
    run = simulated(protocol)
    loans = events(run, "offered", "regained").assign(
        signed=lambda rows: np.where(rows["event"] == "offered", rows["bytes"], -rows["bytes"])
    )
    assert times(run, "offered")
    for time, size in cache_sizes(run):
        lent = loans[loans["time_ns"] <= time]["signed"].sum()
        before = loans[loans["time_ns"] < time]["signed"].sum()
        assert size + min(lent, before) <= ORIGINAL
    for time in times(run, "offered"):
        size = [size for when, size in cache_sizes(run) if when <= time][-1]
        assert size + loans[loans["time_ns"] <= time]["signed"].sum() <= ORIGINAL


@BOTH
def test_m04_what_is_used_was_lent(simulated: Any, protocol: str) -> None:
    """At every instant the borrower uses no more than the donor has offered and not regained."""
    lent = used = 0
    rows = events(simulated(protocol), "offered", "regained", "granted", "settled")
    for event, size in zip(rows["event"].tolist(), rows["bytes"].tolist(), strict=True):
        if event in ("offered", "regained"):
            lent += size if event == "offered" else -size
        else:
            used = size if event == "settled" else used + size
        assert 0 <= used <= lent


@BOTH
def test_m06_without_a_lease_pages_go_to_the_host_and_later_to_the_donor(
    simulated: Any, protocol: str
) -> None:
    """No lease: host copies only. A lease comes: without anybody asking, what is in host memory moves there."""
    run = simulated(protocol)
    if protocol == "faithful":
        (promoted, _), (demoted, _), _ = moves(run)
        assert set(run.transfers[run.transfers["end_ns"] < promoted]["tier"]) == {"swap"}
        assert seconds_per_block(run, 0, promoted) > 1.5 * seconds_per_block(run, promoted, demoted)
    else:
        (_, gone), (back, _) = moves(run)[-2:]
        assert {tier for _, tier in traffic(run, gone / 1e9, back / 1e9)} == {"host"}
        assert {("out", "peer"), ("migrate", "host")} <= traffic(run, back / 1e9, 1e9)
    assert peer_sizes(run)[-1][1] == 4 << 30


def seconds_per_block(run: Run, since: int, until: int) -> float:
    """Mean time of the borrower's page-ins in a span of time, per block."""
    rows = run.transfers[(run.transfers["start_ns"] >= since) & (run.transfers["end_ns"] < until)]
    rows = rows[rows["kind"] == "in"]
    assert len(rows) > 3
    return float(((rows["end_ns"] - rows["start_ns"]) / 1e9).sum() / rows["blocks"].sum())


def test_m06_the_release_moves_at_iteration_boundaries_once_per_period(simulated: Any) -> None:
    """Whoever moves waits for the iteration under way; none begins before all is there; moves are 4 s apart."""
    run = simulated("faithful")
    begun = [begin for begin, _ in moves(run)]
    assert len(begun) == 3
    assert all(b - a >= POLL for a, b in pairwise(begun))
    steps = run.steps[run.steps["engine"] == "user"]
    n = steps["iterations"]
    ends = steps["start_ns"] + n * steps["first_ns"] + steps["growth_ns"] * (n * (n - 1) // 2)
    for begin, end in moves(run):
        assert not ((steps["start_ns"] > begin) & (steps["start_ns"] < end)).any(), "began during a move"
        under_way = ends[(steps["start_ns"] <= begin) & (ends > begin)]
        assert (under_way < end).all(), "an iteration ran through a move"


@BOTH
def test_m07_every_byte_of_a_revoked_lease_leaves_and_then_it_is_freed(simulated: Any, protocol: str) -> None:
    """The whole lease is demoted, then said to be free, and only then does the donor have it back."""
    run = simulated(protocol)
    for revoked in times(run, "revoked"):
        left = following(times(run, "settled"), revoked)
        rows = events(run, "revoked", "settled")
        assert rows[rows["time_ns"] == revoked]["bytes"].max() == 4 << 30
        assert rows[(rows["time_ns"] == left) & (rows["event"] == "settled")]["bytes"].tolist() == [0]
        back = events(run, "regained")
        back = back[(back["time_ns"] > revoked) & (back["bytes"] >= 4 << 30)]
        assert back["time_ns"].min() > left
    pages = run.transfers[(run.transfers["engine"] == "user") & (run.transfers["kind"] == "migrate")]
    if protocol == "intended":
        assert pages[pages["tier"] == "peer"]["blocks"].sum() > 100, "there was something to demote"


@BOTH
def test_m07_inference_goes_on_from_host_memory(simulated: Any, protocol: str) -> None:
    """Every request gets every token, as without any lease, and pages keep moving between revocation and return."""
    run, alone = simulated(protocol), simulated("none")
    for each in (run, alone):
        users = each.requests[each.requests["engine"] == "user"]
        assert set(users["outcome"]) == {"finished"}
        assert users["output_tokens"].tolist() == [600] * 70
    (_, gone), (back, _) = moves(run)[-2:]
    tier = "host" if protocol == "intended" else "swap"
    assert {("in", tier), ("out", tier)} <= traffic(run, gone / 1e9, back / 1e9)


@BOTH
def test_m10_a_reclaim_ends_in_time_and_the_cache_is_as_large_as_before(
    simulated: Any, protocol: str
) -> None:
    """From the request to the last byte: at most poll period, migration and poll; then the cache is whole again."""
    run = simulated(protocol)
    reclaims = times(run, "reclaim")
    assert len(reclaims) == 2
    for asked in reclaims:
        migration = max(
            [end - begin for begin, end in moves(run) if asked <= begin < asked + 2 * POLL] or [0]
        )
        back = events(run, "regained")
        back = back[(back["time_ns"] >= asked) & (back["time_ns"] < asked + 2 * POLL)]
        poll = POLL if protocol == "faithful" else 0
        messages = 6 * MESSAGE
        assert back["bytes"].sum() == ORIGINAL - (1 << 29)
        assert back["time_ns"].max() <= asked + poll + migration + TICK + messages
        whole = following([t for t, size in cache_sizes(run) if size == ORIGINAL], asked)
        rebuild = 400_000_000 if protocol == "faithful" else 0
        assert whole <= back["time_ns"].max() + 2 * TICK + rebuild
    assert {size for _, size in cache_sizes(run)} == {ORIGINAL, 1 << 29}


@BOTH
def test_m10_the_lender_loses_no_request_by_resizing(simulated: Any, protocol: str) -> None:
    """All requests of the engine that lends finish, with every token, while its cache shrinks and grows."""
    run = simulated(protocol)
    requests = run.requests[run.requests["engine"] == "lender"]
    assert set(requests["outcome"]) == {"finished"}
    assert requests["output_tokens"].tolist() == [200] * 188
