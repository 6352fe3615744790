"""The store of points: nothing that was stored is lost, whatever happens to the process or its files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.errors import UserError
from aquasim.scenario.changes import with_changes
from aquasim.sweep.base import Base, Point, address, resolved
from aquasim.sweep.store import LOG, Store
from aquasim.sweep.worker import row_of


def row(number: int, status: str = "ok", **metrics: float | None) -> dict[str, Any]:
    """Return a row of an invented point."""
    point = Point(f"{number:032x}", (("a.b", number),), "fcfs", 1)
    return {**row_of(point, None if status == "ok" else "it broke"), "metrics": metrics}


def rows(start: int, end: int) -> list[dict[str, Any]]:
    """Return rows with a metric each."""
    return [row(number, ttft=number / 7, other=None) for number in range(start, end)]


def abandon(store: Store) -> None:
    """Let go of a store as a kill would."""
    store._log.close()
    os.close(store._lock)


# --- addresses ---------------------------------------------------------------------------------------------

BASE = Base.load("small-h100")
TABLE = st.dictionaries(
    st.sampled_from("abc"), st.integers(0, 3) | st.floats(0, 1) | st.text("xy", max_size=2)
)
TABLES = st.dictionaries(st.sampled_from(["machine", "engine", "workload"]), TABLE)


@given(TABLES, TABLES, st.sampled_from(["p", "q"]), st.integers(0, 2))
def test_equal_scenarios_have_equal_addresses_and_others_do_not(
    one: dict[str, Any], other: dict[str, Any], system: str, seed: int
) -> None:
    """The address depends on the resolved tables, the system and the seed, and on nothing else."""
    systems = {"systems": {"p": {"policy": "fcfs"}, "q": {"policy": "cfs"}}}
    first = resolved({**one, **systems, "question": "Why?"}, (), system, seed)
    again = resolved({**systems, **dict(reversed(one.items())), "expect": "?"}, (), system, seed)
    second = resolved({**other, **systems}, (), system, seed)
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert address(first) == address(again)
    assert (address(first) == address(second)) == same
    assert address(first) != address({**first, "seed": seed + 1})


def test_a_change_and_the_file_that_says_the_same_are_one_point() -> None:
    """What counts is the scenario that comes out, not how it was written; tokens made in advance change nothing."""
    changed = BASE.point((("engine.kv_blocks", 500),), "aqua", 3)
    data = with_changes(BASE.data, [("engine.kv_blocks", 500), ("seed", 9)])
    assert changed.key == address(resolved(data, (), "aqua", 3))
    assert BASE.point((("engine.kv_blocks", 1000),), "aqua", 1).key == BASE.point((), "aqua", 1).key


def test_another_systems_options_do_not_matter() -> None:
    """Only the system that runs is part of the address."""
    change = (("systems.aqua.options.slice_length", 4),)
    assert BASE.point(change, "fcfs", 1).key == BASE.point((), "fcfs", 1).key
    assert BASE.point(change, "aqua", 1).key != BASE.point((), "aqua", 1).key


def test_the_content_of_a_trace_and_of_a_profile_is_part_of_the_address(tmp_path: Path) -> None:
    """Files that a scenario names count by what they hold."""
    from aquasim.sweep import base as module

    keys = []
    for text in ("a", "b"):
        trace = tmp_path / "trace.csv"
        trace.write_text(text)
        module._digest.cache_clear()
        module._files.cache_clear()
        keys.append(BASE.point((("workload.path", str(trace)),), "fcfs", 1).key)
    keys.append(BASE.point((("machine.profile", "a100"),), "fcfs", 1).key)
    assert len(set(keys)) == 3


# --- files -------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """From the log and from parts alike, to the last bit; undefined figures are NaN; the last of one key counts."""
    with Store(tmp_path / "s") as store:
        store.append([*rows(0, 5), row(5, "failed")])
        before = store.frame()
    with Store(tmp_path / "s") as store:
        assert store.status == {f"{n:032x}": "failed" if n == 5 else "ok" for n in range(6)}
        pd.testing.assert_frame_equal(store.frame().sort_index(), before.sort_index())
        store.append([row(5, ttft=1 / 3)])
        assert store.frame(["ttft"])["ttft"].loc[f"{5:032x}"] == 1 / 3
        assert store.frame(["none"])["none"].isna().all()
    with Store(tmp_path / "s") as store:
        assert store.status[f"{5:032x}"] == "ok"
        assert len(list((tmp_path / "s").glob("part-*"))) == 1


def test_a_long_log_becomes_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays short, parts are never rewritten once they are large, and every row is there once."""
    monkeypatch.setattr("aquasim.sweep.store.LONG", 10)
    with Store(tmp_path / "s") as store:
        for start in range(0, 95, 5):
            store.append(rows(start, start + 5))
        assert len(store._recent) < 10
        large = sorted((tmp_path / "s").glob("part-*"))
    with Store(tmp_path / "s") as store:
        store.append(rows(95, 97))
    with Store(tmp_path / "s") as store:
        assert len(store.frame()) == len(store.status) == 97
    assert set(large) <= set((tmp_path / "s").glob("part-*"))


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    """What a kill in the middle of a write leaves is no row, and what is appended afterwards is whole."""
    with Store(tmp_path / "s") as store:
        store.append(rows(0, 3))
        text = (tmp_path / "s" / LOG).read_bytes()
    for part in (tmp_path / "s").glob("part-*"):
        part.unlink()
    for cut in range(1, len(text.splitlines(keepends=True)[-1])):
        (tmp_path / "s" / LOG).write_bytes(text[:-cut])
        store = Store(tmp_path / "s")
        assert len(store.status) == 2
        assert not store.notes
        store.append(rows(2, 3))
        assert (tmp_path / "s" / LOG).read_bytes() == text
        abandon(store)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_damage_costs_the_damaged_rows_only(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any byte of any file changed: the store says which file, keeps the rest, and takes rows again."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aquasim.sweep.store.LONG", 4)
        with Store(folder) as store:
            store.append(rows(0, 4))
            store.append(rows(4, 8))
            store.append(rows(8, 11))
            log = (folder / LOG).read_bytes()
            victims = [*sorted(folder.glob("part-*")), folder / LOG]
            victim = data.draw(st.sampled_from(victims))
            content = bytearray(log if victim.name == LOG else victim.read_bytes())
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] ^= data.draw(st.integers(1, 255))
            abandon(store)
        victim.write_bytes(content)
        with Store(folder) as store:
            left = {int(key, 16) for key in store.status if len(key) == 32 and key[:28] == "0" * 28}
            hit = {0: {0, 1, 2, 3}, 1: {4, 5, 6, 7}, 2: {8, 9, 10}}[victims.index(victim)]
            assert left >= set(range(11)) - hit
            if victim.name != LOG:
                assert left == set(range(11)) - hit
                assert [str(victim) in note for note in store.notes] == [True]
                assert victim.with_name(f"{victim.name}.damaged").read_bytes() == content
            store.append(rows(0, 11))
        with Store(folder) as store:
            assert set(store.frame().index) >= {f"{n:032x}" for n in range(11)}


