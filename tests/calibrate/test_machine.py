"""What is fitted besides kernels: links, memory, host overhead, mappings, paths, decodes beside chunks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aquasim.calibrate.attention import attention_blocks
from aquasim.calibrate.machine import machine_blocks
from aquasim.calibrate.samples import Samples, by_operator, make_samples

Floats = NDArray[np.float64]
H2D, D2H = "pcie_h2d", "pcie_d2h"


def copies(rows: list[tuple[float, float, float, str, str, float]]) -> Samples:
    """Copies of (bytes, count, both, link, method, seconds)."""
    columns = dict(zip(("bytes", "count", "both", "link", "method"), zip(*rows, strict=True), strict=False))
    return make_samples(
        "copy", "made", columns, [row[-1] for row in rows], provenance={f"link {H2D}": "a cable"}
    )


def test_a_link_is_found_among_lists_of_copies() -> None:
    """Start and bandwidth of single-direction copies in a loop come back; batches and busy links do not count."""
    rows: list[tuple[float, float, float, str, str, float]] = []
    for size in (8192, 65536, 1 << 20, 1 << 24):
        for count in (1, 16):
            seconds = count * (4e-6 + size / 50e9)
            rows.append((size, count, 0, H2D, "loop", seconds))
            rows.append((size, count, 1, H2D, "loop", seconds * 3))
            rows.append((size, count, 0, H2D, "batch", seconds / 2))
    link = machine_blocks({"copy": copies(rows)})["links"]
    assert list(link) == [H2D]
    assert (link[H2D]["start_s"], link[H2D]["bytes_per_s"]) == (pytest.approx(4e-6), pytest.approx(50e9))
    assert link[H2D]["peak_bytes_per_s"] >= link[H2D]["bytes_per_s"]
    assert link[H2D]["source"] == "made: a cable"


def paths(times: dict[str, dict[tuple[int, int], float]]) -> Samples:
    """Copies to the device by path, (bytes, count) and seconds."""
    return copies(
        [(size, count, 0, H2D, path, t) for path, by in times.items() for (size, count), t in by.items()]
    )


def test_paths_are_chosen_where_they_win() -> None:
    """Kernels win below 64 KiB from 16 copies on, batches elsewhere: just that comes out."""
    sizes, counts = (4096, 16384, 65536, 262144), (4, 16, 64)
    cells = [(size, count) for size in sizes for count in counts]
    kernel = {cell: 1.0 if cell[0] < 65536 and cell[1] >= 16 else 3.0 for cell in cells}
    found = machine_blocks({"copy": paths({"batch": dict.fromkeys(cells, 2.0), "kernel": kernel})})
    chosen = {key: found["copy_thresholds"][key] for key in ("batch_bytes", "small_count", "small")}
    assert chosen == {"batch_bytes": 65536, "small_count": 16, "small": "kernel"}


def test_batches_that_always_win_leave_nothing_else() -> None:
    """Where no other path is clearly faster, batches serve from the first byte on."""
    cells = [(4096, 4), (65536, 64)]
    found = machine_blocks(
        {"copy": paths({"batch": dict.fromkeys(cells, 1.0), "scatter": dict.fromkeys(cells, 0.99)})}
    )
    assert found["copy_thresholds"]["batch_bytes"] == 0
    assert found["copy_thresholds"]["small"] == "batch"


def test_one_path_alone_gives_no_thresholds() -> None:
    """Nothing is said of paths that were not measured side by side."""
    assert "copy_thresholds" not in machine_blocks({"copy": paths({"batch": {(4096, 4): 1.0}})})


def test_the_runtime_takes_the_thresholds_as_they_are() -> None:
    """What is written for the runtime is what it reads."""
    from aquasim.runtime.copy import Thresholds

    cells = [(4096, 16), (1 << 18, 16)]
    times = {"batch": dict.fromkeys(cells, 2.0), "kernel": {cells[0]: 1.0, cells[1]: 3.0}}
    taken = Thresholds.from_dict(machine_blocks({"copy": paths(times)})["copy_thresholds"])
    assert (taken.batch_bytes, taken.small) == (1 << 18, "kernel")


def test_launches_are_told_per_kernel() -> None:
    """Two hundred launches in a millisecond are 5 us each; a replay and a readback count whole."""
    columns = {"kernels": [200, 1, 1], "method": ["eager", "readback", "replay"]}
    launch = make_samples("launch", "made", columns, [1e-3, 2e-5, 1e-5])
    block = machine_blocks({"launch": launch})["launch"]
    found = {key: block[key] for key in ("eager_s", "readback_s", "replay_s")}
    assert found == {"eager_s": 5e-6, "readback_s": 2e-5, "replay_s": 1e-5}
    assert "node_s" not in block


def test_memory_is_the_best_that_was_seen() -> None:
    """Rates of reading and of copying are those of the fastest stretch; host memory that of the best threads."""
    memory = make_samples(
        "memory", "made", {"bytes": [1e9, 1e9, 1e9], "method": ["read", "read", "copy"]}, [1, 0.5, 2]
    )
    assert machine_blocks({"memory": memory})["hbm"]["read_bytes_per_s"] == 2e9
    assert machine_blocks({"memory": memory})["hbm"]["copy_bytes_per_s"] == 5e8
    host = make_samples("host_memory", "made", {"threads": [1, 4], "bytes": 1e9, "method": "copy"}, [1, 0.25])
    assert machine_blocks({"host_memory": host})["links"]["host_dram"]["bytes_per_s"] == 4e9


def test_copies_beside_compute_are_told_by_their_ratio() -> None:
    """A decode that takes half as long again beside copies says 1.5."""
    columns = {"batch": 4, "length": 9, "traffic": [0, 1], "link": "pcie"}
    overlap = make_samples("overlap", "made", columns, [2e-3, 3e-3])
    assert machine_blocks({"overlap": overlap})["overlap"]["slowdown_beside_copies"] == 1.5


def launches(decode_factor: float) -> dict[str, Samples]:
    """Attention with known times: decodes cost `decode_factor` times as much beside a chunk as alone."""
    heads = {"heads": 32, "kv_heads": 8, "head_dim": 128}

    def decode(batch: Floats, length: Floats) -> Floats:
        return 4096 * batch * length / 1e12

    def chunk(new: Floats, cached: Floats) -> Floats:
        return 4 * 128 * 32 * np.maximum(new, 64) * (cached + new / 2) / 60e12

    def grid(*axes: list[int]) -> list[Floats]:
        return [axis.ravel().astype(float) for axis in np.meshgrid(*axes)]

    batch, length = grid([1, 4, 16, 64, 256], [64, 256, 1024, 4096, 16384])
    new, cached = grid([64, 128, 256, 512, 2048], [0, 512, 2048, 8192])
    n, c, b, le = grid([64, 512], [512, 2048], [4, 16, 64, 256], [256, 1024, 4096])
    start = 8e-6
    parts = [
        make_samples(
            "decode_attention", "made", {**heads, "batch": batch, "length": length}, start + decode(batch, length)
        ),
        make_samples(
            "prefill_attention", "made", {**heads, "batch": 1, "new": new, "cached": cached},
            start + chunk(new, cached),
        ),
        make_samples(
            "mixed_attention", "made", {**heads, "new": n, "cached": c, "batch": b, "length": le},
            start + chunk(n, c) + decode_factor * decode(b, le),
        ),
    ]  # fmt: skip
    return by_operator(parts)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_what_decodes_add_to_a_chunk_is_found(factor: float) -> None:
    """Decodes that cost a multiple beside a chunk are priced so; the plain sum is as far off as that says."""
    block = attention_blocks(launches(factor), 60e12, 1e12, 64)["mixed_attention"]["128"]
    assert block["residual"]["median"] < 0.08
    alone = block["residual"]["with_decodes_as_alone"]
    assert alone["median"] < 0.08 if factor == 1 else alone["ratio"] < 0.8


def test_the_tile_that_fits_best_is_taken() -> None:
    """Chunks below 64 tokens that cost in proportion to their tokens are not padded to tiles of 64."""
    samples = launches(1.0)
    new, cached = (
        axis.ravel().astype(float) for axis in np.meshgrid([8, 16, 32, 64, 256, 1024], [0, 512, 4096])
    )
    heads = {"heads": 32, "kv_heads": 8, "head_dim": 128, "batch": 1}
    seconds = 1e-6 + 4 * 128 * 32 * new * (cached + new / 2) / 1e12
    samples["prefill_attention"] = make_samples(
        "prefill_attention", "made", {**heads, "new": new, "cached": cached}, seconds
    )
    del samples["mixed_attention"]
    assert attention_blocks(samples, 1e12, 1e12, None)["prefill_attention"]["tile"] == 8
