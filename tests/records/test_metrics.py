"""The summary, against numbers worked out by hand and folds written with plain loops."""

import json
import math

import numpy as np
import pytest
from truths import Made

import aquasim
from aquasim.records import tenants
from aquasim.records.metrics import makespan, paged_bytes, request_times, summarise
from aquasim.records.run import Run
from aquasim.records.tables import RunTables

S = 1_000_000_000

KEYS = {
    *(
        "ttft_p50",
        "ttft_p90",
        "ttft_p99",
        "ttft_mean",
        "tpot_p50",
        "tpot_p99",
        "itl_p50",
        "itl_p99",
        "itl_max",
    ),
    *("rct_p50", "rct_p90", "rct_p99", "rct_mean", "makespan_s", "throughput_tok_s", "fairness_jain", "busy"),
    *("requests_done", "requests_rejected", "requests_aborted", "preemptions", "paged_bytes"),
    *("kv_mean", "kv_peak", "cached_tokens", "recomputed_tokens"),
}


@pytest.fixture
def tables() -> RunTables:
    """A prompt of 10 tokens (4 cached), then decodes of 1, 2 and 3 s; a rejected and an aborted request."""
    tables = RunTables()
    tables.tiers += ["host", "peer"]
    add = tables.add
    add("chunks", 0, 7, 4, 6)
    #                     step start first growth n batch context prefill prefills free waiting paged
    add("steps", 0, 1 * S, 2 * S, 0, 1, 0, 0, 6, 1, 90, 0, 0)
    add("steps", 1, 4 * S, 1 * S, 1 * S, 3, 1, 10, 0, 0, 80, 2, 1)
    add("spans", 7, 1, 1, 0)
    #                        request arrival admitted first end prompt output cached outcome
    add("requests", 8, 0, -1, -1, 0, 99, 0, 0, 1)
    add("requests", 7, 0, 1 * S, 3 * S, 10 * S, 10, 4, 4, 0)
    add("requests", 9, 2 * S, -1, -1, 5 * S, 10, 0, 0, 2)
    add("preemptions", 4 * S, 7)
    add("transfers", 0, 4 * S, 5 * S, 0, 1, 3, 1)
    add("transfers", 1, 5 * S, 6 * S, 1, 1, 2, 1)
    tables.reasons[8] = "too long"
    return tables


def test_summary_by_hand(tables: RunTables) -> None:
    """Every number of a run small enough to work out on paper."""
    run = Run([("gpu0", tables)], {"blocks": 100, "block_bytes": 10})
    summary = summarise(run, {"ttft_s": 3.0, "tpot_s": 1.0})

    assert summary == {
        **{"requests": 3, "requests_done": 1, "requests_rejected": 1, "requests_aborted": 1},
        **{"makespan_s": 10.0, "generated_tokens": 4, "prompt_tokens": 10, "cached_tokens": 4},
        **{"throughput_tok_s": 0.4, "total_tok_s": 1.4, "request_rate": 0.1, "preemptions": 1},
        **{"ttft_p50": 3.0, "ttft_p90": 3.0, "ttft_p99": 3.0, "ttft_mean": 3.0},
        **dict.fromkeys(("tpot_p50", "tpot_p90", "tpot_p99", "tpot_mean"), 7 / 3),
        **{"rct_p50": 10.0, "rct_p90": 10.0, "rct_p99": 10.0, "rct_mean": 10.0},
        **dict.fromkeys(("normalised_p50", "normalised_p90", "normalised_p99", "normalised_mean"), 2.5),
        **{"queue_p50": 1.0, "queue_p90": 1.0, "queue_p99": 1.0, "queue_mean": 1.0},
        **{"itl_p50": 2.0, "itl_p90": 3.0, "itl_p99": 3.0, "itl_max": 3.0, "itl_mean": 7 / 3},
        **{"recomputed_tokens": 0, "fairness_jain": 1.0},
        **{"busy": 0.8, "batch_mean": 0.75, "kv_mean": pytest.approx(0.175), "kv_peak": pytest.approx(0.2)},
        **{"iterations": 4, "steps": 2, "waiting_peak": 2, "paged_peak": 1, "links": None},
        "paged_bytes": {"host_out": 0, "host_in": 0, "peer_out": 30, "peer_in": 20},
        **{"slo_attainment": 0.0, "goodput_rps": 0.0},
    }


def test_nothing_finished_is_none_not_nan() -> None:
    """An empty run and one of rejections alone give null for what is undefined, and valid JSON."""
    rejected = RunTables()
    rejected.add("requests", 0, 5, -1, -1, 5, 10, 0, 0, 1)
    for tables in (RunTables(), rejected):
        summary = summarise(Run([("gpu0", tables)], {"blocks": 5, "block_bytes": 1}), {"ttft_s": 1})
        json.dumps(summary, allow_nan=False)

        assert summary.keys() >= KEYS | {"slo_attainment", "goodput_rps"}
        assert (
            summary["itl_p50"] is summary["ttft_mean"] is summary["fairness_jain"] is summary["busy"] is None
        )
        assert summary["throughput_tok_s"] is None


