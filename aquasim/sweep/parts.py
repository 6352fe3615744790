"""Parts of a store: Parquet files of rows, metrics as columns. Numbers are 64-bit floats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquasim.sweep.worker import Row

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("key", "status", "error", "system", "changes")
NUMBERS = ("seed",)
ABOUT = (*TEXTS, *NUMBERS)
"""Columns that are no metrics."""


def write(path: Path, old: Sequence[Path], rows: Sequence[Row]) -> None:
    """Write rows of old parts and new ones; of those with one key the last."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    tables = [pq.ParquetFile(part).read(use_threads=False) for part in old]
    whole = pa.concat_tables([*tables, _table(rows)], promote_options="default")
    last = {key: index for index, key in enumerate(whole["key"].to_pylist())}
    if len(last) < len(whole):
        whole = whole.take(pa.array(sorted(last.values())))
    pq.write_table(whole.take(pc.sort_indices(whole["key"])), path)


def _table(rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    names = sorted({name for row in rows for name in row["metrics"]} - set(ABOUT))
    fields = [(name, pa.string()) for name in TEXTS] + [(name, pa.int64()) for name in NUMBERS]
    columns = [[row.get(name) for row in rows] for name in ABOUT]
    columns += [[row["metrics"].get(name) for row in rows] for name in names]
    schema = pa.schema([*fields, *((name, pa.float64()) for name in names)])
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def fits(rows: Sequence[Row]) -> bool:
    """Say whether rows can be written: texts, 64-bit numbers."""
    try:
        return not rows or _table(rows) is not None
    except (ArithmeticError, LookupError, TypeError, ValueError):  # Arrow's errors are of these kinds, too
        return False


def count(path: Path) -> int:
    """Return how many rows a part has."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def statuses(path: Path) -> dict[str, str]:
    """Return the status of each key."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read(["key", "status"], use_threads=False)  # read_table imports datasets
    return dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))


def metrics(paths: Sequence[Path], rows: Sequence[Row]) -> list[str]:
    """Return the names of all metrics."""
    import pyarrow.parquet as pq

    found = {name for path in paths for name in pq.read_schema(path).names}
    return sorted((found | {name for row in rows for name in row["metrics"]}) - set(ABOUT))


def frame(paths: Sequence[Path], rows: Sequence[Row], columns: Sequence[str] | None) -> "pd.DataFrame":
    """Return the rows by key: status, error, and the metrics asked for, or all; of one key's the last."""
    import pandas as pd

    wanted = metrics(paths, rows) if columns is None else list(dict.fromkeys(columns))
    pieces = [_read(path, wanted) for path in paths]
    if rows:
        pieces.append(pd.DataFrame([_cells(row, wanted) for row in rows]))
    if not pieces:
        return pd.DataFrame(columns=["status", "error", *wanted], index=pd.Index([], name="key"))
    whole = pd.concat(pieces, ignore_index=True).drop_duplicates("key", keep="last").set_index("key")
    return whole.reindex(columns=["status", "error", *wanted]).astype(dict.fromkeys(wanted, "float64"))


def _read(path: Path, wanted: Sequence[str]) -> "pd.DataFrame":
    import pyarrow.parquet as pq

    there = set(pq.read_schema(path).names)
    names = [name for name in ("key", "status", "error", *wanted) if name in there]
    found: pd.DataFrame = pq.ParquetFile(path).read(names, use_threads=False).to_pandas()
    return found


def _cells(row: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    about = {name: row[name] for name in ("key", "status", "error")}
    return about | {name: row["metrics"].get(name) for name in wanted}
