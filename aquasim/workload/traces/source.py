"""What every trace reader shares: the error type, opening a file, and what a reader gets and returns."""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from aquasim.workload.table import IntArray

GZIP_MAGIC = b"\x1f\x8b"


class TraceError(ValueError):
    """A trace file that cannot be read. The text is `FILE:LINE: what is wrong, what is valid`.

    LINE counts from 1 and is left out when no single line is to blame.
    """

    @classmethod
    def at(cls, path: Path, line: int | None, text: str) -> Self:
        """Return the error for `line` of `path`."""
        return cls(f"{path}: {text}" if line is None else f"{path}:{line}: {text}")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `read_trace` that a reader may need; see there."""

    limit: int | None = None
    seed: int = 0
    tokenizer: str | Path | None = None
    start: float = 0.0
    duration: float | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What a reader found: the columns of a Workload, with no arrivals when the file has none."""

    prompt: IntArray
    output: IntArray
    arrival: IntArray | None = None
    priority: IntArray | None = None
    prefix: list[tuple[int, ...]] | None = None
    prefix_block: int = 16
    notes: tuple[str, ...] = ()
    adapter: IntArray | None = None


def load(path: Path) -> bytes:
    """Return the content of `path`, unpacked when it begins with gzip's magic bytes, whatever its name.

    Raises TraceError when the file is missing, unreadable, empty, or a damaged or cut-off gzip.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TraceError.at(path, None, f"cannot be read: {error.strerror}") from None
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise TraceError.at(path, None, f"damaged or truncated gzip: {error}") from None
    if not data.strip():
        raise TraceError.at(path, 1, "the file is empty, at least one request is needed")
    return data


def decode(path: Path, data: bytes) -> str:
    """Return `data` as text without byte order mark and carriage returns, or raise TraceError at the line."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TraceError.at(
            path, line, f"byte {data[error.start]:#04x} is not text, UTF-8 is needed"
        ) from None


def parse_json(path: Path, data: bytes) -> Any:
    """Return the JSON document in `data`, or raise TraceError at the line where it breaks off."""
    try:
        return json.loads(decode(path, data))
    except json.JSONDecodeError as error:
        raise TraceError.at(
            path, error.lineno, f"not valid JSON: {error.msg} (is the file truncated?)"
        ) from None
    except RecursionError:
        raise TraceError.at(path, None, "not a trace: JSON nested too deeply") from None


def at_least_one(values: IntArray, what: str) -> tuple[IntArray, tuple[str, ...]]:
    """Return `values` with 0 replaced by 1, and a note that says how many there were.

    Traces log requests of 0 tokens; an engine cannot run one.
    """
    zeros = int((values == 0).sum())
    notes = (f"{zeros} requests with 0 {what} tokens count as 1",) if zeros else ()
    return np.maximum(values, 1), notes
