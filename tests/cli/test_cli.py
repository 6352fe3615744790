"""The command line as users meet it: a process, its two streams, its exit code, and what it leaves behind."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aquasim.cli.app import main
from aquasim.records.store import load
from aquasim.scenario import load_scenario, scenario_names
from aquasim.scenario.load import find
from aquasim.scenario.schema import Scenario

COMMANDS = ("run", "compare", "scenarios", "trace", "schedule")
SMALL = ("small-h100", "--set", "workload.requests=20")
Refused = Callable[..., str]
SUMMARY = {
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "itl_p99",
    "rct_p50",
    "rct_p99",
    "throughput_tok_s",
    "requests_done",
    "preemptions",
    "paged_bytes",
}
"""Keys that others may rely on."""


def aquasim(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "aquasim", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def good(*words: object, cwd: Path | None = None) -> str:
    """Run what must succeed, silently on stderr; return what it prints."""
    done = aquasim(*words, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def bad(*words: object, cwd: Path | None = None) -> str:
    """Run what must fail as a user's error does, in one line; return the line."""
    done = aquasim(*words, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("aquasim: ")
    return lines[0].removeprefix("aquasim: ")


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Refused]:
    """Give a `bad` that runs in this process, in `tmp_path`: the same checks, a twentieth of the time."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["aquasim", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        shown = capsys.readouterr()
        assert (caught.value.code, shown.out) == (2, "")
        assert shown.err.count("\n") == 1
        assert shown.err.startswith("aquasim: ")
        return shown.err.removeprefix("aquasim: ")

    yield run
    signal.signal(signal.SIGINT, handler)


# --- what works --------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    """`--help` succeeds and lists the commands; each has help of its own."""
    shown = good("--help")
    assert all(command in shown for command in COMMANDS)
    assert "--set" in good("compare", "--help")


def test_version_is_the_packages() -> None:
    """`--version` prints name and version."""
    import aquasim as package

    assert good("--version").strip() == f"aquasim {package.__version__}"


def test_compare_prints_the_same_figures_as_csv() -> None:
    """A row per system, every figure of the JSON that is a number, under its dotted name; not both forms at once."""
    found = pd.read_csv(io.StringIO(good("compare", *SMALL, "--csv"))).set_index("system")
    shown = json.loads(good("compare", *SMALL, "--json"))["systems"]
    assert list(found.index) == list(shown)
    for name, summary in shown.items():
        assert found.loc[name, "ttft_p99"] == pytest.approx(summary["ttft_p99"])
        assert found.loc[name, "requests_done"] == summary["requests_done"]


def test_compare_prints_documented_json() -> None:
    """`compare NAME --json`: the scenario's name and, per system, a summary with the documented keys."""
    shown = json.loads(good("compare", "burst-h100", "--json"))
    assert set(shown) == {"scenario", "systems"}
    assert shown["scenario"] == "burst-h100"
    assert list(shown["systems"]) == list(load_scenario("burst-h100").systems)
    for summary in shown["systems"].values():
        assert summary.keys() >= SUMMARY
        assert summary["requests_done"] == 180
        assert 0 < summary["ttft_p50"] <= summary["ttft_p99"] <= summary["rct_p99"]


