"""`aquasim place` as users meet it: files, tables, JSON, maps, and one line for every error."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aquasim.cli.app import main
from aquasim.place import load_problem
from aquasim.place.problem import MIB

FILE = """\
[servers]
count = 2
gpus = 4
hbm_gib = 80

[models.llama-70b]
gib = -20
tp = 2
replicas = 2
bandwidth_gbs = 50

[models.sdxl]
kind = "image"
gib = 20.5
replicas = 4
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Give a function that runs the command line in this process, in `tmp_path`: code, stdout, stderr."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aquasim", "place", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        shown = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, shown.out, shown.err

    yield call
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a small placement file."""
    path = tmp_path / "mix.toml"
    path.write_text(FILE)
    return Path(path.name)


def good_json(run: Run, *words: object) -> Any:
    """Run what must succeed and parse what it prints."""
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_json_tells_the_whole_plan(run: Run, file: Path) -> None:
    """Objective, bound, gap, time, each server's jobs and map, and the other methods' figures."""
    found = good_json(run, file)
    assert {key: found[key] for key in ("method", "formulation", "optimal", "gap", "note")} == {
        "method": "paper",
        "formulation": "patterns",
        "optimal": True,
        "gap": 0.0,
        "note": None,
    }
    assert (found["objective_gib"], found["bound_gib"]) == (1.0, 1.0)
    assert (found["max_surplus_gib"], found["max_imbalance_gpus"]) == (1.0, 0)
    assert (found["need_gib"], found["lent_gib"], found["assignment_lends_gib"]) == (80.0, 80.0, 80.0)
    assert found["seconds"] < 5
    assert list(found["compared"]) == ["paper", "greedy", "random"]
    assert found["servers"][1] == {
        "server": 1,
        "surplus_gib": 1.0,
        "donor_gpus": 2,
        "consumer_gpus": 2,
        "idle_gpus": [],
        "jobs": [
            {"model": "llama-70b", "kind": "llm", "replica": 1, "gpus": [0, 1], "gib": -20.0},
            {"model": "sdxl", "kind": "image", "replica": 2, "gpus": [2], "gib": 20.5},
            {"model": "sdxl", "kind": "image", "replica": 3, "gpus": [3], "gib": 20.5},
        ],
        "map": {"0": [{"gpu": 2, "gib": 20.0}], "1": [{"gpu": 3, "gib": 20.0}]},
    }


def test_the_table_tells_the_same(run: Run, file: Path) -> None:
    """Equal servers share a row, and the headline says that the optimum is proven."""
    code, out, err = run(file)
    assert (code, err) == (0, "")
    assert "6 jobs on 8 of 8 GPUs" in out
    assert "objective 1 GiB, bound 1 GiB, proven optimum" in " ".join(out.split())
    (row,) = [line.split() for line in out.splitlines() if line.startswith("0-1 ")]
    assert row == ["0-1", "0+1:llama-70b", "2-3:sdxl", "2-2", "+1", "0>2:20", "1>3:20"]


def test_out_writes_what_each_coordinator_takes(run: Run, file: Path, tmp_path: Path) -> None:
    """The file has a map per server, from consumer GPU to donor GPUs with GiB, and nothing else is left."""
    code, _, _ = run(file, "--out", "maps.json")
    assert code == 0
    each = {"0": [{"gpu": 2, "gib": 20.0}], "1": [{"gpu": 3, "gib": 20.0}]}
    expected = {"servers": [{"server": 0, "map": each}, {"server": 1, "map": each}]}
    assert json.loads((tmp_path / "maps.json").read_text()) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.json", "mix.toml"]
    line = "aquasim: --out maps.json: exists; name a new one, or give --overwrite\n"
    assert run(file, "--out", "maps.json") == (2, "", line)
    assert run(file, "--out", "maps.json", "--overwrite")[0] == 0


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_a_baseline_is_shown_with_its_gap(run: Run, file: Path, method: str) -> None:
    """The baseline's placement is printed, and how far above the bound it can be."""
    found = good_json(run, file, "--baseline", method)
    assert found["method"] == method
    assert found["objective_gib"] >= found["bound_gib"] == 1.0
    assert found["optimal"] == (found["gap"] == 0)
    assert run(file, "--baseline", method)[0] == 0


def test_consumers_alone_are_answered_with_a_note(run: Run, tmp_path: Path) -> None:
    """Nobody gives: the placement is printed with a line that says so, not an error."""
    (tmp_path / "needy.toml").write_text("[servers]\ncount = 2\n[models.cfs]\ngib = -30\nreplicas = 9\n")
    code, out, err = run("needy.toml")
    assert (code, err) == (0, "")
    assert "no job gives memory: every consumer has to page to the host" in out
    assert good_json(run, "needy.toml")["servers"][0]["map"] == {}


def test_donors_alone_are_answered_with_a_note(run: Run, tmp_path: Path) -> None:
    """Nobody needs: likewise."""
    (tmp_path / "rich.toml").write_text("[servers]\ncount = 2\n[models.sd]\ngib = 30\nreplicas = 9\n")
    code, out, _ = run("rich.toml")
    assert code == 0
    assert "no job needs memory: there is nothing to pair" in out


