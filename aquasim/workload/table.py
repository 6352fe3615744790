"""The workload table: one row per request, whatever the requests came from."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]

NS = 1_000_000_000
"""Nanoseconds in a second."""

LATEST = 2**62
"""Largest whole number a column may hold: as a time about 146 years, and sums of two still fit in 64 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in order of arrival; every column has one entry per request and is read-only.

    arrival: earliest time a request may be sent, in nanoseconds from the start of the run.
    prompt, output: tokens, at least 1 each. output is what the request will generate.
    priority: a number per request, or None; its meaning is the scheduler's.
    prefix: per request the chain hashes of its leading shareable tokens, one per `prefix_block` tokens (the
        last may stand for a partial block); two are equal if and only if the whole prefixes up to there are.
    adapter: the number of the LoRA adapter each request needs (-1: none), or None.
    cap: at most this many requests are open at once (closed loop), or None (open loop).
    notes: what whoever reads a result of this workload ought to know.

    Unsorted arrivals are sorted, stably. Raises ValueError, in one line, for an empty workload, columns of
    different lengths, and values that are not whole numbers in range (NaN, negative, 0 tokens).
    """

    arrival: IntArray
    prompt: IntArray
    output: IntArray
    priority: IntArray | None = None
    prefix: list[tuple[int, ...]] | None = None
    prefix_block: int = 16
    cap: int | None = None
    name: str = "workload"
    notes: tuple[str, ...] = ()
    adapter: IntArray | None = None

    def __post_init__(self) -> None:
        columns = {
            "arrival": _whole("arrival", self.arrival, 0),
            "prompt": _whole("prompt", self.prompt, 1),
            "output": _whole("output", self.output, 1),
        }
        if self.priority is not None:
            columns["priority"] = _whole("priority", self.priority, -LATEST)
        if self.adapter is not None:
            columns["adapter"] = _whole("adapter", self.adapter, -1)
        _check_lengths(columns, self.prefix)
        check_whole("prefix_block", self.prefix_block)
        if self.cap is not None:
            check_whole("cap", self.cap)
        if self.prefix is not None:
            _check_prefix(self.prefix, columns["prompt"], self.prefix_block)
        self._store(columns)

    def _store(self, columns: dict[str, IntArray]) -> None:
        order = None
        if bool((np.diff(columns["arrival"]) < 0).any()):
            order = np.argsort(columns["arrival"], kind="stable")
        for name, column in columns.items():
            # A copy, so that freezing it leaves the caller's array writable.
            kept = column.copy() if order is None else column[order]
            kept.flags.writeable = False
            object.__setattr__(self, name, kept)
        if self.prefix is not None and order is not None:
            object.__setattr__(self, "prefix", [self.prefix[i] for i in order.tolist()])

    def __len__(self) -> int:
        return len(self.arrival)

    def block_hashes(self, i: int, block_size: int) -> tuple[int, ...]:
        """Return one integer per full engine block of request `i`'s shareable prompt.

        Each hash of `prefix_block` tokens becomes `prefix_block / block_size` integers, unique to it; the
        tail of the prompt that fills no block of `block_size` tokens is left out. Empty without a prefix.
        Raises ValueError when `prefix_block` is not a multiple of `block_size`.
        """
        if self.prefix is None:
            return ()
        if block_size < 1 or self.prefix_block % block_size:
            raise ValueError(
                f"block_size is {block_size}, a divisor of prefix_block = {self.prefix_block} is needed"
            )
        parts = self.prefix_block // block_size
        blocks = tuple(chain * parts + part for chain in self.prefix[i] for part in range(parts))
        return blocks[: int(self.prompt[i]) // block_size]

    def head(self, n: int) -> Self:
        """Return the first `n` requests (all when there are fewer). Raises ValueError when `n` < 1."""
        check_whole("n", n)
        return self._rows(np.arange(min(n, len(self))))

    def between(self, start: float, duration: float | None = None) -> Self:
        """Return the requests of `[start, start + duration)` seconds, with `start` as the new time zero.

        Raises ValueError when no request arrives then, or the bounds are negative or not finite.
        """
        low = _seconds("start", start)
        high = LATEST if duration is None else low + _seconds("duration", duration)
        kept = np.flatnonzero((self.arrival >= low) & (self.arrival < high))
        if not kept.size:
            first, last = self.arrival[0] / NS, self.arrival[-1] / NS
            raise ValueError(
                f"{self.name}: no request in [{low / NS:g}, {high / NS:g}) s, "
                f"arrivals run from {first:g} to {last:g} s"
            )
        rows = self._rows(kept)
        return replace(rows, arrival=rows.arrival - low)

    def scaled(self, *, rate: float) -> Self:
        """Return the workload with arrivals `rate` times as frequent: every arrival time divided by `rate`.

        Raises ValueError when `rate` is not a finite number > 0.
        """
        if not (np.isfinite(rate) and rate > 0):
            raise ValueError(f"rate is {rate}, a finite number > 0 is needed")
        if rate == 1:
            return self
        return replace(self, arrival=_whole("arrival", np.rint(self.arrival / rate), 0))

    def arriving(self, times: ArrayLike) -> Self:
        """Return the workload with other arrival times (ns), one per request, in order."""
        return replace(self, arrival=_whole("arrival", times, 0))

    def _rows(self, index: NDArray[np.intp]) -> Self:
        """Return the rows at `index`, which is ascending."""
        return replace(
            self,
            arrival=self.arrival[index],
            prompt=self.prompt[index],
            output=self.output[index],
            priority=None if self.priority is None else self.priority[index],
            prefix=None if self.prefix is None else [self.prefix[i] for i in index.tolist()],
            adapter=None if self.adapter is None else self.adapter[index],
        )


def _whole(name: str, values: ArrayLike, least: int) -> IntArray:
    """Return `values` as int64, or raise ValueError naming the first that is no whole number >= least."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, a column of at least one request is needed")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has type {array.dtype}, whole numbers are needed")
    # Written as what is good, so that NaN, which compares false, is bad.
    good = (array >= least) & (array <= LATEST)
    if array.dtype.kind == "f":
        good &= array == np.rint(array)
    bad = np.flatnonzero(~good)
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}, a whole number in [{least}, 2**62] is needed")
    return array.astype(np.int64)


