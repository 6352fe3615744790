"""Damaged `meta.json`: `load`, `trace` and `report` give a result, or one line that names it."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aquasim
from aquasim.errors import UserError
from aquasim.records.store import load, save

Command = Callable[..., tuple[int, str, str]]

KEYS = (
    ("schema",), ("name",), ("labels",), ("meta",), ("labels", "engine"), ("labels", "outcome"), ("labels", "tier"),
    ("meta", "scenario"), ("meta", "blocks"), ("meta", "block_bytes"), ("meta", "links"), ("meta", "tenants"),
    ("meta", "slo"), ("meta", "seed"), ("meta", "system"), ("meta", "gpus"), ("meta", "notes"), ("meta", "model"),
    ("meta", "scenario", "machine"), ("meta", "scenario", "machine", "gpus"),
    ("meta", "scenario", "machine", "donors"),
    ("meta", "scenario", "model"), ("meta", "scenario", "model", "tp"), ("meta", "scenario", "baseline"),
    ("meta", "scenario", "question"), ("meta", "scenario", "systems"), ("meta", "scenario", "show"),
    ("meta", "scenario", "tenants"),
)  # fmt: skip
WORDS = st.sampled_from(["a", "opt", "llama-8b", "fcfs", "kind", "bytes", "capacity", "gpu0.d2h", "gpus", ""])
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.integers(-1, 3) | st.floats() | WORDS | st.text(max_size=4)
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of one engine with copies, and one with tenants."""
    place = tmp_path_factory.mktemp("whole")
    small = aquasim.simulate("small-h100", "cfs-host", changes=["workload.requests=30"])
    shared = aquasim.simulate("aqua/s5-elastic-h100", "intended", changes=["duration_s=20"])
    return {"small": save(small, place / "small"), "shared": save(shared, place / "shared")}


def damaged(run: Path, place: Path, keys: tuple[str, ...], value: Any) -> Path:
    """Copy a run with another value under a key."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run, place)
    head = json.loads((run / "meta.json").read_text())
    table = head
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    table[keys[-1]] = value
    (place / "meta.json").write_text(json.dumps(head))
    return place


def tolerant(command: Command, *words: object) -> None:
    """Run a command that must succeed, or fail in one line that names `meta.json`."""
    code, _, error = command(*words)
    assert (code, error) == (0, "") or (code == 2 and error.count("\n") == 1 and "meta.json" in error), error


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(["small", "shared"]), keys=st.sampled_from(KEYS), value=VALUES)
def test_any_value_is_a_trace_or_one_line(
    command: Command, runs: dict[str, Path], tmp_path: Path, which: str, keys: tuple[str, ...], value: Any
) -> None:
    """Any JSON under any key: `load` gives a run or a UserError of one line, and `trace` a file or that line."""
    run = damaged(runs[which], tmp_path / "run", keys, value)
    with contextlib.suppress(UserError):  # no other error
        load(run)
    tolerant(command, "trace", run)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(["small", "shared"]), keys=st.sampled_from(KEYS), value=VALUES)
def test_any_value_is_a_page_or_one_line(
    command: Command, runs: dict[str, Path], tmp_path: Path, which: str, keys: tuple[str, ...], value: Any
) -> None:
    """Any JSON under any key: a page or one line."""
    run = damaged(runs[which], tmp_path / "run", keys, value)
    tolerant(command, "report", run, "-o", tmp_path / "page.html", "--overwrite")


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("name",), 5, "key name: a text is needed, not 5"),
        (("name",), [], "key name: a text is needed, not []"),
        (("labels",), None, "key labels: a table of lists of names is needed, not None"),
        (("labels",), "x", "key labels: a table of lists of names is needed, not 'x'"),
        (("labels", "engine"), ["other"], "column 'engine': meta.json has no label 'cfs-host' for it"),
        (("meta",), [5], "key meta: a table of what was run is needed, not [5]"),
        (("meta", "scenario"), "x", "key meta.scenario: a table is needed, not 'x'"),
        (("meta", "scenario", "machine"), 5, "key meta.scenario.machine: a table is needed, not 5"),
        (("meta", "blocks"), "x", "key meta.blocks: a number of blocks is needed, not 'x'"),
        (("meta", "block_bytes"), [], "key meta.block_bytes: a number of bytes is needed, not []"),
        (("meta", "links"), {"a": 1}, "key meta.links: a table of links"),
        (("meta", "tenants"), None, "key meta."),
        (("meta", "seed"), "long " * 40, "..."),
    ],
)
def test_the_key_is_named(
    runs: dict[str, Path], command: Command, tmp_path: Path, keys: tuple[str, ...], value: Any, words: str
) -> None:
    """The line names the file, the key, what is needed and what is there."""
    run = damaged(runs["small"], tmp_path / "run", keys, value)
    code, out, error = command("trace", run)
    assert (code, out) == (2, "")
    assert words in error
    assert len(error) < 300
    assert command("report", run, "-o", tmp_path / "page.html") == (2, "", error)


def test_deep_nesting_is_one_line(runs: dict[str, Path], command: Command, tmp_path: Path) -> None:
    """JSON nested beyond what Python reads names the file."""
    run = tmp_path / "run"
    shutil.copytree(runs["small"], run)
    (run / "meta.json").write_text("[" * 100_000)
    code, _, error = command("trace", run)
    assert (code, error.count("\n")) == (2, 1)
    assert "meta.json" in error
