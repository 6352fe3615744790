"""The command as users meet it."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from sweeps import SMALL, aquasim, run, written

from aquasim.api import simulate
from aquasim.sweep.counts import is_count, with_counts
from aquasim.sweep.results import Results
from aquasim.sweep.store import Store


def test_every_table_as_json_and_csv(tmp_path: Path) -> None:
    """The four tables, both ways, agree with each other; the screen fits 80 columns and has no colour codes."""
    path = written(tmp_path, SMALL.replace("[2, 10.5]", "[2, 900]"))
    for table, rows in (("summary", 8), ("points", 16), ("failed", 8)):
        done = aquasim("sweep", path, "--out", "s", "--workers", 1, "--json", "--table", table, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert len(document[table]) == rows
        done = aquasim("sweep", path, "--out", "s", "--csv", "--table", table, cwd=tmp_path)
        assert done.stdout.count("\n") == rows + 1
        assert done.stdout.splitlines()[0].split(",") == list(document[table][0])
    shown = aquasim("sweep", path, "--out", "s", cwd=tmp_path).stdout
    assert "\n* aqua" in shown or "\n* fcfs" in shown
    where = "fcfs at machine.peer_gib=900, engine.kv_blocks=300, seed 1"
    assert f"8 points failed; the first: {where}: machine.peer_gib is 900" in " ".join(shown.split())
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_hostile_names_are_text_and_stay_in_their_folder(tmp_path: Path) -> None:
    """Markup, control characters and paths in names and values: shown as text, nothing written elsewhere."""
    inner = tmp_path / "work"
    inner.mkdir()
    path = inner / "..[red]<b>\x1b[2J.sweep.toml"
    path.write_text(
        'question = "<script>alert(1)</script> [bold]\\u001b[31m?"\nscenario = "small-h100"\nsystems = ["fcfs"]\n'
        '[[list]]\nsource = "../../x"\nworkload.requests = 4\n[[list]]\nsource = "[red]\\u001b[2J"\n'
        'workload.requests = 5\n[[list]]\nsource = "=cmd()"\nworkload.requests = 6\n'
    )
    done = aquasim("sweep", path, "--workers", 1, cwd=inner)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "<script>alert(1)</script> [bold]" in done.stdout
    assert "[red]" in done.stdout
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert [name for name in found if not name.startswith("work/sweeps/") and name != "work/sweeps"] == [
        "work",
        f"work/{path.name}",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("gone.toml",), "no such sweep file; those that ship: "),
        (("small.sweep.toml", "--table", "x"), "--table x: valid are summary, points, front, failed"),
        (
            ("small.sweep.toml", "--table", "points"),
            "--table points: is for --csv or --json; give one of them",
        ),
        (("small.sweep.toml", "--seeds", "9" * 20), "'--seeds'"),
        (("small.sweep.toml", "--trials", "3"), "--trials is for a sweep file with [search]"),
        (("small.sweep.toml", "--objective", "ttft_p99"), 'write "min METRIC"'),
        (("small.sweep.toml", "--metric", "x"), "--metric: unknown metric 'x'"),
        (("small.sweep.toml", "--set", "x"), "--set x: write path.to.key=value"),
        (("small.sweep.toml", "--set", "x=1"), "--set x=1: unknown key 'x'"),
        (("small.sweep.toml", "--out", "small.sweep.toml"), "exists and is not a folder"),
        (("small.sweep.toml", "--ray", "nowhere"), "--ray nowhere: write HOST:PORT"),
        (("small.sweep.toml", "--ray", "127.0.0.1:1"), "--ray 127.0.0.1:1: nothing answers there"),
    ],
)
def test_misuse_is_one_line(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    """Exit code 2, one line, no traceback."""
    written(tmp_path)
    done = aquasim("sweep", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


def test_a_sweep_in_which_every_point_failed_is_an_error(tmp_path: Path) -> None:
    """One line with the first failure and exit code 2; what failed is stored, and listed as JSON and CSV."""
    path = written(tmp_path, SMALL.replace("[2, 10.5]", "[900]").replace("[300, 600]", "[300]"))
    for words, lines in (((), 0), (("--csv", "--table", "failed"), 5)):
        done = aquasim("sweep", path, "--out", "s", "--workers", 1, *words, cwd=tmp_path)
        assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (2, lines, 1), (
            done.stderr
        )
        where = "fcfs at machine.peer_gib=900, engine.kv_blocks=300, seed 1"
        assert f"{path}: all 4 points failed; the first: {where}: machine.peer_gib is 900" in done.stderr
    with Store(tmp_path / "s") as store:
        assert list(store.status.values()) == ["failed"] * 4


def test_a_table_without_rows_has_its_header(tmp_path: Path) -> None:
    """As CSV: the columns, and nothing below."""
    path = written(tmp_path, SMALL.replace("[2, 10.5]", "[2]").replace("[300, 600]", "[300]"))
    done = aquasim("sweep", path, "--out", "s", "--workers", 1, "--csv", "--table", "failed", cwd=tmp_path)
    assert done.stdout == "candidate,machine.peer_gib,engine.kv_blocks,system,seed,error\n", done.stderr


def test_counts_are_whole_numbers(tmp_path: Path) -> None:
    """In points as JSON and CSV and in the folder's file, as in a run's summary; seconds stay as they are."""
    path = written(tmp_path, SMALL.replace("[300, 600]", "[300]"))
    words = ("sweep", path, "--out", "s", "--table", "points", "--workers", 1)
    first = json.loads(aquasim(*words, "--json", cwd=tmp_path).stdout)["points"][0]
    summary = simulate(
        "small-h100", "fcfs", changes=["workload.requests=12", "machine.peer_gib=2", "engine.kv_blocks=300"]
    ).summary()
    assert isinstance(first["requests"], int)
    for name, value in summary.items():
        if isinstance(value, int | float):
            assert (first[name], type(first[name])) == (value, type(value)), name
    row = next(csv.DictReader(io.StringIO(aquasim(*words, "--csv", cwd=tmp_path).stdout)))
    assert (row["requests"], row["seed"]) == ("12", "1")
    aquasim("sweep", path, "--out", "s", "--metric", "requests_done", cwd=tmp_path)
    stored = next(csv.DictReader(io.StringIO((tmp_path / "s" / "points.csv").read_text())))
    assert stored["requests_done"] == "12"


def test_counts_with_failures_are_whole_or_nothing(tmp_path: Path) -> None:
    """A failed point has no figures: its cells are empty, the others' counts stay whole."""
    results = run(written(tmp_path, SMALL.replace("[2, 10.5]", "[2, 900]")), tmp_path / "s").results
    found = with_counts(results.points)["requests"].tolist()
    assert set(found) == {12, None}
    assert is_count("tenants.a.paged_bytes.peer_out")
    assert not is_count("tenants.a.ttft_p99")
    assert {type(value) for value in found} == {int, type(None)}