def test_units_are_converted_at_the_edge(file: Path, tmp_path: Path) -> None:
    """GiB become whole MiB in bytes, GB/s bytes per second; what is left out has its default."""
    problem = load_problem(tmp_path / file)
    llama, sdxl = problem.models
    assert (llama.spare_bytes, llama.bandwidth, llama.tp) == (-20 * 1024 * MIB, 50e9, 2)
    assert (sdxl.spare_bytes, sdxl.bandwidth, sdxl.kind) == (20992 * MIB, None, "image")
    assert (problem.hbm_bytes, problem.seed, problem.donors) == (80 * 1024 * MIB, 0, 1)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("count = 2", "count = 0", "mix.toml:2: servers.count is 0: input should be greater than or equal to 1"),
        ("count = 2", "cout = 2", "mix.toml:2: unknown key 'servers.cout'; did you mean 'count'? valid: count, gpus, hbm_gib (and 1 more)"),  # noqa: E501
        ("count = 2\n", "", "mix.toml: key 'servers.count' is missing"),
        ("hbm_gib = 80", "hbm_gib = inf", "mix.toml:4: servers.hbm_gib is inf: input should be a finite number"),
        ("gib = -20", 'gib = "much"', "mix.toml:7: models.llama-70b.gib is 'much': input should be a valid number"),
        ("gib = -20", "gib = nan", "mix.toml:7: models.llama-70b.gib is nan: input should be a finite number"),
        ("tp = 2", "tp = true", "mix.toml:8: models.llama-70b.tp is True: input should be a valid integer"),
        ("tp = 2", "tp = 16", "mix.toml:8: models.llama-70b.tp is 16: all shards go on one server, which has 4 GPUs"),
        ("replicas = 2", "replicas = 3", "mix.toml:2: servers.count is 2: the jobs need 10 GPUs, there are 8"),
        ("gib = 20.5", "gib = 81", "mix.toml:14: models.sdxl.gib is 81: a GPU has 80 GiB to give"),
        ("bandwidth_gbs", "bandwith", "mix.toml:10: unknown key 'models.llama-70b.bandwith'; did you mean 'bandwidth_gbs'? valid: bandwidth_gbs, gib, kind, replicas, tp"),  # noqa: E501
        ("[models.sdxl]", "[model.sdxl]", "mix.toml:12: unknown key 'model'; did you mean 'models'? valid: models, pairing, question, seed, servers"),  # noqa: E501
        ("[models.sdxl]", '[models."s d"]', "mix.toml:12: models.s d is 's d': string should match pattern '^[A-Za-z0-9][A-Za-z0-9._/-]*$'"),  # noqa: E501
        ("[servers]", "pairing.donors = 0\n[servers]", "mix.toml:1: pairing.donors is 0: input should be greater than or equal to 1"),  # noqa: E501
        ("gpus = 4", "gpus = ", "mix.toml: not TOML: Invalid value (at line 3, column 8)"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(run: Run, file: Path, old: str, new: str, line: str) -> None:
    """The line names the file, the line, the key and the value, and says what is valid; exit code 2."""
    assert old in FILE
    file.write_text(FILE.replace(old, new, 1))
    assert run(file) == (2, "", f"aquasim: {line}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("none.toml",), "none.toml: cannot be read: No such file or directory"),
        (("mix.toml", "--baseline", "best"), "--baseline best: valid: greedy, random"),
        (("mix.toml", "--time-limit", "0"), "--time-limit 0: a number of seconds above 0 is needed"),
        (("mix.toml", "--time-limit", "nan"), "--time-limit nan: a number of seconds above 0 is needed"),
        (("mix.toml", "--out", "no/maps.json"), "--out no/maps.json: cannot be written: No such file or directory"),
    ],
)  # fmt: skip
def test_a_bad_option_is_one_line(run: Run, file: Path, words: tuple[str, ...], line: str) -> None:
    """The line names the option and says what is valid; exit code 2."""
    assert run(*words) == (2, "", f"aquasim: {line}\n")


def test_what_cannot_be_packed_is_one_line(run: Run, tmp_path: Path) -> None:
    """Enough GPUs, but not side by side: the line names the file and the groups."""
    (tmp_path / "odd.toml").write_text("[servers]\ncount = 2\n[models.odd]\ngib = 1\ntp = 5\nreplicas = 3\n")
    code, out, err = run("odd.toml")
    assert (code, out) == (2, "")
    assert err == (
        "aquasim: odd.toml: the jobs cannot be packed: groups of 5 GPUs do not fit 2 servers of 8, "
        "although 1 GPU would stay idle\n"
    )


def test_the_command_works_as_a_process(file: Path, tmp_path: Path) -> None:
    """`aquasim place` prints JSON and nothing else on stdout."""
    command = [sys.executable, "-m", "aquasim", "place", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["optimal"]
