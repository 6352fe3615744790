"""Traces of scenarios that ship: valid, complete, and equal to what the records say."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_events import Seen, Trace, check, read

import aquasim
from aquasim.records.perfetto import write_trace
from aquasim.records.run import Run
from aquasim.records.tables import RunTables

RUNS = [
    ("burst-h100", "fcfs"),
    ("burst-h100", "cfs-peer"),
    ("burst-h100", "aqua"),
    ("burst-h100", "hybrid"),
    ("neo/length-a10g", "neo"),
    ("aqua/s5-elastic-h100", "faithful"),
    ("aqua/s5-elastic-h100", "intended"),
    ("aqua/s6-lora", None),
]
EVIL = st.text(
    st.sampled_from("\"'\\</script><img onerror=x>&\x00\x07\x1b\x7f\u202e\u2028\ud800\U0001f600{}%s\n a"),
    min_size=1,
)


@cache
def made(scenario: str, system: str | None) -> Run:
    """Simulate, at most 300 requests."""
    changes = ["workload.requests=300"] if scenario.startswith("neo") else []
    return aquasim.simulate(scenario, system, changes=changes)


def written(run: Run, folder: Path) -> Trace:
    """Write, read and check a trace."""
    assert not any(write_trace(run, folder / "t.json.gz").values())
    trace = read(folder / "t.json.gz")
    check(trace)
    return trace


@pytest.mark.parametrize(("scenario", "system"), RUNS)
def test_shipped_scenarios_are_valid_traces(scenario: str, system: str | None, tmp_path: Path) -> None:
    """Every row of steps, chunks, spans, transfers, fetches, work and leases is one slice of an engine."""
    run = made(scenario, system)
    seen = Seen(written(run, tmp_path))
    links = next((pid for pid, name in seen.processes.items() if name == "links"), None)
    drawn = [event for event in seen.slices if event["pid"] != links]
    moments = sum(seen._track(event) in ("arrivals", "preemptions") for event in drawn)
    tables = ("steps", "chunks", "spans", "transfers", "fetches", "work", "leases")

    assert len(drawn) - moments == sum(map(run.count, tables))
    assert [seen.processes[i + 1] for i in range(len(run.engines))] == run.engines
    assert (links is not None) == bool(run.meta["links"])
    finished = run.columns("requests")["output_tokens"] > 1
    assert len(seen.flows) >= finished.sum()


def test_hosts_decode_on_tracks_of_their_own(tmp_path: Path) -> None:
    """Under NEO, every span of lane 1 is on the host's track, every other one on the GPU's."""
    run = made("neo/length-a10g", "neo")
    seen = Seen(written(run, tmp_path))
    lanes = run.columns("spans")["lane"]

    assert len(seen.on("host decode")) == (lanes == 1).sum() > 0
    assert len(seen.on("decode")) == (lanes == 0).sum() > 0
    assert any("host decode" in tracks for tracks in seen.flows.values())
    assert "KV in host, GiB" in seen.counters


@pytest.mark.parametrize(
    ("scenario", "system", "suffixes"),
    [
        ("burst-h100", "cfs-peer", ("nvlink-out", "nvlink-in")),
        ("burst-h100", "cfs-host", ("d2h", "h2d", "pcie", "dram0")),
        ("neo/length-a10g", "neo", ("d2h", "h2d", "pcie", "dram0")),
    ],
)
def test_links_carry_what_was_stored(
    scenario: str, system: str | None, suffixes: tuple[str, ...], tmp_path: Path
) -> None:
    """The slices on a link's thread sum up to the bytes that the link carried."""
    run = made(scenario, system)
    seen = Seen(written(run, tmp_path))
    pid = len(run.engines) + 1
    stored = {name: link for name, link in run.meta["links"].items() if name.endswith(suffixes)}
    sums = dict.fromkeys(stored, 0)
    for event in seen.slices:
        if event["pid"] == pid:
            sums[seen.threads[pid, event["tid"]].split(" ")[0]] += event["args"]["bytes"]

    assert stored
    for name, link in stored.items():
        assert sums[name] == pytest.approx(link["bytes"], rel=0.01), name


def test_leases_and_tiers_are_drawn(tmp_path: Path) -> None:
    """Memory that tenants lend is a marker each and counters that end where the records do."""
    run = made("aqua/s5-elastic-h100", "intended")
    seen = Seen(written(run, tmp_path))
    assert {"work", "leases"} <= seen.tracks
    assert {"memory offered, GiB", "memory granted, GiB", "size of hbm, GiB"} <= set(seen.counters)
    for values in seen.counters.values():
        assert all(event["args"]["value"] >= 0 for event in values)
    memory, tiers = run.columns("memory"), run.labels["tier"]
    for engine, name in enumerate(run.engines):
        last: dict[str, float] = {}
        for place, tier, size in zip(memory["engine"], memory["tier"], memory["bytes"], strict=True):
            last |= {tiers[tier]: size / 2**30} if place == engine else {}
        for tier, size in last.items():
            told = [e for e in seen.counters[f"size of {tier}, GiB"] if seen.processes[e["pid"]] == name]
            assert told[-1]["args"]["value"] == pytest.approx(size)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(EVIL, min_size=5, max_size=5), folder=st.just(None))
def test_hostile_names_are_names(
    names: list[str], folder: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Quotes, control characters, markup and half characters in any name give the same valid trace."""
    engine, tier, reason, run_name, link = names
    tables = RunTables()
    tables.tiers.append(tier)
    tables.add("transfers", 0, 0, 10, 0, 0, 4, 1)
    tables.add("moves", 0, 7, 4)
    tables.add("memory", 3, 0, 2**30)
    tables.add("requests", 7, 0, 1, 2, 30, 5, 2, 0, 1)
    tables.reasons[7] = reason
    meta = {"links": {link: {"bytes": 1, "capacity": 1e9, "busy_s": 1}}, "block_bytes": 16}
    path = tmp_path_factory.mktemp("evil") / "t.json"
    write_trace(Run([(engine, tables)], meta, run_name), path)
    trace = read(path)
    check(trace)
    seen = Seen(trace)

    def plain(name: str) -> str:
        return name.encode("utf-8", "replace").decode()

    assert seen.processes[1] == plain(engine)
    assert plain(f"copy out to {tier}") in seen.threads.values()
    assert plain(reason) in [event.get("args", {}).get("reason") for event in seen.async_]
    assert trace["otherData"]["run"] == plain(run_name)
