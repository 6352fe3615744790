"""The command as users meet it."""

import json
from pathlib import Path

import pytest
from sweeps import SMALL, aquasim, run, written

from aquasim.sweep.results import Results


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
    assert "8 points failed; the first: machine.peer_gib is 900" in " ".join(shown.split())
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


def test_results_are_dataframes(tmp_path: Path) -> None:
    """A report can be made of `Results` alone: keys, means with intervals, front, failures."""
    results = run(written(tmp_path), tmp_path / "s").results
    assert isinstance(results, Results)
    assert {"candidate", "machine.peer_gib", "system", "seed", "status", "ttft_p99"} <= set(
        results.points.columns
    )
    assert {"n", "failed", "ttft_p99.low", "miss", "met", "front", "best"} <= set(results.summary.columns)
