"""Traces: valid as Trace Event Format, and true to the run."""

import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from trace_events import Seen, check, ns, read
from truths import Made, Truth

from aquasim.records.perfetto import EmptyWindowError, write_trace
from aquasim.records.perfetto.write import span
from aquasim.records.run import Run
from aquasim.records.tables import RunTables


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_paging_run_is_a_valid_trace(paged: Truth, tmp_path: Path, name: str) -> None:
    """Everything is in the trace: a slice per step, chunk, stay and copy, a track per request, the counters."""
    left_out = write_trace(paged.run, tmp_path / name)
    trace = read(tmp_path / name)
    check(trace)
    seen, run = Seen(trace), paged.run

    assert seen.tracks == {
        "GPU iterations", "prefill", "decode", "preemptions", "arrivals", "copy out to peer", "copy in from peer",
    }  # fmt: skip
    assert len(seen.on("GPU iterations")) == run.count("steps")
    assert len(seen.on("prefill")) == run.count("chunks")
    assert len(seen.on("decode")) == run.count("spans")
    copies = seen.on("copy out to peer") + seen.on("copy in from peer")
    assert len(copies) == run.count("transfers")
    assert sum(event["args"]["bytes"] for event in copies) == 4096 * run.columns("transfers")["blocks"].sum()
    assert set(seen.counters) == {
        "running", "waiting", "paged", "free KV blocks", "KV in hbm, GiB", "KV in peer, GiB",
    }  # fmt: skip
    names = [event["name"] for event in seen.async_]
    assert sum(n.startswith("request ") for n in names) == run.count("requests")
    assert {"queued", "prefill", "decode", "paged"} <= set(names)
    assert not any(left_out.values())
    assert "left_out" not in trace["otherData"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_flow_is_a_requests_whole_life(paged: Truth, tmp_path: Path) -> None:
    """It goes through the arrival, each prefill chunk, stay, preemption and copy of the request, in order."""
    write_trace(paged.run, tmp_path / "t.json")
    seen = Seen(read(tmp_path / "t.json"))
    lives: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (_, name), tracks in seen.flows.items():
        for track in tracks:
            lives[int(name.split()[1])][track] += 1
    for table, track in (("chunks", "prefill"), ("spans", "decode"), ("preemptions", "preemptions")):
        wanted: defaultdict[int, int] = defaultdict(int)
        for request in paged.run.columns(table)["request"].tolist():
            wanted[request] += 1
        assert {request: life[track] for request, life in lives.items() if life[track]} == wanted
    moves = paged.run.columns("moves")
    assert sum(life["copy out to peer"] + life["copy in from peer"] for life in lives.values()) == len(
        moves["request"]
    )
    for tracks in seen.flows.values():
        assert tracks[:2] == ["arrivals", "prefill"]
        assert tracks[-1] == "decode"


@pytest.mark.parametrize("seed", range(30))
def test_any_run_is_a_valid_trace(toy: Made, tmp_path: Path, seed: int) -> None:
    """Whatever a scheduler does, the trace is well-formed and the phases of a request leave no gap."""
    write_trace(toy(seed).run, tmp_path / "trace.json")
    trace = read(tmp_path / "trace.json")
    check(trace)
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "be":
            tracks[event["id"]].append(ns(event["ts"]))
    for times in tracks.values():
        begin, *phases, end = times

        assert phases[::2] == ([begin, *phases[1:-1:2]] if phases else [])
        assert (phases or [begin])[-1] == end or begin == end


def test_overlapping_transfers_get_threads_of_their_own(tmp_path: Path) -> None:
    """Two transfers in one direction at a time are on two threads; a third after them shares the first."""
    tables = RunTables()
    tables.tiers += ["peer"]
    for row in ((0, 0, 10), (1, 5, 15), (2, 10, 20)):
        tables.add("transfers", *row, 0, 0, 4, 1)
    write_trace(Run([("gpu0", tables)], {}), tmp_path / "t.json")
    trace = read(tmp_path / "t.json")
    check(trace)
    seen = Seen(trace)

    assert [seen.threads[event["pid"], event["tid"]] for event in seen.slices] == [
        "copy out to peer", "copy out to peer 2", "copy out to peer",
    ]  # fmt: skip


def test_a_limit_says_what_it_left_out(paged: Truth, tmp_path: Path) -> None:
    """The first steps only, with the rest counted in the trace's own notes."""
    left_out = write_trace(paged.run, tmp_path / "t.json", limit=10)
    trace = read(tmp_path / "t.json")
    check(trace)

    assert len(Seen(trace).on("GPU iterations")) == 10
    assert left_out["steps"] == paged.run.count("steps") - 10
    assert trace["otherData"]["left_out"] == left_out


@pytest.mark.parametrize("window", [(0.5, 0.7), (0.0, 0.3), (1.5, None), (-1e300, 0.3), (1.5, 1e300)])
def test_a_window_shows_what_reaches_into_it(paged: Truth, tmp_path: Path, window: tuple[Any, Any]) -> None:
    """Steps that touch the window are shown, the others are counted; the window told is within the run."""
    start, end = window
    left_out = write_trace(paged.run, tmp_path / "t.json", start_s=start, end_s=end)
    trace = read(tmp_path / "t.json")
    check(trace)
    steps = Seen(trace).on("GPU iterations")

    first, last = span(paged.run)

    assert steps
    assert all(e["ts"] + e["dur"] >= start * 1e6 and e["ts"] < (end or 1e9) * 1e6 for e in steps)
    assert left_out["steps"] == paged.run.count("steps") - len(steps) > 0
    assert trace["otherData"]["window_s"] == [["gpu0", max(start, first / 1e9), min(end or 1e9, last / 1e9)]]


@pytest.mark.parametrize("window", [(99.0, None), (1e300, None), (None, 0.0), (-5.0, -1.0), (50.0, 60.0)])
def test_a_window_without_anything_is_refused(paged: Truth, tmp_path: Path, window: tuple[Any, Any]) -> None:
    """The error says where the run lies, and nothing is written."""
    first, last = span(paged.run)
    with pytest.raises(EmptyWindowError, match=f"the run goes from {first / 1e9:g} s to {last / 1e9:g} s"):
        write_trace(paged.run, tmp_path / "t.json", start_s=window[0], end_s=window[1])
    with pytest.raises(ValueError, match="finite"):
        write_trace(paged.run, tmp_path / "t.json", start_s=float("nan"))

    assert not list(tmp_path.iterdir())


def test_step_names_say_what_ran(paged: Truth, tmp_path: Path) -> None:
    """`decode x<iterations> (<batch> seqs)`, or the prefill tokens and the decodes beside them."""
    write_trace(paged.run, tmp_path / "t.json")
    names = [event["name"] for event in Seen(read(tmp_path / "t.json")).on("GPU iterations")]

    assert any(name.startswith("decode x") and name.endswith(" seqs)") for name in names)
    assert not any(" (1 seqs)" in name or " 1 decodes" in name for name in names)
    assert any(name.startswith("prefill ") and name.endswith(" decodes") for name in names)


def test_an_empty_run_is_a_trace(tmp_path: Path) -> None:
    """An engine that never did anything has its name and nothing else."""
    write_trace(Run([("gpu0", RunTables())], {}), tmp_path / "t.json")
    trace = read(tmp_path / "t.json")
    check(trace)

    assert {event["name"] for event in trace["traceEvents"]} == {"process_name", "process_sort_index"}


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    """A trace of 15 MB and more is written with a fraction of that in memory, and nothing is left out."""
    tables, count = RunTables(), 12_000
    for i in range(count):
        tables.add("steps", i, 1000 * i, 900, 0, 1, 1, 5, 5, 1, 7, 0, 0)
        tables.add("chunks", i, i, 0, 5)
        tables.add("spans", i, i, i, 0)
        tables.add("requests", i, 1000 * i, 1000 * i, 1000 * i + 900, 1000 * i + 900, 5, 2, 0, 0)
    run = Run([("gpu0", tables)], {"blocks": 9, "block_bytes": 4096})
    tracemalloc.start()
    left_out = write_trace(run, tmp_path / "t.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "t.json").stat().st_size

    assert size > 15e6
    assert peak < size / 2
    assert not any(left_out.values())
    with (tmp_path / "t.json").open() as file:
        assert sum('"tid":1001' in line and '"ph":"X"' in line for line in file) == count


def test_a_failure_leaves_the_old_file(paged: Truth, tmp_path: Path) -> None:
    """A trace that cannot be written changes nothing."""
    (tmp_path / "t.json").write_text("old")
    broken = Run.of_columns(paged.run._tables, {**paged.run.labels, "tier": []}, {}, "broken")
    broken.labels["outcome"] = []
    with pytest.raises(IndexError):
        write_trace(broken, tmp_path / "t.json")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("t.json", "old")]