def test_slices_over_a_peer_bring_first_tokens_sooner_at_little_cost() -> None:
    """What the shipped scenario expects holds: tail TTFT falls tenfold over a peer, throughput by less than 5 %."""
    systems = json.loads(good("compare", "burst-h100", "--json"))["systems"]
    fcfs, peer, aqua = (systems[name] for name in ("fcfs", "cfs-peer", "aqua"))
    for fair in (peer, aqua):
        assert fair["ttft_p99"] < fcfs["ttft_p99"] / 10
        assert fair["throughput_tok_s"] > 0.95 * fcfs["throughput_tok_s"]


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Two processes, one result; another seed, another."""
    words = ("compare", *SMALL, "--json")
    assert good(*words) == good(*words) != good(*words, "--set", "seed=2")


def test_compare_prints_a_table_of_chosen_systems() -> None:
    """Without --json: a row per system asked for, none of the others."""
    shown = good("compare", *SMALL, "-s", "fcfs", "-s", "aqua")
    assert "TTFT" in shown
    assert "aqua" in shown
    assert "srpt" not in shown


def test_run_writes_a_folder_that_opens(tmp_path: Path) -> None:
    """`run --out`: records that `load` and pandas read, equal to what was printed."""
    out = tmp_path / "new" / "run"
    shown = json.loads(good("run", *SMALL, "--system", "cfs-peer", "--out", out, "--json"))
    record = load(out)
    assert record.summary()["requests_done"] == shown["requests_done"] == 20
    assert record.meta["system"] == shown["system"] == "cfs-peer"
    frame = pd.read_parquet(out / "requests.parquet")
    assert len(frame) == 20
    assert set(frame["outcome"]) == {"finished"}
    assert json.loads((out / "summary.json").read_text())["requests_done"] == 20


def test_compare_writes_a_folder_per_system(tmp_path: Path) -> None:
    """`compare --out DIR`: DIR/SYSTEM each."""
    good("compare", *SMALL, "-s", "fcfs", "-s", "aqua", "--out", tmp_path / "runs")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["aqua", "fcfs"]
    assert load(tmp_path / "runs" / "aqua").meta["policy"] == "aqua"


def test_trace_writes_a_time_line(tmp_path: Path) -> None:
    """`trace RUN` writes RUN/trace.json.gz and prints where."""
    out = tmp_path / "run"
    good("run", *SMALL, "--out", out)
    assert good("trace", out).strip() == str(out / "trace.json.gz")
    assert (out / "trace.json.gz").stat().st_size > 0
    assert good("trace", out, "-o", tmp_path / "t.json", "--start", 3, "--end", 5).strip() == str(
        tmp_path / "t.json"
    )
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_an_earlier_run_is_kept_unless_told(tmp_path: Path) -> None:
    """An existing run folder is refused and untouched; --overwrite replaces it, and only a run folder."""
    out = tmp_path / "run"
    good("run", *SMALL, "--out", out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert "--overwrite" in bad("run", *SMALL, "--out", out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    good("run", *SMALL, "--system", "aqua", "--out", out, "--overwrite")
    assert load(out).meta["policy"] == "aqua"


def test_overwrite_spares_what_is_not_a_run(tmp_path: Path) -> None:
    """A folder with something else in it is refused even with --overwrite, before anything is simulated."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    line = bad("run", *SMALL, "--out", tmp_path / "notes", "--overwrite")
    assert "not a run folder" in line
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.txt"]


def test_schedule_prints_a_line_per_iteration(tmp_path: Path) -> None:
    """`schedule FILE.json`: what each iteration computes; vLLM keeps one block of the pool for itself."""
    file = tmp_path / "case.json"
    jobs = [{"step": 0, "prompt": 7, "output": 3}, {"step": 1, "prompt": [1, 2, 3], "output": 1}]
    file.write_text(json.dumps({"num_blocks": 5, "block_size": 4, "requests": jobs}))
    rows = [json.loads(line) for line in good("schedule", file).splitlines()]
    assert [row["tokens"] for row in rows] == [{"0": 7}, {"0": 1, "1": 3}, {"0": 1}]
    assert rows[1] == {
        "i": 1,
        "tokens": {"0": 1, "1": 3},
        "preempted": [],
        "running": 2,
        "waiting": 0,
        "kv_used": 3,
    }


def test_schedule_takes_policies_and_options(tmp_path: Path) -> None:
    """A policy by name with its options: slices of one iteration alternate between two that do not fit."""
    file = tmp_path / "case.json"
    jobs = [{"step": 0, "prompt": 7, "output": 4}] * 2
    file.write_text(json.dumps({"num_blocks": 5, "block_size": 4, "tiers": {"host": 9}, "requests": jobs}))
    shown = good("schedule", file, "--policy", "cfs", "--option", "slice_length=1")
    rows = [json.loads(line) for line in shown.splitlines()]
    assert any(row["preempted"] for row in rows)
    assert sum(sum(row["tokens"].values()) for row in rows) == 2 * (7 + 3)


def test_scenarios_lists_what_ships() -> None:
    """Every shipped scenario with its question, systems and file."""
    shown = json.loads(good("scenarios", "--json"))
    assert list(shown) == scenario_names()
    assert all(row["question"] and row["systems"] and Path(row["file"]).is_file() for row in shown.values())
    table = good("scenarios")
    assert all(name in table for name in scenario_names())


# --- what does not -----------------------------------------------------------------------------------------

