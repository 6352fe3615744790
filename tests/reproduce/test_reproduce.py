"""Reproductions: jobs run once whatever the number of processes, findings become Markdown, JSON and figures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from aquasim.cli.app import main
from aquasim.errors import UserError
from aquasim.processes import processes
from aquasim.reproduce import Finding, Job, Range, Row, run_jobs
from aquasim.reproduce.aqua import CLAIMS
from aquasim.reproduce.aqua.ablation import Ablation
from aquasim.reproduce.jobs import points, shared
from aquasim.reproduce.report import markdown, overview, write

ABOUT = {"command": "aquasim reproduce aqua", "version": "1", "date": "2026-01-01", "machine": "x"}
SHORT = (("tenants.llama-8b.workload.requests", "30"),)


def test_a_range_is_least_median_greatest() -> None:
    """Three figures, or one where all are the same to three digits."""
    assert Range.of([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)
    assert Range.of([1.0, 2.0]).mid == 1.5
    assert Range.of([2.0]).text("x") == "2x"
    assert Range.of([1.0, 2.5]).text(" s") == "1.75 s (1 s to 2.5 s)"
    with pytest.raises(AssertionError):
        Range.of([])


def test_points_are_every_combination_of_the_ranges() -> None:
    """The grid of s6 is the product of its ranges, and each point is one set of changes."""
    found = points("aqua/s6-lora")
    sizes = [len(values) for values in shared("aqua/s6-lora").ranges.values()]
    assert len(found) == len(set(found)) == prod(sizes)
    assert {path for path, _ in found[0]} == set(shared("aqua/s6-lora").ranges)


def test_processes_change_nothing() -> None:
    """One process or two: the same outcomes, each job once, changes applied."""
    jobs = [Job("aqua/s3-single-h100", system, SHORT) for system in ("fcfs", "intended")]
    done: list[tuple[int, int]] = []
    one = run_jobs(jobs, 1)
    two = run_jobs([*jobs, *jobs], 2, lambda number, of: done.append((number, of)))
    assert one == two
    assert done == [(1, 2), (2, 2)]
    assert one[jobs[0]].tenant("llama-8b")["requests"] == 30


def test_a_job_may_be_a_scenario_of_one_engine() -> None:
    """A cell of the ablation is burst-h100 with another policy, tier, layout, slice and overlap."""
    ablation = Ablation()
    assert len(ablation.jobs()) == len(set(ablation.jobs())) == 8 + 4 * 5 * 2
    job = ablation.jobs()[-1]
    short = job._replace(changes=(*job.changes, ("workload.requests", "20")))
    outcome = run_jobs([short], 1)[short]
    assert outcome.summary["requests_done"] == 20


def finding(**changes: object) -> Finding:
    """Return a finding with a chart."""

    def chart() -> object:
        from aquasim.reproduce.figures import links_chart

        return links_chart([{"server": "a", "link": "peer", "KiB": 4, "GB/s": 1.0}])

    plain = {
        "key": "k",
        "title": "A claim",
        "says": "4x",
        "paper": 4.0,
        "rows": (Row("host", Range.of([1.0])), Row("faithful", Range.of([2.0, 3.0]))),
        "over": "rates",
        "why": "Because.",
        "scenarios": ("aqua/s1",),
        "notes": ("A note",),
        "figures": {"links": chart},
    }
    return Finding(**(plain | changes))  # type: ignore[arg-type]


def test_markdown_says_everything() -> None:
    """The table has the first figure of each protocol, else the first two; details have every row and figure."""
    text = markdown("Title", [finding()], ABOUT)
    assert "| A claim | 4x | 2.5x (2x to 3x) | - | rates | Because. |" in text
    for part in ("| host | 1x |", "Because.", "A note.", "![links](links.png)", "`aqua/s1`", "2026-01-01"):
        assert part in text
    rows = (Row("host", Range.of([1.0]), " s"), Row("peer", Range.of([2.0]), " s"))
    assert overview(finding(rows=rows))[2:4] == ["-", "host 1 s; peer 2 s"]
    rows = (Row("left, faithful", Range.of([1.0])), Row("intended over host, tokens/s", Range.of([2.0])))
    assert overview(finding(rows=rows))[2:4] == ["left 1x", "over host, tokens/s 2x"]


def test_a_report_is_files(tmp_path: Path) -> None:
    """Markdown, JSON and one PNG per figure, an overview first; written again, the same names."""
    written = write(tmp_path / "out", "Title", [finding()], ABOUT)
    assert [path.name for path in written] == ["report.md", "report.json", "claims.png", "links.png"]
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["claims"][0]["simulated"][1] == {
        "system": "faithful",
        "low": 2.0,
        "mid": 2.5,
        "high": 3.0,
        "unit": "x",
    }
    assert (tmp_path / "out" / "links.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in written)
    assert write(tmp_path / "out", "Title", [finding()], ABOUT) == written


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Run the command line; return code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["aquasim", "reproduce", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capsys.readouterr()
    return int(caught.value.code or 0), shown.out, shown.err


def test_the_command_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`--only` takes a claim; JSON on stdout, files where asked."""
    code, out, err = call(monkeypatch, capsys, "aqua", "--only", "links", "--json", "-o", str(tmp_path / "r"))
    assert code == 0
    assert [claim["key"] for claim in json.loads(out)["claims"]] == ["links"]
    assert "report.md first" in err
    assert (tmp_path / "r" / "links.png").is_file()
    code, out, _ = call(monkeypatch, capsys, "aqua", "--only", "links")
    assert code == 0
    assert "peer over host, per layer" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("neon",), "unknown paper 'neon'; known: aqua, neo"),
        (
            ("aqua", "--only", "lnks"),
            "--only lnks: unknown claim; did you mean 'links'? known: " + ", ".join(CLAIMS),
        ),
    ],
)
def test_a_wrong_word_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    """What is unknown is named, with what is known; exit code 2."""
    assert call(monkeypatch, capsys, *words) == (2, "", f"aquasim: {line}\n")


def test_a_file_in_the_way_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """--out that is a file, or holds an earlier report: one line before anything is simulated."""
    (tmp_path / "file").write_text("x")
    words = ("aqua", "--only", "links", "-o")
    found = call(monkeypatch, capsys, *words, str(tmp_path / "file"))
    assert found == (2, "", f"aquasim: --out {tmp_path / 'file'}: exists and is not a folder\n")
    code, out, err = call(monkeypatch, capsys, *words, str(tmp_path))
    assert (code, out) == (2, "")
    assert "the folder is not empty; name a new one, or give --overwrite" in err
    code, out, _ = call(monkeypatch, capsys, *words, str(tmp_path), "--overwrite")
    assert code == 0
    assert "peer over host" in out
    assert (tmp_path / "report.md").is_file()


def test_an_interrupt_ends_all_processes_at_once() -> None:
    """Ctrl-C while two processes simulate: one line, code 130, within seconds, and nobody left in the group."""
    words = ("reproduce", "aqua", "--only", "lora", "--workers", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "aquasim", *words], stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    _until(lambda: len(_group(process.pid)) >= 4)  # command, resource tracker, two workers
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (130, "aquasim: interrupted\n")
    _until(lambda: not _group(process.pid))


def test_a_worker_that_dies_is_a_users_error() -> None:
    """A killed process ends the run with one line instead of a wait for ever."""
    with pytest.raises(UserError, match="died"), processes(1) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


def _group(leader: int) -> list[int]:
    """Processes of a group that run still."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            found.append(int(folder.name))
    return found


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
