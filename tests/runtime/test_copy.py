"""Copies: every path moves the same bytes, lists without an order are refused, events tell the truth."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.runtime.copy import (
    Copier,
    CopyError,
    Descriptors,
    HostEvent,
    Scratch,
    Thresholds,
    choose,
    merge_runs,
    open_copier,
)

POOL = 4096


@pytest.fixture(scope="module")
def copier() -> Iterator[Copier]:
    """Give a copier for the CPU with a small staging buffer, so that staging takes several rounds."""
    with open_copier("cpu", staging_bytes=256) as made:
        yield made


@pytest.fixture(scope="module")
def pools(copier: Copier) -> Iterator[tuple[Scratch, Scratch]]:
    """Give two pools of memory."""
    with copier.scratch(POOL) as first, copier.scratch(POOL) as second:
        yield first, second


@st.composite
def pieces(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Draw (source, destination, size) offsets: sources anywhere, destinations disjoint, often contiguous."""
    sizes = draw(st.lists(st.integers(1, 64), max_size=40))
    gaps = draw(st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes)))
    rows, at = [], 0
    for size, gap in zip(sizes, gaps, strict=True):
        source = at if draw(st.booleans()) else draw(st.integers(0, POOL - size))
        rows.append((source, at + gap, size))
        at += gap + size
    return draw(st.permutations(rows))


def build(rows: list[tuple[int, int, int]], src: int, dst: int) -> Descriptors:
    """Turn offsets into descriptors."""
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Descriptors(columns[0] + src, columns[1] + dst, columns[2])


def moved(rows: list[tuple[int, int, int]], source: bytes) -> bytes:
    """Return what a plain loop makes of a pool of zeros."""
    target = bytearray(POOL)
    for src, dst, size in rows:
        target[dst : dst + size] = source[src : src + size]
    return bytes(target)


@settings(deadline=None)
@given(rows=pieces(), seed=st.integers(0, 2**16))
def test_every_path_moves_what_a_plain_loop_moves(
    rows: list[tuple[int, int, int]], seed: int, copier: Copier, pools: tuple[Scratch, Scratch]
) -> None:
    """For any list without overlap, each path and `auto` leave the same bytes behind, on either stream."""
    source = np.random.default_rng(seed).integers(0, 256, POOL, dtype=np.uint8)
    pools[0].write(source)
    expected = moved(rows, source.tobytes())
    for path in ("auto", *copier.paths):
        for stream in (copier.outgoing, copier.incoming):
            pools[1].write(np.zeros(POOL, dtype=np.uint8))
            copier.submit(build(rows, pools[0].ptr, pools[1].ptr), stream, path).wait(10)
            assert pools[1].read(POOL).tobytes() == expected, path


@given(rows=pieces())
def test_merged_runs_are_the_same_copies_and_can_be_merged_no_further(
    rows: list[tuple[int, int, int]],
) -> None:
    """Byte by byte, source and destination stay paired; no two neighbours touch on both sides afterwards."""
    copies = build(rows, 1, 1_000_000)
    merged = merge_runs(copies)

    def pairs(some: Descriptors) -> set[tuple[int, int]]:
        return {(src + at, dst + at) for src, dst, size in some.rows() for at in range(size)}

    assert pairs(merged) == pairs(copies)
    assert merged.nbytes == copies.nbytes
    for (src, dst, size), (next_src, next_dst, _) in pairwise(merged.rows()):
        assert (src + size, dst + size) != (next_src, next_dst)


def test_blocks_become_one_run_when_they_are_one() -> None:
    """Blocks 7, 5, 6 to 1, 9, 0: two of them are neighbours in both pools."""
    merged = merge_runs(Descriptors.of_blocks(1000, [7, 5, 6], 90_000, [1, 9, 0], 10))
    assert list(merged.rows()) == [(1050, 90_090, 10), (1060, 90_000, 20)]


spans = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 6)), max_size=6)


@given(spans)
def test_overlaps_are_refused_exactly_where_a_byte_is_written_twice_or_written_and_read(
    rows: list[tuple[int, int, int]],
) -> None:
    """The vectorised check agrees with sets of addresses."""
    copies = Descriptors(*np.array(rows, dtype=np.int64).reshape(-1, 3).T)
    written = [at for _, dst, size in rows for at in range(dst, dst + size)]
    read = {at for src, _, size in rows for at in range(src, src + size)}
    if len(written) == len(set(written)) and read.isdisjoint(written):
        copies.refuse_overlap()
    else:
        with pytest.raises(ValueError, match="overlap"):
            copies.refuse_overlap()


