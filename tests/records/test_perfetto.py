"""Traces: valid as Trace Event Format, and true to the run."""

import gzip
import json
from collections import defaultdict
from itertools import pairwise

import pytest

from aquasim.records.perfetto import write_trace
from aquasim.records.run import Run
from aquasim.records.tables import RunTables


def _ns(microseconds):
    return round(microseconds * 1000)


def check(trace):
    """Assert that a trace is well-formed: what viewers need, and what makes its tracks readable."""
    threads, named, open_, counters = defaultdict(list), set(), defaultdict(list), set()
    for event in trace["traceEvents"]:
        assert event["ph"] in "MXCbe"
        assert isinstance(event["ts"], int | float)
        assert isinstance(event["pid"], int)
        assert event["name"]
        if event["ph"] == "M":
            assert event["args"]["name"]
            named.add((event["name"], event["pid"], event["tid"]))
        elif event["ph"] == "X":
            assert event["dur"] >= 0
            threads[event["pid"], event["tid"]].append(
                (_ns(event["ts"]), _ns(event["ts"]) + _ns(event["dur"]))
            )
        elif event["ph"] == "C":
            counters.add(event["name"])
            assert all(isinstance(value, int | float) for value in event["args"].values())
        elif event["ph"] == "b":
            stack = open_[event["cat"], event["id"], event["pid"]]
            assert not stack or stack[-1][1] <= event["ts"]
            stack.append((event["name"], event["ts"]))
        else:
            name, begin = open_[event["cat"], event["id"], event["pid"]].pop()
            assert name == event["name"]
            assert begin <= event["ts"]
    assert not any(open_.values())
    for (pid, tid), slices in threads.items():
        assert {("thread_name", pid, tid), ("process_name", pid, 0)} <= named
        slices.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(slices))
    return counters


def _read(path):
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def _names(trace, ph):
    return [event["name"] for event in trace["traceEvents"] if event["ph"] == ph]


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_paging_run_is_a_valid_trace(paged, tmp_path, name):
    """Everything is in the trace: a slice per step and transfer, a track per request, the counters."""
    left_out = write_trace(paged.run, tmp_path / name)
    trace = _read(tmp_path / name)
    counters = check(trace)
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]

    assert counters == {"batch", "KV blocks used", "waiting", "paged"}
    assert len(slices) == paged.run.count("steps") + paged.run.count("transfers")
    assert sum(n.startswith("request ") for n in _names(trace, "b")) == paged.run.count("requests")
    assert {"queued", "prefill", "decode", "paged"} <= set(_names(trace, "b"))
    assert {"GPU", "out peer", "in peer"} <= {
        e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"
    }
    assert not any(left_out.values())
    assert "left_out" not in trace["otherData"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("seed", range(30))
def test_any_run_is_a_valid_trace(toy, tmp_path, seed):
    """Whatever a scheduler does, the trace is well-formed and the phases of a request leave no gap."""
    write_trace(toy(seed).run, tmp_path / "trace.json")
    trace = _read(tmp_path / "trace.json")
    check(trace)
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "be":
            tracks[event["id"]].append(_ns(event["ts"]))
    for times in tracks.values():
        begin, *phases, end = times

        assert phases[::2] == ([begin, *phases[1:-1:2]] if phases else [])
        assert (phases or [begin])[-1] == end or begin == end


def test_overlapping_transfers_get_threads_of_their_own(tmp_path):
    """Two transfers in one direction at a time are on two threads; a third after them shares the first."""
    tables = RunTables()
    tables.tiers += ["peer"]
    for row in ((0, 0, 10), (1, 5, 15), (2, 10, 20)):
        tables.add("transfers", *row, 0, 0, 4, 1)
    write_trace(Run([("gpu0", tables)], {}), tmp_path / "t.json")
    trace = _read(tmp_path / "t.json")
    check(trace)

    assert [event["tid"] for event in trace["traceEvents"] if event["ph"] == "X"] == [2, 3, 2]


def test_a_limit_says_what_it_left_out(paged, tmp_path):
    """The first steps only, with the rest counted in the trace's own notes."""
    left_out = write_trace(paged.run, tmp_path / "t.json", limit=10)
    trace = _read(tmp_path / "t.json")
    check(trace)
    steps = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == 1]

    assert len(steps) == 10
    assert left_out["steps"] == paged.run.count("steps") - 10
    assert trace["otherData"]["left_out"] == left_out


def test_a_window_shows_what_reaches_into_it(paged, tmp_path):
    """Steps that touch the window are shown, the others are counted."""
    left_out = write_trace(paged.run, tmp_path / "t.json", start_s=0.5, end_s=0.7)
    trace = _read(tmp_path / "t.json")
    check(trace)
    steps = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == 1]

    assert steps
    assert all(e["ts"] + e["dur"] >= 0.5e6 and e["ts"] < 0.7e6 for e in steps)
    assert left_out["steps"] == paged.run.count("steps") - len(steps) > 0
    assert trace["otherData"]["window_s"]["gpu0"] == [0.5, 0.7]


def test_step_names_say_what_ran(paged, tmp_path):
    """`decode x<iterations> (<batch> seqs)`, or the prefill tokens and the decodes beside them."""
    write_trace(paged.run, tmp_path / "t.json")
    names = _names(_read(tmp_path / "t.json"), "X")

    assert any(name.startswith("decode x") and name.endswith(" seqs)") for name in names)
    assert any(name.startswith("prefill ") and name.endswith(" decodes") for name in names)


def test_a_failure_leaves_the_old_file(paged, tmp_path, monkeypatch):
    """A trace that cannot be written changes nothing."""
    (tmp_path / "t.json").write_text("old")
    broken = Run.of_columns(paged.run._tables, {**paged.run.labels, "tier": []}, {}, "broken")
    with pytest.raises(IndexError):
        write_trace(broken, tmp_path / "t.json")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("t.json", "old")]