@pytest.mark.parametrize("seed", range(20))
def test_times_follow_their_definitions(toy: Made, seed: int) -> None:
    """Per-request times are those of the request's own tokens, NaN where an end is missing."""
    truth = toy(seed)
    requests = truth.run.columns("requests")
    times = request_times(truth.run)
    for i, id in enumerate(requests["request"].tolist()):
        tokens, arrival = truth.tokens[id], int(requests["arrival_ns"][i])
        done = requests["outcome"][i] == 0
        ttft = (tokens[0] - arrival) / S if tokens else math.nan
        tpot = (tokens[-1] - tokens[0]) / (len(tokens) - 1) / S if done and len(tokens) > 1 else math.nan
        rct = (tokens[-1] - arrival) / S if done else math.nan
        lost = int((truth.run.columns("preemptions")["request"] == id).sum())

        assert [times[key][i] for key in ("ttft_s", "tpot_s", "rct_s", "preemptions")] == pytest.approx(
            [ttft, tpot, rct, lost], nan_ok=True
        )
        assert times["normalised_s"][i] == pytest.approx(rct / max(1, len(tokens)), nan_ok=True)


def test_attainment_counts_all_requests(tables: RunTables) -> None:
    """Where the one finished request of three meets every bound, the attainment is a third."""
    run = Run([("gpu0", tables)], {})
    summary = summarise(run, {"ttft_s": 3.0, "rct_s": 10.0})

    assert (summary["slo_attainment"], summary["goodput_rps"]) == (1 / 3, 0.1)


def test_unknown_slo_bound_names_the_known(tables: RunTables) -> None:
    """A misspelt bound is an error that says what is valid."""
    with pytest.raises(ValueError, match="unknown SLO bound 'ttft'; known: ttft_s, tpot_s"):
        summarise(Run([("gpu0", tables)], {}), {"ttft": 1})


def test_bytes_need_a_block_size(tables: RunTables) -> None:
    """Without `block_bytes`, bytes paged are unknown, not 0; without transfers they are 0."""
    assert paged_bytes(Run([("gpu0", tables)], {})) is None
    assert paged_bytes(Run([("gpu0", RunTables())], {})) == {}


def test_links_pass_through(tables: RunTables) -> None:
    """Link loads come from whoever simulated or measured the links."""
    links = {"nvlink": {"bytes": 5, "capacity": 10.0, "busy_s": 0.5}}

    assert summarise(Run([("gpu0", tables)], {"links": links}))["links"] == links


def test_two_engines_are_one_sample(toy: Made, tables: RunTables) -> None:
    """Engines side by side: counts add up, percentiles are of all requests, the same id may occur in both."""
    runs = [toy(seed).run for seed in (1, 2)]
    parts = [run.columns("requests") for run in runs]
    both = {}
    for table in ("requests", "steps", "spans", "chunks", "preemptions", "transfers", "moves"):
        columns = [run.columns(table) for run in runs]
        both[table] = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
        both[table]["engine"] = np.repeat([0, 1], [len(c["engine"]) for c in columns])
    labels = {**runs[0].labels, "engine": ["a", "b"]}
    run = Run.of_columns(both, labels, {"blocks": {"a": 100, "b": 200}, "block_bytes": 1024}, "both")
    summary, singles = run.summary(), [single.summary() for single in runs]

    assert summary["requests_done"] == sum(int((part["outcome"] == 0).sum()) for part in parts)
    assert summary["recomputed_tokens"] == sum(single["recomputed_tokens"] for single in singles)
    assert summary["itl_max"] == max(single["itl_max"] for single in singles)
    assert summary["preemptions"] == sum(single["preemptions"] for single in singles)
    assert request_times(run)["preemptions"].sum() == sum(
        request_times(single)["preemptions"].sum() for single in runs
    )


@pytest.mark.parametrize(
    ("scenario", "system", "changes"),
    [
        ("burst-h100", "cfs-peer", []),
        ("small-h100", "cfs-host", ["workload.requests=60"]),
        ("aqua/s5-elastic-h100", "intended", ["duration_s=20"]),
    ],
)
def test_a_links_share_is_of_the_makespan(scenario: str, system: str | None, changes: list[str]) -> None:
    """`share` is bytes over capacity times the makespan, which also `busy` and rates are of; never over one."""
    run = aquasim.simulate(scenario, system, changes=changes)
    summary = run.summary()
    seconds = tenants.makespan(run)

    assert "tenants" in summary or seconds == makespan(run) == summary["makespan_s"]
    assert summary["links"]
    for link in summary["links"].values():
        assert link["share"] == pytest.approx(link["bytes"] / (link["capacity"] * seconds), rel=1e-12)
        assert 0 < link["share"] <= 1
