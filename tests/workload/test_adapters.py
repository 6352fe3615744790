"""Which adapter a request needs: a column like the others."""

from pathlib import Path

import numpy as np
import pytest

from aquasim.scenario.schema import WorkloadTable
from aquasim.scenario.workloads import make_workload
from aquasim.workload import Adapters, FixedLength, Poisson, Workload, read_trace, save, synthetic


def small(n: int = 50, seed: int = 3) -> Workload:
    """Return a workload without adapters."""
    return synthetic(Poisson(2.0), FixedLength(9), FixedLength(4), requests=n, seed=seed)


def test_adapters_follow_zipfs_law() -> None:
    """Adapter k has the share (k + 1)^-zipf / H; 0 is uniform. N = 20,000 gives an error below 5 x 0.0035."""
    for zipf in (0.0, 1.0):
        drawn = Adapters(4, zipf).sample(20_000, np.random.default_rng(1))
        weights = np.arange(1.0, 5) ** -zipf
        assert np.bincount(drawn) / 20_000 == pytest.approx(weights / weights.sum(), abs=0.018)


def test_adapters_have_a_stream_of_their_own() -> None:
    """Assigning them changes no other column, the same seed gives the same, another seed others."""
    plain = small()
    with_adapters = Adapters(8, 0.5).assign(plain, 7)
    assert plain.adapter is None
    assert with_adapters.adapter is not None
    for name in ("arrival", "prompt", "output"):
        assert getattr(with_adapters, name).tolist() == getattr(plain, name).tolist()
    again, other = Adapters(8, 0.5).assign(plain, 7), Adapters(8, 0.5).assign(plain, 8)
    assert again.adapter is not None
    assert other.adapter is not None
    assert again.adapter.tolist() == with_adapters.adapter.tolist() != other.adapter.tolist()


def test_rows_keep_their_adapters() -> None:
    """Sorting, cutting and taking a window move adapters with their requests."""
    workload = Workload([30, 10, 20], [1, 2, 3], [1, 1, 1], adapter=[7, -1, 5])  # type: ignore[arg-type]
    assert workload.adapter is not None
    assert workload.adapter.tolist() == [-1, 5, 7]
    assert workload.head(2).adapter.tolist() == [-1, 5]  # type: ignore[union-attr]
    assert workload.between(15e-9).adapter.tolist() == [5, 7]  # type: ignore[union-attr]
    assert not workload.adapter.flags.writeable


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_files_keep_adapters(tmp_path: Path, suffix: str) -> None:
    """What `save` writes, `read_trace` reads, with or without the column."""
    for workload in (small(), Adapters(5).assign(small(), 1)):
        path = tmp_path / f"w{suffix}"
        save(workload, path)
        found = read_trace(path).adapter
        assert (found is None) == (workload.adapter is None)
        if found is not None and workload.adapter is not None:
            assert found.tolist() == workload.adapter.tolist()


def test_a_scenario_names_them() -> None:
    """`[workload.adapters]` with `count` and `zipf` gives the workload of the table an adapter per request."""
    table = {
        "requests": 30,
        "arrivals": {"kind": "poisson", "rate": 1},
        "prompt": {"kind": "fixed", "tokens": 9},
        "output": {"kind": "fixed", "tokens": 2},
    }
    plain = make_workload(WorkloadTable.model_validate(table), 5, 16)
    made = make_workload(WorkloadTable.model_validate(table | {"adapters": {"count": 6, "zipf": 1.0}}), 5, 16)
    assert plain.adapter is None
    assert made.adapter is not None
    assert made.adapter.tolist() == Adapters(6, 1.0).assign(plain, 5).adapter.tolist()  # type: ignore[union-attr]


def test_what_cannot_be_is_said() -> None:
    """Counts below 1, exponents below 0, numbers below -1 and a column of another length are ValueErrors."""
    with pytest.raises(ValueError, match="count is 0"):
        Adapters(0)
    with pytest.raises(ValueError, match="zipf is -1"):
        Adapters(1, -1)
    with pytest.raises(ValueError, match=r"adapter\[0\] is -2"):
        Workload([1], [1], [1], adapter=[-2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns differ in length"):
        Workload([1], [1], [1], adapter=[1, 2])  # type: ignore[arg-type]
