"""Capacity and sizes: what is found holds, what is one step further does not, and it is said which and why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aquasim.api import simulate
from aquasim.errors import UserError
from aquasim.scenario import Scenario, load_scenario
from aquasim.sweep.base import Base
from aquasim.sweep.evaluate import Evaluator, Memory
from aquasim.sweep.executors import Here
from aquasim.sweep.knobs import key_knob, rate_knob, size_knobs
from aquasim.sweep.limits import Judge, Limit, capacity, lasting, least, parse_slo
from aquasim.sweep.words import assured

BASE = Base.load("small-h100", (("workload.requests", 40),))


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    """Simulate in this process, once for all tests."""
    return Evaluator(BASE.data, Here(), Memory())


def judge(evaluator: Evaluator, system: str, key: str | None, *slo: str, seeds: int = 3) -> Judge:
    """Return what judges one system's values of a knob."""
    knob = rate_knob(BASE) if key is None else key_knob(BASE, key)
    return Judge(BASE, system, knob, parse_slo(BASE, slo), range(1, 1 + seeds), 0.95, evaluator)


def test_capacity_is_where_every_seed_still_meets_the_slo(evaluator: Evaluator) -> None:
    """Simulated again, all seeds meet it at the answer, and one does not a step further."""
    limit = capacity(judge(evaluator, "fcfs", None, "ttft_p99 <= 1.0"))
    found = limit.boundary
    assert found.value is not None
    assert found.beyond is not None
    assert found.beyond <= found.value * 1.02
    phases = load_scenario("small-h100").workload.arrivals.phases  # type: ignore[union-attr]
    for factor, wanted in ((found.value, 3), (found.beyond, limit.verdicts[found.beyond].passed)):
        scaled = json.dumps([[rate * factor, seconds] for rate, seconds in phases])
        changes = ["workload.requests=40", f"workload.arrivals.phases={scaled}"]
        runs = [simulate("small-h100", "fcfs", changes=[*changes, f"seed={seed}"]) for seed in (1, 2, 3)]
        assert sum(run.summary()["ttft_p99"] <= 1.0 for run in runs) == wanted
    assert limit.verdicts[found.beyond].passed < 3


def test_a_rate_that_only_a_short_run_bears_is_said() -> None:
    """Thirty requests end before a queue forms; 120 at that rate do not meet it. A bound that is slack lasts."""
    poisson = {"kind": "poisson", "rate": 4.0}
    base = Base.load("small-h100", (("workload.requests", 30), ("workload.arrivals", poisson)))
    evaluator = Evaluator(base.data, Here(), Memory())

    def found(*slo: str) -> Limit:
        judge = Judge(base, "fcfs", rate_knob(base), parse_slo(base, slo), (1, 2), 0.95, evaluator)
        return lasting(judge, capacity(judge, 1, 64))

    fleeting, easy = found("ttft_p99 <= 2.0"), found("ttft_p99 <= 1e6")
    assert fleeting.longer is not None
    assert not fleeting.longer.meets
    assert "NOT LASTING: 0 of 2 seeds meet it in runs 4 times as long, ttft_p99 " in assured(fleeting)
    assert easy.longer is not None
    assert easy.longer.meets
    assert "NOT LASTING" not in assured(easy)


def test_bursts_say_nothing_of_longer_runs(evaluator: Evaluator) -> None:
    """Phases have no more to give than they say: nothing is added."""
    judged = judge(evaluator, "fcfs", None, "ttft_p99 <= 1.0")
    assert lasting(judged, capacity(judged)).longer is None


def test_any_numeric_key_has_a_capacity(evaluator: Evaluator) -> None:
    """With --key: prompts twice as long until first tokens come late; whole numbers stay whole."""
    limit = capacity(judge(evaluator, "aqua", "workload.prompt.median", "ttft_p50 <= 0.05"), 100, 2000)
    assert limit.boundary.value is not None
    assert 100 < limit.boundary.value < 2000
    whole = key_knob(BASE, "engine.kv_blocks")
    assert whole.changes(300.4) == (("engine.kv_blocks", 300),)


def test_a_limit_beyond_the_range_is_said(evaluator: Evaluator) -> None:
    """What always holds has no value beyond; what never holds has none at all."""
    always = capacity(judge(evaluator, "aqua", None, "ttft_p99 <= 1e6"), 0.5, 2)
    assert (always.boundary.value, always.boundary.beyond) == (2, None)
    never = capacity(judge(evaluator, "aqua", None, "ttft_p99 <= 0"), 0.5, 2)
    assert (never.boundary.value, never.boundary.beyond) == (None, 0.5)