@pytest.mark.parametrize(
    "odd",
    [{"seed": 10**20}, {"seed": "x"}, {"error": 3}, {"metrics": {"ttft": "x"}}, {"metrics": {"\ud800": 1.0}}],
)
def test_a_row_that_does_not_fit_is_damaged(tmp_path: Path, odd: dict[str, Any]) -> None:
    """A line of JSON that no part can hold is left out and named; the others are there, and the store goes on."""
    with Store(tmp_path / "s"):
        pass
    lines = [row(0, ttft=1.0), {**row(1), **odd}, row(2, ttft=2.0)]
    (tmp_path / "s" / LOG).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with Store(tmp_path / "s") as store:
        assert store.notes == [f"{tmp_path / 's' / LOG}:2: damaged; its point is simulated again"]
        assert set(store.status) == set(store.frame().index) == {f"{n:032x}" for n in (0, 2)}
        store.append([row(1, ttft=3.0)])
    with Store(tmp_path / "s") as store:
        assert store.frame()["ttft"].tolist() == [1.0, 3.0, 2.0]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """The second is told who is there; afterwards it may."""
    with (
        Store(tmp_path / "s"),
        pytest.raises(UserError, match=rf"another sweep \(process {os.getpid()}\) is writing"),
    ):
        Store(tmp_path / "s")
    with Store(tmp_path / "s"):
        pass


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    """A folder with other files, a file, another version's store: refused, in a line, untouched."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match="not empty and not a sweep's"):
        Store(tmp_path / "mine")
    with pytest.raises(UserError, match="not a folder"):
        Store(tmp_path / "file")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with Store(tmp_path / "s"):
        pass
    (tmp_path / "s" / "store.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema 99, this version reads 1"):
        Store(tmp_path / "s")


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import rows
from aquasim.sweep.store import Store
store = Store(Path(sys.argv[1]))
for start in range(0, 1000, 10):
    store.append(rows(start, start + 10))
    print(start + 10, flush=True)
    if start == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
"""


def test_a_killed_process_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    """After kill -9, every row whose `append` returned is there, and the lock is free."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s"), str(Path(__file__).parent), "250"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    with Store(tmp_path / "s") as store:
        assert len(store.status) == int(done.stdout.split()[-1]) == 260