def test_overlapping_copies_are_refused_and_change_nothing(
    copier: Copier, pools: tuple[Scratch, Scratch]
) -> None:
    """A refused list is not started, and the stream goes on working."""
    pools[1].write(np.zeros(POOL, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"destination of number \d"):
        copier.submit(build([(0, 0, 64), (64, 63, 64)], pools[0].ptr, pools[1].ptr), copier.outgoing)
    copier.outgoing.record().wait(10)
    assert not pools[1].read(POOL).any()


@pytest.mark.parametrize(
    ("src", "dst", "sizes", "text"),
    [
        ([1, 2], [3], [4], "one length"),
        ([1], [2], [0], "sizes must be above 0"),
        ([-1], [2], [1], "src must"),
    ],
)
def test_broken_columns_are_refused(src: list[int], dst: list[int], sizes: list[int], text: str) -> None:
    """Lengths that differ, empty copies and addresses below 1 are mistakes."""
    with pytest.raises(ValueError, match=text):
        Descriptors(*(np.array(column) for column in (src, dst, sizes)))


def test_an_event_is_not_done_before_its_copy_and_a_copy_waits_for_compute(
    copier: Copier, pools: tuple[Scratch, Scratch]
) -> None:
    """A stream that waits for compute's event moves nothing before it; the other stream goes on meanwhile."""
    pools[0].write(np.full(POOL, 7, dtype=np.uint8))
    pools[1].write(np.zeros(POOL, dtype=np.uint8))
    computed = HostEvent()
    copier.outgoing.wait(computed)
    event = copier.submit(build([(0, 0, 2000)], pools[0].ptr, pools[1].ptr), copier.outgoing)
    copier.submit(build([(2000, 2000, 1000)], pools[0].ptr, pools[1].ptr), copier.incoming).wait(10)
    with pytest.raises(TimeoutError):
        event.wait(0.05)
    assert not event.done()
    assert not pools[1].read(2000).any()
    assert pools[1].read(1000, 2000).all()
    computed.set()
    event.wait(10)
    assert pools[1].read(2000).all()


def test_a_done_event_means_that_all_bytes_are_there(copier: Copier) -> None:
    """Polling, never waiting: the first look that says done sees the whole copy."""
    nbytes = 8 << 20
    with copier.scratch(nbytes) as first, copier.scratch(nbytes) as second:
        first.write(np.full(nbytes, 9, dtype=np.uint8))
        start = copier.outgoing.record()
        event = copier.submit(Descriptors.of_blocks(first.ptr, [0], second.ptr, [0], nbytes), copier.outgoing)
        while not event.done():
            pass
        assert second.read(1, nbytes - 1)[0] == 9
        assert event.since(start) > 0


def test_compute_on_the_cpu_is_the_caller(copier: Copier) -> None:
    """What the caller has done is done; when it waits, it waits."""
    compute = copier.compute()
    assert compute.record().done()
    event = copier.outgoing.record()
    compute.wait(event)
    assert event.done()


def test_after_a_failure_a_stream_copies_nothing_and_its_events_tell() -> None:
    """A copy that waits for a computation that failed must not run."""
    with open_copier("cpu") as copier, copier.scratch(POOL) as first, copier.scratch(POOL) as second:
        first.write(np.full(POOL, 1, dtype=np.uint8))
        computed = HostEvent()
        computed.set(RuntimeError("out of cheese"))
        copier.incoming.wait(computed)
        event = copier.submit(build([(0, 0, 8)], first.ptr, second.ptr), copier.incoming)
        with pytest.raises(CopyError, match="out of cheese"):
            event.wait(10)
        assert not second.read(8).any()
        copier.outgoing.record().wait(10)


def test_misuse_is_refused_with_what_is_valid(copier: Copier, pools: tuple[Scratch, Scratch]) -> None:
    """Unknown paths, foreign streams, blocks larger than staging and closed copiers."""
    copies = build([(0, 0, 512)], pools[0].ptr, pools[1].ptr)
    with pytest.raises(ValueError, match="loop, batch, gather, scatter"):
        copier.submit(copies, copier.outgoing, "teleport")
    with pytest.raises(ValueError, match="outgoing or incoming"):
        copier.submit(copies, copier.compute())
    with pytest.raises(ValueError, match="staging buffer of 256"):
        copier.submit(copies, copier.outgoing, "gather")
    closed = open_copier("cpu")
    closed.close()
    closed.close()
    with pytest.raises(CopyError, match="closed"):
        closed.submit(copies, closed.outgoing)
    with pytest.raises(CopyError, match="closed"):
        closed.incoming.record()


@pytest.mark.parametrize(
    ("nbytes", "count", "path"),
    [
        (2 << 20, 1, "loop"),
        (2 << 20, 100, "batch"),
        (28 << 10, 1000, "batch"),
        ((28 << 10) - 1, 16, "kernel"),
        (4096, 15, "batch"),
    ],
)
def test_the_path_follows_size_and_number(nbytes: int, count: int, path: str) -> None:
    """Copy engines from 28 KiB on, a kernel for 16 and more that are smaller (H100), one call for one copy."""
    assert choose(nbytes, count, Thresholds()) == path


def test_thresholds_come_from_a_calibration(tmp_path: Path) -> None:
    """A file of a calibration sets them; a name that is unknown is an error that lists the valid ones."""
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps({"batch_bytes": 64, "small": "gather", "source": "here"}))
    thresholds = Thresholds.load(file)
    assert choose(63, 16, thresholds) == "gather"
    assert choose(64, 16, thresholds) == "batch"
    with pytest.raises(ValueError, match="unknown speed; valid are batch_bytes"):
        Thresholds.from_dict({"speed": 1})


def test_a_path_that_is_missing_here_becomes_a_loop() -> None:
    """`auto` on the CPU never asks for a kernel, whatever the thresholds say, and tells what it does."""
    with open_copier("cpu", Thresholds()) as copier:
        assert copier.path_for(build([(at * 8, at * 8, 8) for at in range(32)], 1, 10_000)) == "loop"