@pytest.mark.parametrize("option", ["low", "high"])
@pytest.mark.parametrize("value", [-5.0, 0.0, float("nan"), float("inf")])
def test_each_bound_is_checked_alone(evaluator: Evaluator, option: str, value: float) -> None:
    """A rate is a finite number above 0, a count of blocks a whole one; the line names the option."""
    given = {option: value}
    with pytest.raises(
        UserError, match=rf"^--{option} {value:g}: workload\.arrivals\.phases takes finite numbers"
    ):
        capacity(judge(evaluator, "fcfs", None, "ttft_p99 <= 1.0"), **given)
    for wrong in (value, 300.5):
        with pytest.raises(UserError, match=rf"^--{option} {wrong:g}: engine\.kv_blocks takes whole numbers"):
            capacity(judge(evaluator, "fcfs", "engine.kv_blocks", "ttft_p99 <= 1.0"), **{option: wrong})


def test_a_value_that_cannot_run_is_named(evaluator: Evaluator) -> None:
    """Where none can, the line has the system, the key and the first value tried."""
    with pytest.raises(UserError, match=r"^aqua at machine\.peer_gib=900: machine\.peer_gib is 900"):
        capacity(judge(evaluator, "aqua", "machine.peer_gib", "ttft_p99 <= 1"), 900, 999)


def test_every_kind_of_arrivals_has_a_rate() -> None:
    """Its own key, or a factor; where everything comes at once there is none."""
    for table, key, unit, now in (
        ({"kind": "poisson", "rate": 2}, "workload.arrivals.rate", "/s", 2),
        ({"kind": "gamma", "rate": 3, "cv": 2}, "workload.arrivals.rate", "/s", 3),
        ({"kind": "fixed", "gap_s": 0.25}, "workload.arrivals.gap_s", "/s", 4),
        ({"kind": "closed-loop", "cap": 8}, "workload.arrivals.cap", " open", 8),
    ):
        knob = rate_knob(Base.load("small-h100", (("workload.arrivals", table),)))
        assert (knob.key, knob.unit, knob.now) == (key, unit, now)
    with pytest.raises(UserError, match="everything arrives at once"):
        rate_knob(Base.load("small-h100", (("workload.arrivals", {"kind": "at-once"}),)))
    assert rate_knob(Base.load("azure-code")).now is not None


def test_sizes_are_the_least_that_meet(evaluator: Evaluator) -> None:
    """Each knob alone: the answer meets the SLO, the value below it does not, the rest is as in the scenario."""
    slo = parse_slo(BASE, ["rct_p99 <= 14.6", "ttft_p99 <= 1"])
    for size in size_knobs(BASE, "aqua"):
        assert size.knob is not None
        found = least(Judge(BASE, "aqua", size.knob, slo, (1, 2), 0.95, evaluator), size)
        if found.boundary.value is not None:
            assert found.verdicts[found.boundary.value].meets
        if found.boundary.beyond is not None:
            assert not found.verdicts[found.boundary.beyond].meets


def test_what_a_system_does_not_have_is_not_sized() -> None:
    """Admission control has no slices, moves no pages and keeps none in a peer: said, not guessed."""
    assert [size.knob for size in size_knobs(BASE, "fcfs")] == [None, None, None]
    assert all(size.why_not for size in size_knobs(BASE, "fcfs"))
    keys = [size.knob.key for size in size_knobs(BASE, "cfs-host") if size.knob is not None]
    assert keys == ["machine.pcie_gbs", "systems.cfs-host.options.slice_length"]


def test_the_link_has_the_bandwidth_it_is_given() -> None:
    """A slower link carries the same bytes in more time; the measured value changes nothing."""
    plain = simulate("small-h100", "cfs-peer", changes=["workload.requests=120"])
    same = simulate("small-h100", "cfs-peer", changes=["workload.requests=120", "machine.link_gbs=376"])
    slow = simulate("small-h100", "cfs-peer", changes=["workload.requests=120", "machine.link_gbs=20"])
    capacity = slow.summary()["links"]["gpu0.nvlink-out"]["capacity"]
    assert plain.summary()["rct_p99"] == same.summary()["rct_p99"] < slow.summary()["rct_p99"]
    assert capacity == 20e9
    hosts = [
        simulate("small-h100", "cfs-host", changes=["workload.requests=120", *more]).summary()
        for more in ([], ["machine.pcie_gbs=5"])
    ]
    assert hosts[0]["rct_p99"] < hosts[1]["rct_p99"]
    changes = ["machine.server=4xL40S", "machine.link_gbs=9", "machine.peer_gib=2", "engine.kv_blocks=500"]
    with pytest.raises(UserError, match=r"machine\.link_gbs: GPUs of 4xL40S have no NVLink"):
        simulate("small-h100", "cfs-peer", changes=changes)


