"""What comes out of a sweep: points, means, fronts, failures."""

from pathlib import Path

import pandas as pd
from sweeps import HERE, SMALL, TWO, run, written

from aquasim.api import simulate
from aquasim.sweep.plan import Overrides, load_sweep
from aquasim.sweep.run import run_sweep
from aquasim.sweep.worker import flat


def test_a_point_is_what_one_simulation_says(tmp_path: Path) -> None:
    """Every figure of every point equals `simulate` with the same changes, to the last bit."""
    points = run(written(tmp_path), tmp_path / "s").results.points
    assert len(points) == 16
    for row in points.iloc[[1, 6]].to_dict("records"):
        names = ("workload.requests=12", "seed", "machine.peer_gib", "engine.kv_blocks")
        changes = [name if "=" in name else f"{name}={row[name]}" for name in names]
        expected = dict(flat(simulate("small-h100", row["system"], changes=changes).summary()))
        assert {k: v for k, v in expected.items() if v is not None} == {
            k: row[k] for k, v in expected.items() if v is not None
        }


def test_processes_change_nothing(tmp_path: Path) -> None:
    """Rows are equal to the last bit whether one process runs them or two, and whatever the order."""
    path = written(tmp_path)
    one = run(path, tmp_path / "one").results
    two = run(path, tmp_path / "two", TWO).results
    pd.testing.assert_frame_equal(one.points, two.points, check_exact=True)
    pd.testing.assert_frame_equal(one.summary, two.summary, check_exact=True)


def test_nothing_that_is_stored_runs_again(tmp_path: Path) -> None:
    """A second run finds everything; a wider grid runs only what is new."""
    path = written(tmp_path)
    assert run(path, tmp_path / "s").ran == 16
    again = run(path, tmp_path / "s")
    assert (again.ran, again.found) == (0, 16)
    wider = run(written(tmp_path, SMALL.replace("[300, 600]", "[300, 400, 600]")), tmp_path / "s")
    assert (wider.ran, wider.found) == (8, 16)


def test_failed_points_are_told_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    """Values out of bounds and what does not fit: rows with the reason, run again only on demand."""
    path = written(tmp_path, SMALL.replace("[2, 10.5]", "[-1, 2, 900]"))
    outcome = run(path, tmp_path / "s")
    failures = outcome.results.failures
    assert len(failures) == 16
    assert set(failures["machine.peer_gib"]) == {-1, 900}
    assert (
        failures["error"]
        .str.startswith(("machine.peer_gib is -1: input should be", "machine.peer_gib is 900"))
        .all()
    )
    assert outcome.results.best is not None
    assert run(path, tmp_path / "s").ran == 0
    assert run(path, tmp_path / "s", retry_failed=True).ran == 16


def test_best_front_and_nearest(tmp_path: Path) -> None:
    """The best has the least first objective of those that meet; where none does, the nearest miss is named."""
    results = run(written(tmp_path), tmp_path / "s").results
    table = results.summary
    met = table[table["met"]]
    assert results.best is not None
    assert results.best["ttft_p99"] == met["ttft_p99"].min()
    assert table.loc[table["best"], "front"].all()
    strict = load_sweep(written(tmp_path), Overrides(constraints=("ttft_p99 <= 1e-6", "throughput >= 1")))
    nothing = run_sweep(strict, tmp_path / "s", HERE).results
    assert nothing.best is None
    assert nothing.nearest is not None
    assert nothing.nearest["ttft_p99"] == table["ttft_p99"].min()


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    """With several, the mean lies in its interval and n is said."""
    two = run(written(tmp_path), tmp_path / "s").results.summary
    assert set(two["n"]) == {2}
    assert ((two["ttft_p99.low"] <= two["ttft_p99"]) & (two["ttft_p99"] <= two["ttft_p99.high"])).all()
    one = run(written(tmp_path, SMALL.replace("seeds = 2", "")), tmp_path / "s").results.summary
    assert set(one["n"]) == {1}
    assert one["ttft_p99.low"].isna().all()


def test_tenants_sweep_too(tmp_path: Path) -> None:
    """Scenarios with several tenants: figures by dotted names."""
    text = """
    scenario = "aqua/s2-burst-h100"
    systems = ["%s"]
    objectives = "min %s"
    [set]
    duration_s = 2
    %s
    [grid]
    leases.poll_s = [1, 2]
    """
    from aquasim.scenario import ServerScenario, load_scenario

    scenario = load_scenario("aqua/s2-burst-h100")
    assert isinstance(scenario, ServerScenario)
    name = next(n for n, t in scenario.tenants.items() if t.kind == "llm")
    cut = "\n".join(
        f"tenants.{n}.workload.requests = 5" for n, t in scenario.tenants.items() if t.kind == "llm"
    )
    metric = f"tenants.{name}.ttft_p99"
    outcome = run(written(tmp_path, text % (next(iter(scenario.systems)), metric, cut)), tmp_path / "s")
    assert outcome.results.points["status"].tolist() == ["ok", "ok"], outcome.results.points["error"].tolist()
    assert outcome.results.best is not None
    assert outcome.results.best[metric] > 0