SET = "--set"
WRONG_VALUES = {
    "unknown scenario": (
        ("run", "brust-h100"),
        ["unknown scenario 'brust-h100'", "did you mean 'burst-h100'", "azure-code"],
    ),
    "unknown key": (
        ("run", "small-h100", SET, "engine.max_num_seq=3"),
        [
            "--set engine.max_num_seq=3",
            "unknown key 'engine.max_num_seq'",
            "did you mean 'max_num_seqs'",
            "block_size",
        ],
    ),
    "unknown table": (
        ("run", "small-h100", SET, "engin.block_size=3"),
        ["--set engin.block_size=3", "'engin'", "engine"],
    ),
    "key of another kind": (
        ("run", "small-h100", SET, "workload.arrivals.rate=2"),
        ["unknown key 'workload.arrivals.rate'", "valid: kind, phases, repeat"],
    ),
    "no value": (("run", "small-h100", SET, "seed"), ["--set seed", "path.to.key=value"]),
    "negative rate": (
        ("run", "small-h100", SET, 'workload.arrivals={kind="poisson", rate=-1}'),
        ["workload.arrivals.rate is -1", "greater than 0"],
    ),
    "rate that is no number": (
        ("run", "small-h100", SET, 'workload.arrivals={kind="poisson", rate=nan}'),
        ["workload.arrivals.rate is nan", "finite"],
    ),
    "endless memory": (
        ("run", "small-h100", SET, "machine.host_gib=inf"),
        ["machine.host_gib is inf", "finite"],
    ),
    "model too large": (
        ("run", "burst-h100", SET, "model.tp=1", SET, "machine.gpus=[0]", SET, "machine.donors=[1]"),
        ["Llama-3.1-70B", "tp=1", "needs 142.", "77.0 GB available", "tp=2 fits"],
    ),
    "unknown model": (("run", "small-h100", SET, "model.name=Llama-9"), ["'Llama-9'", "Llama-2-7B"]),
    "unknown server": (
        ("run", "small-h100", SET, "machine.server=9xH100"),
        ["machine.server", "'9xH100'", "8xH100"],
    ),
    "unknown profile": (
        ("run", "small-h100", SET, "machine.profile=b200"),
        ["'b200'", "a100, a10g, h100, h200"],
    ),
    "unknown policy": (
        ("run", "small-h100", SET, "systems.fcfs.policy=lifo"),
        ["systems.fcfs", "'lifo'", "fcfs, fcfs-swap"],
    ),
    "unknown option": (
        ("run", "small-h100", "-s", "aqua", SET, "systems.aqua.options.slice=3"),
        ["systems.aqua", "'slice'", "slice_length, clamp, backfill"],
    ),
    "option out of range": (
        ("run", "small-h100", "-s", "aqua", SET, "systems.aqua.options.slice_length=0"),
        ["systems.aqua", "slice_length is 0", "at least 1"],
    ),
    "unknown system": (("compare", "small-h100", "-s", "aquaa"), ["'aquaa'", "fcfs, fcfs-swap", "aqua"]),
    "longer than memory": (
        ("run", "small-h100", SET, "engine.max_model_len=100000"),
        ["engine.max_model_len is 100000", "16000 tokens"],
    ),
    "missing trace": (
        ("run", "small-h100", SET, "workload.path=/no/such.csv"),
        ["/no/such.csv", "No such file"],
    ),
    "empty workload": (
        ("run", "small-h100", SET, "workload.requests=0"),
        ["workload.requests is 0", "greater than or equal to 1"],
    ),
    "no donor": (("run", "small-h100", "-s", "aqua", SET, "machine.donors=[]"), ["'peer'", "machine.donors"]),
    "no host memory": (
        ("run", "small-h100", "-s", "aqua", SET, "machine.host_gib=0"),
        ["'host'", "machine.host_gib is 0"],
    ),
    "a GPU twice": (
        ("run", "small-h100", SET, "machine.donors=[0]"),
        ["machine.gpus [0]", "donors [0]", "different GPUs"],
    ),
    "a GPU too many": (("run", "small-h100", SET, "machine.donors=[8]"), ["donors [8]", "below 8"]),
    "not every rank": (("run", "burst-h100", SET, "machine.gpus=[2]"), ["names 1 GPUs", "model.tp is 2"]),
    "missing run": (("trace", "no-such-run"), ["no-such-run", "no such folder"]),
    "empty window": (("trace", "run", "--start", 2, "--end", 1), ["--start 2 --end 1"]),
    "missing schedule": (("schedule", "no.json"), ["no.json", "No such file"]),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_users_error_is_one_line(case: str, tmp_path: Path, refused: Refused) -> None:
    """Exit code 2, one line naming key, value and what is valid, nothing on stdout, nothing written."""
    words, parts = WRONG_VALUES[case]
    out = ("--out", tmp_path / "run") if words[0] != "trace" and words[0] != "schedule" else ()
    line = refused(*words, *out)
    assert [part for part in parts if part not in line] == []
    assert list(tmp_path.iterdir()) == []


def variant(tmp_path: Path, old: str, new: str) -> Path:
    """Write `small-h100` with one text replaced."""
    text = find("small-h100").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("max_num_seqs = 512", "max_seqs = 512", ["mine.toml:18:", "'engine.max_seqs'", "mean 'max_num_seqs'"]),
        ("[[1.0, 10],", "[[-1.0, 10],", ["mine.toml:28:", "workload.arrivals.phases", "-1.0", "than or equal to 0"]),
        ("kv_blocks = 1000", "kv_blocks = 0", ["mine.toml:21:", "engine.kv_blocks is 0", "than or equal to 1"]),
        ("requests = 180", "", ["requests or duration_s"]),
        ("[workload.prompt]", "[workload.prompt", ["mine.toml", "not TOML", "line 30"]),
        ('server = "8xH100"', "", ["mine.toml", "'machine.server' is missing"]),
        ('kind = "piecewise"', 'kind = "fractal"', ["mine.toml:26:", "'fractal'", "'piecewise'"]),
        ('policy = "srpt"', 'policy = "srpt"\ncopies = "rows"', ["systems.srpt.copies is 'rows'", "'column'"]),
    ],
    ids=["unknown key", "negative rate", "no blocks", "no end", "syntax", "missing key", "kind", "choice"],
)  # fmt: skip
def test_a_faulty_file_is_named_with_its_line(
    tmp_path: Path, refused: Refused, old: str, new: str, parts: list[str]
) -> None:
    """A scenario file's error names file, line, key, value and what is valid."""
    path = variant(tmp_path, old, new)
    line = refused("run", path, "--out", tmp_path / "run")
    assert [part for part in parts if part not in line] == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,10\n",
            [":3:", "2 fields, 3 are needed", "truncated"],
        ),
        ("arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,-4,10\n", [":3:", "prompt_tokens", "-4"]),
        ("arrival_s,prompt_tokens,output_tokens\n", ["no rows", "at least one request"]),
        ("", ["empty"]),
    ],
    ids=["truncated", "negative", "no rows", "empty"],
)
def test_a_faulty_trace_is_named_with_its_line(
    tmp_path: Path, refused: Refused, text: str, parts: list[str]
) -> None:
    """A trace file's error names file and line."""
    path = tmp_path / "load.csv"
    path.write_text(text)
    line = refused("run", "small-h100", SET, f"workload.path={path}", "--out", tmp_path / "run")
    assert [part for part in [str(path), *parts] if part not in line] == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"num_blocks": 1}, ["num_blocks is 1", ">= 2"]),
        ({"blocks": 1}, ["unknown key 'blocks'", "num_blocks"]),
        ({"requests": []}, ["at least one request"]),
        ({"requests": [{"step": 0, "prompt": 4, "output": 0}]}, ["requests[0]", "output is 0"]),
        ({"requests": [{"step": 0, "prompt": "x", "output": 1}]}, ["requests[0]", "prompt is 'x'"]),
        ({"requests": [{"step": 0, "prompt": 1, "output": 1, "priority": "x"}]}, ["requests[0]", "priority is 'x'"]),
        ({"prefill": "whole"}, ["prefill is 'whole'", "chunked, prompt-only"]),
    ],
)  # fmt: skip
def test_a_faulty_schedule_file_is_explained(
    tmp_path: Path, refused: Refused, change: dict[str, Any], parts: list[str]
) -> None:
    """`schedule` names file, key and value."""
    file = tmp_path / "case.json"
    case = {"num_blocks": 10, "requests": [{"step": 0, "prompt": 4, "output": 2}]}
    file.write_text(json.dumps(case | change))
    line = refused("schedule", file)
    assert [part for part in [str(file), *parts] if part not in line] == []


