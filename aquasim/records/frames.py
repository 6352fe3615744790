"""Tables as DataFrames. The only module of the records that imports pandas, so import it late."""

import numpy as np
import pandas as pd

from aquasim.records.metrics import request_times
from aquasim.records.run import Run


def table_frame(run: Run, table: str) -> pd.DataFrame:
    """Return a table with names instead of indices (`engine`, `outcome`, `reason`, `kind`, `tier`)."""
    columns = run.columns(table)
    return pd.DataFrame({name: _named(run, name, column) for name, column in columns.items()})


def metrics_frame(run: Run) -> pd.DataFrame:
    """Return what each request was and its times in seconds, NaN where undefined."""
    columns = run.columns("requests")
    kept = ("engine", "request", "outcome", "prompt_tokens", "output_tokens", "cached_tokens")
    named = {name: _named(run, name, columns[name]) for name in kept}
    return pd.DataFrame({**named, **request_times(run)})


def _named(run: Run, name: str, column: np.ndarray) -> object:
    if name not in run.labels:
        return column
    return np.array(run.labels[name], dtype=object)[column]
