"""Figures of work that is not requests: a denoised batch, a token of a long prompt."""

from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.records.tenants import work_summary

MS = 1_000_000


def test_times_per_unit_are_times_that_occurred() -> None:
    """Percentiles are nearest rank, as everywhere: of 1, 2, 4 and 10 ms the median is 2 and the 99th 10 ms."""
    tables, now = RunTables(), 0
    for lasted in (10, 1, 4, 2):
        tables.work(now, now + lasted * MS, 3, 5, 7)
        now += lasted * MS
    assert work_summary(Run([("gpu0", tables)], {})) == {
        "units": 4,
        "items": 12,
        "items_per_s": 12 / 0.017,
        "unit_p50_s": 0.002,
        "unit_p99_s": 0.01,
        "peer_bytes": 20,
        "host_bytes": 28,
    }


def test_nothing_done_has_no_rate() -> None:
    """An engine that made nothing has counts of 0 and no times."""
    empty = work_summary(Run([("gpu0", RunTables())], {}))
    assert empty == {"units": 0, "items": 0, "items_per_s": None}
