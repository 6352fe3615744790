"""Bad trace files: the exact error, with the file, the line and what is valid."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aquasim.workload import FORMATS, AtOnce, TraceError, read_trace

Write = Callable[..., Path]

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05.0000000,110,0"""

MOONCAKE = """{"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [0, 3]}
"""

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""

OWN = "arrival_s,prompt_tokens,output_tokens,priority\n0.5,10,1,2\n1.25,20,2,-1\n"

LENGTHS = "prompt_tokens,output_tokens\n269,42\n270,52\n"

SHAREGPT = '[{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}]'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (AZURE.replace(",8\n", ",eight\n"), 3, "GeneratedTokens is 'eight', a whole number >= 0 is needed"),
        (AZURE.replace("4808", "nan"), 2, "ContextTokens is 'nan', a whole number >= 0 is needed"),
        (AZURE.replace("4808", "-4808"), 2, "ContextTokens is '-4808', a whole number >= 0 is needed"),
        (AZURE.replace("4808", "4_808"), 2, "ContextTokens is '4_808', a whole number >= 0 is needed"),
        (AZURE.replace("4808", "9" * 30), 2, "ContextTokens is '" + "9" * 30 + "', a whole number >= 0"),
        (
            AZURE.replace("11-16 18:17:05", "02-30 18:17:05"),
            4,
            "TIMESTAMP is '2023-02-30 18:17:05.0000000', a time",
        ),
        (
            AZURE.replace("2023-11-16 18:17:05.0000000", "now"),
            4,
            "TIMESTAMP is 'now', a time like 2023-11-16",
        ),
        (
            AZURE[:-6],
            4,
            "1 fields, 3 are needed: TIMESTAMP, ContextTokens, GeneratedTokens (is the file truncated?)",
        ),
        (
            AZURE.replace("ContextTokens", "Context"),
            1,
            "column ContextTokens missing: found TIMESTAMP, Context, GeneratedTokens; "
            "needed TIMESTAMP, ContextTokens, GeneratedTokens",
        ),
        (MOONCAKE[:-30], 2, "not valid JSON, one object per line is needed (truncated?)"),
        (
            MOONCAKE.replace('"output_length": 7, ', ""),
            2,
            "found timestamp, input_length, hash_ids; needed timestamp",
        ),
        (MOONCAKE.replace("3000", "-1"), 2, "timestamp is -1, milliseconds >= 0 are needed"),
        (MOONCAKE.replace("3000", "NaN"), 2, "timestamp is NaN, milliseconds >= 0 are needed"),
        (MOONCAKE.replace("600", "600.5"), 2, "input_length is 600.5, a whole number >= 0 is needed"),
        (
            MOONCAKE.replace("600", "512"),
            2,
            "input_length is 512, more is needed for 2 hash_ids of 512 tokens",
        ),
        (
            MOONCAKE.replace("[0, 3]", '[0, "3"]'),
            2,
            'hash_ids is [0, "3"], a list of whole numbers is needed',
        ),
        (BURSTGPT.replace("118", "inf"), 4, "Timestamp is 'inf', a finite number >= 0 is needed"),
        (BURSTGPT.replace("118", "late"), 4, "Timestamp is 'late', a finite number >= 0 is needed"),
        (BURSTGPT.replace("276", ""), 4, "Response tokens is '', a whole number >= 0 is needed"),
        (OWN.replace("1.25", "1e300"), 3, "arrival_s is '1e300', seconds up to 146 years are needed"),
        (OWN.replace("1.25", ""), 3, "arrival_s is '', a finite number >= 0 is needed"),
        (OWN.replace(",20,", ",0,"), 3, "prompt_tokens is '0', a whole number >= 1 is needed"),
        ("\n".join(OWN.split("\n")[:1]), 1, "no rows, at least one request is needed"),
        (
            "arrival_s,prompt_tokens,output_tokens,prefix_16\n0,20,1,4 x\n",
            2,
            "prefix_16 is '4 x', whole numbers with spaces between are needed",
        ),
        (LENGTHS.replace("52", "52,1"), 3, "3 fields, 2 are needed: prompt_tokens, output_tokens"),
        (SHAREGPT[:-5], 1, "not valid JSON: "),
        ("a,b\n1,2\n", 1, f"unknown format, found 'a,b'; valid: {', '.join(FORMATS)}"),
        ('{"a": 1}\n', 1, "unknown format, found "),
        (" \n\n", 1, "the file is empty, at least one request is needed"),
    ],
)
def test_errors_name_the_file_the_line_and_what_is_valid(
    write: Write, text: str, line: int, message: str
) -> None:
    """FILE:LINE: what is wrong, what is valid; on one line."""
    path = write(text)

    with pytest.raises(TraceError) as caught:
        read_trace(path, arrivals=AtOnce())

    assert str(caught.value).startswith(f"{path}:{line}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"conversations": 3}]', "conversation 1 is malformed, a list of"),
        ('[{"conversations": [{"from": "human", "value": 3}]}]', "conversation 1 is malformed, a list of"),
        ('[{"conversations": []}]', "no human turn followed by a gpt turn"),
        (BURSTGPT.replace(",18,", ",0,").replace(",276,", ",0,"), "every request has 0 response tokens"),
    ],
)
def test_errors_of_no_single_line_name_the_file(write: Write, text: str, message: str) -> None:
    """What concerns the whole file has no line number."""
    path = write(text)

    with pytest.raises(TraceError) as caught:
        read_trace(path, arrivals=AtOnce())

    assert str(caught.value).startswith(f"{path}: {message}")


