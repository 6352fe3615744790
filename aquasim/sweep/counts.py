"""Which metrics are counts: a store keeps every figure as a float, a run's summary has these as integers."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def with_counts(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table of points for reading, with counts as integers; None where one is undefined."""
    whole = {}
    for name in table.columns:
        column = table[name]
        if is_count(str(name)) and column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
            whole[name] = column.astype("Int64").astype(object).where(column.notna(), None)
    return table.assign(**whole)


def is_count(metric: str) -> bool:
    """Say whether a metric, by its dotted name, is a number of something, or of bytes."""
    return any(part in _counts() or part.endswith("bytes") for part in metric.split("."))


@cache
def _counts() -> frozenset[str]:
    """Return what is an integer even in a summary of nothing."""
    from aquasim.records.run import Run
    from aquasim.records.tables import RunTables
    from aquasim.records.tenants import work_summary

    nothing = Run([("engine", RunTables())], {"blocks": 1, "block_bytes": 1})
    figures = {**nothing.summary({}), **work_summary(nothing)}
    return frozenset({name for name, value in figures.items() if isinstance(value, int)} | {"fetches"})
