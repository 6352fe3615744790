"""Sample files: Parquet with a row per timing, and provenance in the schema's metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from aquasim.calibrate.samples import KINDS, SCHEMA, Samples, make_samples
from aquasim.errors import UserError
from aquasim.records.atomic import new_file

_KEY = b"aquasim.samples"


def write_samples(samples: Samples, path: Path) -> None:
    """Write samples of one kind, whole or not at all; the file gets the schema version and the provenance."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"operator": pa.array([samples.operator] * len(samples)).dictionary_encode()}
    columns |= {name: pa.array(column) for name, column in samples.shape.items()}
    columns |= {name: pa.array(column.astype(str)) for name, column in samples.labels.items()}
    columns |= {
        "seconds": samples.seconds,
        "q25": samples.q25,
        "q75": samples.q75,
        "repeats": samples.repeats,
    }
    meta = {"schema": SCHEMA, "operator": samples.operator, "provenance": samples.provenance}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta, sort_keys=True).encode()})
    with new_file(path) as part:
        pq.write_table(table, part)


def is_sample_file(path: Path) -> bool:
    """Whether a file is Parquet with our metadata, of whatever version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        return False
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


def read_samples(path: Path) -> Samples:
    """Read a sample file. Raises UserError naming file, column and row for anything that is not as written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as samples: {str(error).splitlines()[0]}") from None
    if meta.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: samples of schema version {meta.get('schema')!r}, this package reads {SCHEMA}"
        )
    if meta.get("operator") not in KINDS:
        raise UserError(f"{path}: operator {meta.get('operator')!r} is unknown; known: {', '.join(KINDS)}")
    kind = KINDS[meta["operator"]]
    for column in (*kind.shape, *kind.labels, "seconds", "q25", "q75", "repeats"):
        if column not in table.column_names:
            raise UserError(f"{path}: column {column} is missing")
    columns = {name: np.asarray(table[name].to_pylist()) for name in (*kind.shape, *kind.labels)}
    timed = {name: np.asarray(table[name].to_pylist()) for name in ("seconds", "q25", "q75", "repeats")}
    provenance = {str(key): str(value) for key, value in meta.get("provenance", {}).items()}
    return make_samples(
        meta["operator"],
        _source(path, provenance),
        columns,
        timed["seconds"],
        q25=timed["q25"],
        q75=timed["q75"],
        repeats=timed["repeats"],
        provenance=provenance,
    )


def _source(path: Path, provenance: dict[str, str]) -> str:
    """Name the machine and the day of a file's samples, and the file."""
    measured = [provenance[key] for key in ("device", "time") if key in provenance]
    return f"{', '.join(measured)}: {path.name}" if measured else path.name