@pytest.mark.parametrize("option", ["slice_length=soon", "slice=1", "slice_length"])
def test_a_faulty_policy_option_is_explained(tmp_path: Path, refused: Refused, option: str) -> None:
    """`schedule --option` names the option."""
    file = tmp_path / "case.json"
    file.write_text('{"num_blocks": 10, "requests": [{"step": 0, "prompt": 4, "output": 2}]}')
    assert option.partition("=")[0] in refused("schedule", file, "--policy", "cfs", "--option", option)


@pytest.mark.parametrize(
    ("policy", "change", "part"),
    [
        ("neo", {}, "--policy neo: it weighs what a host takes"),
        ("fastdecode", {}, "--policy fastdecode"),
        ("gpu-only", {"prefix_caching": True}, "neither prefix caching nor adapters"),
    ],
)
def test_a_policy_that_needs_more_than_a_schedule_says_so(
    tmp_path: Path, refused: Refused, policy: str, change: dict[str, Any], part: str
) -> None:
    """Lanes need a host and its times, which a file without a clock does not have."""
    file = tmp_path / "case.json"
    case = {"num_blocks": 10, "requests": [{"step": 0, "prompt": 4, "output": 2}]}
    file.write_text(json.dumps(case | change))
    assert part in refused("schedule", file, "--policy", policy)


