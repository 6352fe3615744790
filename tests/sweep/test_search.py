"""Adaptive searches: the same however they are run, and resumed."""

from pathlib import Path

import pandas as pd
import pytest
from sweeps import HERE, TWO, run, written

from aquasim.errors import UserError
from aquasim.sweep.plan import Overrides, load_sweep
from aquasim.sweep.run import run_sweep

SEARCH = """
scenario = "small-h100"
systems = ["fcfs", "aqua"]
objectives = ["min rct_p99"]
constraints = ["ttft_p99 <= 2 * fcfs.ttft_p99"]
[set]
workload.requests = 12
[search]
trials = 14
%s
[search.ranges]
engine.kv_blocks = {kind = "integer", low = 256, high = 900}
machine.peer_gib = {kind = "linear", low = 1, high = 20}
systems.aqua.options.clamp = {kind = "choice", values = [true, false]}
"""


@pytest.mark.parametrize("more", ['system = "aqua"', 'sampler = "random"', "batch = 1"])
def test_a_search_is_the_same_however_it_is_run(tmp_path: Path, more: str) -> None:
    """One process, two, or resumed half-way: the same trials in the same order, and nothing twice."""
    pytest.importorskip("optuna")
    path = written(tmp_path, SEARCH % more)
    one = run(path, tmp_path / "one")
    two = run(path, tmp_path / "two", TWO)
    half = run_sweep(load_sweep(path, Overrides(trials=8)), tmp_path / "half", HERE)
    rest = run(path, tmp_path / "half")
    for other in (two, rest):
        assert [dict(a) for a in other.results.assignments] == [dict(a) for a in one.results.assignments]
        pd.testing.assert_frame_equal(other.results.points, one.results.points, check_exact=True)
    assert half.ran + rest.ran == one.ran
    assert run(path, tmp_path / "one").ran == 0


def test_a_search_that_tunes_one_system_judges_only_it(tmp_path: Path) -> None:
    """Others run where constraints ask for them, and are never the best."""
    pytest.importorskip("optuna")
    results = run(written(tmp_path, SEARCH % 'system = "aqua"'), tmp_path / "s").results
    assert set(results.summary["system"]) == {"aqua", "fcfs"}
    assert set(results.summary.loc[results.summary["met"], "system"]) == {"aqua"}


def test_a_search_needs_something_to_seek(tmp_path: Path) -> None:
    """And goes with no grid."""
    text = SEARCH % ""
    with pytest.raises(UserError, match="a search needs an objective"):
        load_sweep(written(tmp_path, text.replace('objectives = ["min rct_p99"]', "")))
    with pytest.raises(UserError, match="not together with grid"):
        load_sweep(written(tmp_path, text + "[grid]\nengine.max_num_seqs = [1, 2]\n"))