def test_damaged_files_are_told_from_missing_ones(tmp_path: Path) -> None:
    """A cut-off gzip, a missing file and bytes that are no text each have their own error."""
    packed = gzip.compress(AZURE.encode())
    (tmp_path / "cut.gz").write_bytes(packed[:-12])
    (tmp_path / "spoilt.gz").write_bytes(packed[:20] + b"????" + packed[24:])
    (tmp_path / "binary.csv").write_bytes(OWN.encode() + b"2,\xff,1\n")

    for name in ("cut.gz", "spoilt.gz"):
        with pytest.raises(TraceError, match=rf"{name}: damaged or truncated gzip: "):
            read_trace(tmp_path / name)
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read: No such file or directory"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"binary\.csv:4: byte 0xff is not text, UTF-8 is needed"):
        read_trace(tmp_path / "binary.csv")


def test_parquet_errors_name_the_row(tmp_path: Path) -> None:
    """Bad values, missing columns and damaged files of the binary format."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    good: dict[str, list[Any]] = {"arrival_s": [0.5, 1.0], "prompt_tokens": [1, 2], "output_tokens": [3, 4]}
    cases: list[tuple[dict[str, list[Any]], str]] = [
        ({"arrival_s": [0.5, float("nan")]}, "row 2: arrival_s is nan, a finite number >= 0 is needed"),
        ({"prompt_tokens": [1, None]}, "row 2: prompt_tokens is None, a whole number >= 1 is needed"),
        ({"output_tokens": [0, 1]}, "row 1: output_tokens is 0, a whole number >= 1 is needed"),
        ({"prefix_16": [[1], ["x"]]}, "row 1: prefix_16 is ['1'], a list"),
    ]
    path = tmp_path / "x.parquet"
    for change, message in cases:
        values = {**good, **change}
        if "prefix_16" in change:
            values["prefix_16"] = [["1"], ["x"]]
        pq.write_table(pa.table(values), path)
        with pytest.raises(TraceError) as caught:
            read_trace(path)
        assert str(caught.value).startswith(f"{path}: {message}")

    pq.write_table(pa.table({"arrival_s": [0.5]}), path)
    with pytest.raises(
        TraceError, match="column prompt_tokens, output_tokens missing: found arrival_s; needed"
    ):
        read_trace(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TraceError, match="not valid Parquet: "):
        read_trace(path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"format": "azur"}, f"format 'azur' is unknown, valid: auto, {', '.join(FORMATS)}"),
        ({"limit": 0}, "limit is 0, a whole number >= 1 is needed"),
        ({"rate_scale": 0}, "rate_scale is 0, a finite number > 0 is needed"),
        ({"start": float("nan")}, "start is nan s, a finite number >= 0 is needed"),
        ({"duration": -1}, "duration is -1 s, a finite number > 0 is needed"),
        ({"start": 1e6}, "no request in [1e+06, "),
    ],
)
def test_bad_arguments_are_refused(write: Write, arguments: dict[str, Any], text: str) -> None:
    """Each argument is checked, with what is valid."""
    with pytest.raises(ValueError, match=r"^") as caught:
        read_trace(write(OWN), **arguments)

    assert text in str(caught.value)


def test_a_trace_error_survives_another_process(tmp_path: Path) -> None:
    """Pickling, as a worker process does, keeps type and text."""
    with pytest.raises(TraceError) as caught:
        read_trace(tmp_path / "none")

    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is TraceError
    assert str(again) == str(caught.value)


@pytest.mark.parametrize("column", ["timestamp", "ts_ms", "created", "Arrival Time", "arrival_time"])
def test_times_are_not_dropped_without_a_word(write: Write, column: str) -> None:
    """A table of lengths with a column that looks like times is refused, unless its format is given."""
    path = write(f"{column},prompt_tokens,output_tokens\n5,10,1\n6,20,2\n")
    with pytest.raises(TraceError, match=f":1: column {column} looks like times.* name it arrival_s"):
        read_trace(path, arrivals=AtOnce())
    assert read_trace(path, format="lengths", arrivals=AtOnce()).prompt.tolist() == [10, 20]


def test_columns_that_only_sound_like_times_are_let_be(write: Write) -> None:
    """Status, tsunami and timeouts are no times."""
    path = write("status,tsunami,timeouts,prompt_tokens,output_tokens\n1,2,3,10,1\n")
    assert read_trace(path, arrivals=AtOnce()).prompt.tolist() == [10]