def test_one_is_singular(tmp_path: Path) -> None:
    """Points that failed and rows left out are counted as one speaks."""
    text = SMALL.replace('"fcfs", "aqua"', '"fcfs"').replace("seeds = 2", "").replace("[300, 600]", "[300]")
    text = text.replace("[2, 10.5]", "[2, 3, 900]")
    shown = aquasim("sweep", written(tmp_path, text), "--out", "s", "--workers", 1, cwd=tmp_path).stdout
    assert "1 row is left out, equal to another of the same system" in shown
    assert "1 point failed; the first: fcfs at machine.peer_gib=900" in " ".join(shown.split())


def test_a_distance_from_nothing_is_no_share(tmp_path: Path) -> None:
    """Where a bound is 0, how far the nearest is from it is said in the metric's unit."""
    words = ("sweep", written(tmp_path), "--out", "s", "--workers", 1)
    plain = " ".join(aquasim(*words, "--constraint", "ttft_p99 <= 0", cwd=tmp_path).stdout.split())
    off = re.search(r"ttft_p99 ([\d.]+)[^;]*; ([\d.]+) off\)", plain)
    assert off is not None, plain
    assert off[1] == off[2]
    share = " ".join(aquasim(*words, "--constraint", "ttft_p99 <= 0.001", cwd=tmp_path).stdout.split())
    assert "% off)" in share


def test_results_are_dataframes(tmp_path: Path) -> None:
    """A report can be made of `Results` alone: keys, means with intervals, front, failures."""
    results = run(written(tmp_path), tmp_path / "s").results
    assert isinstance(results, Results)
    assert {"candidate", "machine.peer_gib", "system", "seed", "status", "ttft_p99"} <= set(
        results.points.columns
    )
    assert {"n", "failed", "ttft_p99.low", "miss", "met", "front", "best"} <= set(results.summary.columns)