def _check_lengths(columns: dict[str, IntArray], prefix: list[tuple[int, ...]] | None) -> None:
    sizes = {name: len(column) for name, column in columns.items()}
    if prefix is not None:
        sizes["prefix"] = len(prefix)
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"columns differ in length: {found}; one entry per request is needed")


def _check_prefix(prefix: list[tuple[int, ...]], prompt: IntArray, block: int) -> None:
    hashes = np.fromiter(map(len, prefix), np.int64, len(prefix))
    long = np.flatnonzero(hashes > -(-prompt // block))
    if long.size:
        i = int(long[0])
        raise ValueError(
            f"prefix[{i}] has {hashes[i]} hashes of {block} tokens, more than its {prompt[i]} prompt tokens"
        )


def check_whole(name: str, value: int) -> None:
    """Raise ValueError unless `value` is a whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, a whole number >= 1 is needed")


def _seconds(name: str, value: float) -> int:
    """Return `value` seconds in nanoseconds, or raise ValueError when it is negative or not finite."""
    if not 0 <= value <= LATEST / NS / 2:
        raise ValueError(f"{name} is {value} s, a finite number >= 0 is needed")
    return round(value * NS)


def save(workload: Workload, path: str | Path) -> None:
    """Write `workload` to `path` as .csv, .csv.gz or .parquet, readable by `read_trace`.

    Columns: arrival_s (seconds), prompt_tokens, output_tokens, then when present priority, adapter and `prefix_N`:
    the chain hashes of N = `prefix_block` tokens, separated by spaces (a list in Parquet). The name and the notes
    are not kept. Parquet holds seconds as doubles: exact to the nanosecond up to 26 days.
    Raises ValueError for another suffix, or a closed-loop workload: the file has no place for `cap`.
    """
    path = Path(path)
    if workload.cap is not None:
        raise ValueError(
            f"a workload with cap {workload.cap} cannot be saved, use replace(workload, cap=None)"
        )
    if path.name.endswith(".parquet"):
        _save_parquet(workload, path)
    elif path.name.endswith(".csv.gz"):
        # A fixed modification time: the same workload always gives the same bytes.
        path.write_bytes(gzip.compress(_csv(workload).encode(), mtime=0))
    elif path.name.endswith(".csv"):
        path.write_bytes(_csv(workload).encode())
    else:
        raise ValueError(f"{path}: unknown suffix, valid: .csv, .csv.gz, .parquet")


def _csv(workload: Workload) -> str:
    columns = dict(_columns(workload))
    # Whole and fractional part from the integer, so that no digit is lost to floating point.
    columns["arrival_s"] = [f"{ns // NS}.{ns % NS:09d}" for ns in workload.arrival.tolist()]
    if workload.prefix is not None:
        columns[f"prefix_{workload.prefix_block}"] = [" ".join(map(str, row)) for row in workload.prefix]
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    return "\n".join([",".join(columns), *lines, ""])


def _columns(workload: Workload) -> Iterator[tuple[str, list[Any]]]:
    yield "arrival_s", (workload.arrival / NS).tolist()
    yield "prompt_tokens", workload.prompt.tolist()
    yield "output_tokens", workload.output.tolist()
    if workload.priority is not None:
        yield "priority", workload.priority.tolist()
    if workload.adapter is not None:
        yield "adapter", workload.adapter.tolist()
    if workload.prefix is not None:
        yield f"prefix_{workload.prefix_block}", [list(row) for row in workload.prefix]


def _save_parquet(workload: Workload, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(_columns(workload))), path)