def test_an_unknown_key_or_slo_is_refused() -> None:
    """In a line that says what is valid."""
    for key, says in (
        ("workload.rat", "unknown key"),
        ("systems.aqau.options.slice_length", "no system 'aqau'; the scenario has: fcfs, "),
        ("question", "not a number"),
        ("model.name", "not a number"),
    ):
        with pytest.raises(UserError, match=says):
            key_knob(BASE, key)
    for slo, says in (
        ([], "give an SLO"),
        (["ttft_p9 <= 1"], "unknown metric"),
        (["fcfs.ttft_p99 <= 1"], "leave out"),
    ):
        with pytest.raises(UserError, match=says):
            parse_slo(BASE, slo)
    assert isinstance(BASE.scenario, Scenario)


def aquasim(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "aquasim", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


SETTING = (
    "small-h100",
    "--set",
    "workload.requests=20",
    "--workers",
    1,
    "--slo",
    "ttft_p99 <= 0.5",
    "--seeds",
    2,
)


def test_capacity_says_what_was_assured(tmp_path: Path) -> None:
    """One row per system, and in words: seeds, interval, share of runs; JSON has every value tried."""
    words = ("capacity", *SETTING, "-s", "fcfs", "-s", "aqua", "--out", "s", "--low", 0.25, "--high", 4)
    shown = aquasim(*words, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "all of 2 seeds meet it" in text
    assert "at 95% confidence at least 22% of all runs do" in text
    assert max(map(len, shown.stdout.splitlines())) <= 80
    again = aquasim(*words, "--json", cwd=tmp_path)
    document = json.loads(again.stdout)
    assert [row["system"] for row in document["capacity"]] == ["fcfs", "aqua"]
    for row in document["capacity"]:
        assert row["value"] in [each["value"] for each in row["tried"] if each["meets"]]
    assert aquasim(*words, "--csv", cwd=tmp_path).stdout.startswith("system,what,key,unit,now,value,beyond,")


def test_a_seed_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    """Before anything runs, in a line with the largest seed."""
    done = aquasim("capacity", *SETTING, "--set", f"seed={10**20}", "--out", "s", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"a seed is at most {2**63 - 1}" in done.stderr


def test_size_as_a_command(tmp_path: Path) -> None:
    """Three rows per system; what holds at the lowest value says so."""
    done = aquasim("size", *SETTING, "-s", "aqua", "-s", "fcfs", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["size"]
    assert [row["what"] for row in rows] == ["peer memory", "link bandwidth", "slice length"] * 2
    assert rows[0]["value"] == 0
    assert rows[0]["assured"].startswith(
        "none is needed, tier peer can go; 0 GiB (without tier peer): all of 2"
    )
    assert "that is the lowest value tried" in rows[0]["assured"]
    assert rows[3]["assured"] == "fcfs keeps no pages in a peer's memory"
    shown = aquasim("size", *SETTING, "-s", "aqua", cwd=tmp_path).stdout
    assert shown.splitlines()[2].split() == ["aqua", "peer", "memory", "20", "none", "-", "2/2"]
    bad = aquasim("size", "small-h100", cwd=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert 'give an SLO, for example --slo "ttft_p99 <= 1.0"' in bad.stderr


@pytest.mark.parametrize("command", ["size", "capacity", "run"])
def test_an_unknown_profile_is_one_line(tmp_path: Path, command: str) -> None:
    """Whoever looks for the machine first: the key, the value and the known names, exit code 2."""
    slo = () if command == "run" else ("--slo", "ttft_p99 <= 1", "--seeds", 1)
    profile = ("--set", "machine.profile=nope")
    done = aquasim(command, "small-h100", "--system", "aqua", *profile, *slo, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "machine.profile: unknown hardware profile 'nope'; known: a100, " in done.stderr
