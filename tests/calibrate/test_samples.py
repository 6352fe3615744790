"""Samples: what they hold, how they are stored, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.calibrate.importers import read_table
from aquasim.calibrate.samples import KINDS, Samples, by_operator, make_samples
from aquasim.calibrate.store import read_samples, write_samples
from aquasim.errors import UserError


def gemm(rows: int = 3, **changes: object) -> Samples:
    """Products of 1, 2, ... tokens."""
    columns = {"tokens": np.arange(1, rows + 1), "outputs": 512, "inputs": 256, "kernel": "linear"}
    return make_samples("gemm", "made", {**columns, **changes}, np.arange(1, rows + 1) * 1e-6)


times = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=20)


texts = st.dictionaries(st.text("abc", min_size=1), st.text("xyz 1"), max_size=3)


@given(st.sampled_from(sorted(KINDS)), times, texts)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, operator: str, seconds: list[float], provenance: dict[str, str]
) -> None:
    """Every kind of operator keeps its columns, times, quartiles, repeats and provenance in a file."""
    kind, rows = KINDS[operator], np.arange(len(seconds))
    columns = dict.fromkeys(kind.shape, rows + 1) | {name: rows.astype(str) for name in kind.labels}
    path = tmp_path_factory.mktemp("samples") / "one.parquet"
    made = make_samples(
        operator, "made", columns, seconds, q25=np.array(seconds) / 2, repeats=rows + 3, provenance=provenance
    )
    write_samples(made, path)
    found = read_samples(path)
    assert found.operator == operator
    assert found.provenance == provenance
    for name in kind.shape:
        assert (found[name] == made[name]).all()
    for name in kind.labels:
        assert (found.labels[name] == made.labels[name]).all()
    for name in ("seconds", "q25", "q75", "repeats"):
        assert (getattr(found, name) == getattr(made, name)).all()


def test_a_sample_file_is_plain_parquet(tmp_path: Path) -> None:
    """Others read the columns without this package, and find schema version and provenance in the metadata."""
    made = gemm()
    path = tmp_path / "gemm.parquet"
    write_samples(replace(made, provenance={"a": "b"}), path)
    frame = pd.read_parquet(path)
    assert list(frame) == [
        "operator",
        "tokens",
        "outputs",
        "inputs",
        "kernel",
        "seconds",
        "q25",
        "q75",
        "repeats",
    ]
    meta = json.loads(pq.read_schema(path).metadata[b"aquasim.samples"])
    assert meta == {"schema": 1, "operator": "gemm", "provenance": {"a": "b"}}


@pytest.mark.parametrize(
    ("seconds", "tokens", "said"),
    [
        ([1e-6, -1e-6], [1, 2], r"made: gemm: row 2: seconds is -1e-06; a number above 0 is needed"),
        ([1e-6, 0.0], [1, 2], r"row 2: seconds is 0;"),
        ([float("nan"), 1e-6], [1, 2], r"row 1: seconds is nan;"),
        ([1e-6, float("inf")], [1, 2], r"row 2: seconds is inf;"),
        ([1e-6, 1e-6], [1, 0], r"row 2: tokens is 0;"),
    ],
)
def test_times_and_shapes_that_cannot_be(seconds: list[float], tokens: list[int], said: str) -> None:
    """A time or a size that is not above 0 is refused, naming source, row and value."""
    with pytest.raises(UserError, match=said):
        make_samples("gemm", "made", {"tokens": tokens, "outputs": 1, "inputs": 1}, seconds)


def test_parts_of_one_operator_join_in_order() -> None:
    """Rows stay in order, sources are named once each, and other operators stay apart."""
    other = make_samples("sampling", "logits", {"sequences": [1], "vocab": [9]}, [1e-6])
    joined = by_operator([gemm(2), other, gemm(3)])
    assert list(joined) == ["gemm", "sampling"]
    assert joined["gemm"]["tokens"].tolist() == [1, 2, 1, 2, 3]
    assert joined["gemm"].source == "made"


def _rewrite(path: Path, change: dict[str, object], drop: str = "") -> None:
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[b"aquasim.samples"]) | change
    table = table.drop_columns([drop] if drop else [])
    pq.write_table(table.replace_schema_metadata({"aquasim.samples": json.dumps(meta)}), path)


@pytest.mark.parametrize(
    ("change", "drop", "said"),
    [
        ({"schema": 7}, "", "samples of schema version 7, this package reads 1"),
        ({"operator": "sorting"}, "", "operator 'sorting' is unknown; known: gemm, "),
        ({}, "inputs", "column inputs is missing"),
        ({}, "q25", "column q25 is missing"),
    ],
)
def test_a_foreign_sample_file_is_refused(
    tmp_path: Path, change: dict[str, object], drop: str, said: str
) -> None:
    """Another schema version, an unknown operator or a missing column is one line that opens with the file."""
    path = tmp_path / "gemm.parquet"
    write_samples(gemm(), path)
    _rewrite(path, change, drop)
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)
