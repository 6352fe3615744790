"""Run folders: `meta.json`, `summary.json` and one Parquet file per table, read back by `load`.

Any Parquet reader reads the tables; columns of names (engine, outcome, kind, ...) are dictionaries of
strings, all others 64-bit integers.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aquasim.errors import UserError
from aquasim.records.atomic import new_folder
from aquasim.records.head import META, SCHEMA, read_head
from aquasim.records.run import FIELDS, Columns, Run
from aquasim.records.stats import Ints

SUMMARY = "summary.json"
REPLACED = frozenset(
    {META, SUMMARY, "trace.json", "trace.json.gz", *(f"{table}.parquet" for table in FIELDS)}
)
"""What belongs to one run in its folder, and goes with it."""


def save(run: Run, folder: str | Path, overwrite: bool = False) -> Path:
    """Write a run folder; it appears whole or not at all.

    Args:
        run: what to write.
        folder: where; parent folders are made.
        overwrite: whether a run folder that is there may be replaced. Files in it that are not a run's own
            (notes, say) are kept.

    Raises:
        ValueError: there is something that may not be replaced.
    """
    folder = Path(folder)
    _check_target(folder, overwrite)
    with new_folder(folder) as part:
        for table in FIELDS:
            _write_table(run, table, part / f"{table}.parquet")
        head = {"schema": SCHEMA, "name": run.name, "labels": run.labels, "meta": run.meta}
        _write_json(part / META, head)
        _write_json(part / SUMMARY, run.summary())
        _keep_others(folder, part)
    return folder


def load(folder: str | Path) -> Run:
    """Read a run folder back.

    Raises:
        UserError: (a ValueError) in one line, which file is missing, damaged (at which key) or of another version.
    """
    folder = Path(folder)
    head = read_head(folder)
    labels = head["labels"]
    tables = {table: _read_table(folder / f"{table}.parquet", table, labels) for table in FIELDS}
    return Run.of_columns(tables, labels, head["meta"], head["name"])


DAMAGED = (LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError)
"""What folding tables that do not fit together may end in."""


def load_or_say(folder: Path) -> Run:
    """Read a run folder back.

    Raises:
        UserError: in one line, whatever is wrong with it.
    """
    try:
        return load(folder)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    except DAMAGED as error:
        raise UserError(f"{folder}: damaged: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Return the first line of an error, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- the folder --------------------------------------------------------------------------------------------


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / META).is_file():
        raise ValueError(f"{folder}: exists and is not a run folder")
    if not overwrite:
        raise ValueError(f"{folder}: a run is there already")


def _keep_others(old: Path, new: Path) -> None:
    """Copy what is not a run's own from a folder about to be replaced."""
    for entry in old.iterdir() if old.exists() else ():
        if entry.name in REPLACED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


# --- tables ------------------------------------------------------------------------------------------------
# Arrow arrays are made from and read as buffers, files by `ParquetFile`: `pa.array`, `to_numpy` and
# `read_table` import pandas, a quarter of a CPU second.


def _write_table(run: Run, table: str, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _encoded(column, run.labels.get(name)) for name, column in run.columns(table).items()}
    pq.write_table(pa.table(columns), path, compression="snappy", write_page_checksum=True)


def _encoded(column: Ints, names: Sequence[str] | None) -> Any:
    """Return a column as an Arrow array: integers, or a dictionary of names."""
    import pyarrow as pa

    if names is None:
        return pa.Array.from_buffers(
            pa.int64(), len(column), [None, pa.py_buffer(np.ascontiguousarray(column))]
        )
    codes = pa.py_buffer(column.astype(np.int32))
    indices = pa.Array.from_buffers(pa.int32(), len(column), [None, codes])
    return pa.DictionaryArray.from_arrays(indices, _strings(names))


def _strings(names: Sequence[str]) -> Any:
    import pyarrow as pa

    encoded = [name.encode() for name in names]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(names), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def _read_table(path: Path, table: str, labels: dict[str, list[str]]) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path}: missing")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = file.read(columns=list(FIELDS[table]))
        found.validate(full=True)
        if missing := [name for name in FIELDS[table] if name not in found.column_names]:
            raise OSError(f"no column {missing[0]!r}")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: {reason(error)}") from error
    columns = {}
    for name in FIELDS[table]:
        try:
            columns[name] = _decoded(found.column(name), labels.get(name))
        except TypeError as error:
            raise UserError(f"{path}: column {name!r}: {error}") from error
    return columns


def _decoded(column: Any, names: Sequence[str] | None) -> Ints:
    """Return an Arrow column as integers; names as indices into `names`."""
    import pyarrow as pa

    if names is None:
        _expect(column, pa.int64())
        parts = [_buffer(chunk, np.int64) for chunk in column.chunks]
    else:
        _expect(column, pa.dictionary(pa.int32(), pa.string()))
        place = {name: index for index, name in enumerate(names)}
        parts = []
        for chunk in column.chunks:
            codes = np.array([_place(place, name) for name in chunk.dictionary.to_pylist()], np.int64)
            parts.append(codes[_buffer(chunk.indices, np.int32)])
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int64), *parts])


def _place(places: dict[str, int], name: str) -> int:
    if name not in places:
        raise TypeError(f"{META} has no label {name!r} for it")
    return places[name]


def _expect(column: Any, kind: Any) -> None:
    if column.type != kind or column.null_count:
        raise TypeError(f"{kind} without nulls expected, not {column.type}")


def _buffer(array: Any, kind: type) -> Any:
    size = np.dtype(kind).itemsize
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * size)