def test_tenants_have_no_lanes(refused: Refused) -> None:
    """A scenario with tenants and a policy of lanes is refused in one line."""
    line = refused("run", "aqua/s3-single-h100", "--set", "tenants.llama-8b.policy=neo")
    assert "tenants.llama-8b" in line
    assert "'neo' is for scenarios of one engine" in line


PLAIN = [
    ("run", "brust-h100"),
    ("compare", "small-h100", "-s", "x"),
    ("trace", "gone"),
    ("schedule", "gone.json"),
    ("run",),
    ("run", "small-h100", "--nope"),
    ("reproduce", "aqua", "--workers", "0"),
    ("no-such-command",),
]


@pytest.mark.parametrize("words", PLAIN)
def test_a_process_with_a_users_error_exits_with_2(words: tuple[str, ...], tmp_path: Path) -> None:
    """The same in a process of its own, for each command."""
    assert bad(*words, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- interruption ------------------------------------------------------------------------------------------


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    for _ in range(400):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_an_interrupt_ends_within_a_second_and_leaves_whole_runs_only(tmp_path: Path) -> None:
    """Ctrl-C in the second of two systems: code 130, one line, the first run complete, no trace of the second."""
    out = tmp_path / "runs"
    load_up = 'workload.arrivals={kind="poisson", rate=6}'
    words = (
        "compare",
        "small-h100",
        SET,
        load_up,
        SET,
        "workload.requests=6000",
        "-s",
        "fcfs",
        "-s",
        "cfs-peer",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "aquasim", *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell may have it ignored
    )
    wait_for(out / "fcfs" / "meta.json", process)
    time.sleep(0.2)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert (process.returncode, stdout, stderr) == (130, "", "aquasim: interrupted\n")
    assert [path.name for path in out.iterdir()] == ["fcfs"]
    assert load(out / "fcfs").summary()["requests_done"] == 6000


def test_scenarios_prints_a_file_to_begin_from(tmp_path: Path, refused: Refused) -> None:
    """What is printed for a name is the file: saved, it is the same scenario."""
    path = tmp_path / "mine.toml"
    path.write_text(good("scenarios", "burst-h100"))
    assert load_scenario(str(path)) == load_scenario("burst-h100")
    assert "did you mean 'burst-h100'?" in refused("scenarios", "burst-h10")


def test_scenarios_says_every_key_that_a_file_may_have() -> None:
    """All keys of all shipped scenarios of one engine are among them, with what is required and what is not."""
    rows = json.loads(good("scenarios", "--keys", "--json"))
    known = {row["path"] for row in rows}
    for name in scenario_names():
        scenario = load_scenario(name)
        if isinstance(scenario, Scenario):
            assert set(_paths(scenario.model_dump(exclude_unset=True))) <= known, name
    defaults = {row["path"]: row["default"] for row in rows}
    assert defaults["machine.server"] is None
    assert defaults["engine.max_num_seqs"] == "256"
    assert defaults["engine.kv_blocks"] == ""
    table = good("scenarios", "--keys")
    assert all(path in table for path in known)
    assert max(map(len, table.splitlines())) <= 80


def _paths(table: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in table.items():
        if path == "systems":
            name = "NAME"
        where = f"{path}.{name}" if path else name
        if isinstance(value, dict) and where != "systems.NAME.options":
            yield from _paths(value, where)
        else:
            yield where
