"""Measuring: timing, pieces, resuming, copies, and the kernels that are chosen."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquasim.calibrate.bench import bench as device
from aquasim.calibrate.bench import kernels, mixed
from aquasim.calibrate.bench.bench import Bench, load_torch, pick_device
from aquasim.calibrate.bench.copies import Places, routes
from aquasim.calibrate.bench.paging import traffic
from aquasim.calibrate.bench.peer import Peer
from aquasim.calibrate.bench.piece import Measure, Piece, Point, key_of
from aquasim.calibrate.bench.run import Runner, pieces_for
from aquasim.calibrate.bench.sizes import sizes_for
from aquasim.calibrate.bench.timing import Patience, Timing, settle, time_on_cpu
from aquasim.calibrate.samples import KINDS
from aquasim.calibrate.store import read_samples
from aquasim.errors import UserError
from aquasim.hardware.profile import REQUIRED

torch = pytest.importorskip("torch", reason="measuring needs torch")


@pytest.fixture(scope="module")
def cpu() -> Bench:
    """The CPU, quick."""
    return Bench("cpu", quick=True)


def test_timing_stops_once_the_spread_is_known() -> None:
    """Equal times end after the least number of repeats; the median and quartiles are those of the times."""
    timing = settle(iter([3.0, 1.0, 2.0] * 9).__next__, Patience(spread=2.0, least=5, most_s=9))
    assert timing == Timing(2.0, 1.0, 3.0, 5)


def test_timing_goes_on_while_times_scatter_and_ends_with_patience() -> None:
    """Times that never settle are repeated until the time is up, and not for ever."""
    values = iter([1.0, 9.0] * 10_000_000)
    timing = settle(values.__next__, Patience(spread=0.01, least=3, most_s=0.02))
    assert timing.repeats > 3
    assert timing.q25 == 1.0


def test_calls_take_their_operands_in_turn() -> None:
    """Each set of operands is used as often as the others, so that none stays in a cache."""
    used: list[int] = []
    time_on_cpu([partial(used.append, i) for i in range(4)], Patience(spread=0.5, least=8, most_s=0.01))
    counts = np.bincount(used[3:])
    assert len(counts) == 4
    assert counts.max() - counts.min() <= 2


def fake(measured: list[float], fail: tuple[float, ...] = (), stop: float = -1.0) -> Piece:
    """A piece of eight sampling points that notes what it measures, fails at some and is interrupted at one."""

    @contextmanager
    def open_(bench: Bench) -> Iterator[Measure]:
        def measure(point: Point) -> Timing:
            if point["sequences"] == stop:
                raise KeyboardInterrupt
            if point["sequences"] in fail:
                raise RuntimeError("out of memory\nand more lines")
            measured.append(point["sequences"])
            return Timing(1e-6 * point["sequences"], 1e-6, 1e-5, 3)

        yield measure

    points = tuple({"sequences": n, "vocab": 9, "kernel": "random"} for n in range(1, 9))
    return Piece("sampling", points, open_, {"why": "a test"})


def test_every_point_is_measured_once_whatever_interrupts(cpu: Bench, tmp_path: Path) -> None:
    """An interrupt loses nothing already measured, a rerun does the rest, and a third run does nothing."""
    measured: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        Runner(cpu, tmp_path).run([fake(measured, stop=5)])
    assert read_samples(tmp_path / "sampling.parquet")["sequences"].tolist() == [1, 2, 3, 4]
    assert Runner(cpu, tmp_path).run([fake(measured)])
    assert Runner(cpu, tmp_path).run([fake(measured)])
    assert measured == [1, 2, 3, 4, 5, 6, 7, 8]
    samples = read_samples(tmp_path / "sampling.parquet")
    assert samples["sequences"].tolist() == measured
    assert samples.seconds == pytest.approx(np.arange(1, 9) * 1e-6)
    assert samples.provenance["why"] == "a test"
    assert {"device", "torch", "time", "command", "python"} <= samples.provenance.keys()


def test_a_budget_stops_cleanly(cpu: Bench, tmp_path: Path) -> None:
    """Out of time, the runner says that it has not finished; with more time it does, each point once."""
    measured: list[float] = []
    assert not Runner(cpu, tmp_path, budget=0.0).run([fake(measured)])
    assert measured == []
    assert Runner(cpu, tmp_path, budget=60.0).run([fake(measured)])
    assert measured == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_cannot_be_measured_is_left_out_for_good(cpu: Bench, tmp_path: Path) -> None:
    """A point that fails is noted with its reason in one line; the others are measured, a rerun leaves it alone."""
    measured: list[float] = []
    runner = Runner(cpu, tmp_path)
    assert runner.run([fake(measured, fail=(3, 4))])
    assert list(runner.skipped.values()) == ["out of memory"] * 2
    assert measured == [1, 2, 5, 6, 7, 8]
    again = Runner(cpu, tmp_path)
    assert again.run([fake(measured)])
    assert measured == [1, 2, 5, 6, 7, 8]
    assert again.skipped == runner.skipped


def test_measurements_of_another_machine_are_not_mixed_in(
    cpu: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of another device's samples is refused, naming file and both devices."""
    Runner(cpu, tmp_path).run([fake([])])
    monkeypatch.setattr(cpu, "provenance", lambda: {**Bench.provenance(cpu), "device": "Another"})
    with pytest.raises(UserError, match=r"sampling\.parquet: was measured with device .*, this is Another"):
        Runner(cpu, tmp_path).run([fake([])])


def test_a_rerun_takes_as_many_threads(cpu: Bench, tmp_path: Path) -> None:
    """Samples of one folder are all measured with as many threads as the first ones."""
    cpu.use_threads(2)
    Runner(cpu, tmp_path).run([fake([])])
    cpu.use_threads(1)
    Runner(cpu, tmp_path).run([fake([])])
    assert (cpu.threads, torch.get_num_threads()) == (2, 2)
    cpu.use_threads(1)


def test_progress_counts_what_is_there_already(cpu: Bench, tmp_path: Path) -> None:
    """Progress goes up by one to the number of all points; a rerun with nothing left tells none."""
    seen: list[tuple[str, int, int]] = []
    Runner(cpu, tmp_path, progress=lambda *told: seen.append(told)).run([fake([])])
    assert seen == [("sampling", done, 8) for done in range(9)]
    Runner(cpu, tmp_path, progress=lambda *told: seen.append(told)).run([fake([])])
    assert len(seen) == 9


@pytest.mark.parametrize("quick", [True, False])
def test_pieces_cover_what_a_profile_needs(quick: bool) -> None:
    """Every block a profile cannot do without is measured or known; each point has its kind's columns, once."""
    pieces, notes = pieces_for(Bench("cpu", quick=quick))
    assert notes == []
    operators = {piece.operator for piece in pieces}
    assert {"gemm", "decode_attention", "prefill_attention", "elementwise", "memory", "copy"} <= operators
    assert set(REQUIRED) - {"memory", "peak", "hbm", "links"} <= operators
    for piece in pieces:
        assert len({key_of(piece.operator, point) for point in piece.points}) == len(piece.points) > 0
        assert all(point.keys() >= set(KINDS[piece.operator].shape) for point in piece.points)
    assert sum(len(piece.points) for piece in pieces) < (250 if quick else 1500)
    torch.set_num_threads(1)


def test_the_full_sizes_are_those_of_known_models() -> None:
    """On a GPU the products of Llama-3.1-8B and of 70B over four GPUs are measured at one token and at 8,192."""
    sizes = sizes_for("cuda", quick=False)
    assert {(28672, 4096), (128256, 4096), (14336, 8192)} <= set(sizes.shapes)
    assert {1, 8192} <= set(sizes.tokens)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown device, a GPU that is missing, and missing torch are one line each."""
    with pytest.raises(UserError, match="--device tpu: valid are cuda, cpu"):
        pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == "cpu"
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        pick_device("cuda")

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(device, "import_module", absent)
    with pytest.raises(
        UserError, match=r"needs torch, which is not installed: pip install 'aquasim\[runtime\]'"
    ):
        load_torch()


def test_a_result_that_is_not_finite_is_refused(cpu: Bench) -> None:
    """A kernel that gives infinities is no sample, however fast."""
    with pytest.raises(RuntimeError, match="not finite"):
        cpu.time([lambda: torch.tensor([1.0, float("inf")])])


def test_copies_are_made_and_timed(cpu: Bench) -> None:
    """Over every route each path moves every block to its place, in a time above 0."""
    size, count = 4096, 8
    with Places(cpu, 1 << 20) as places:
        for route in routes(cpu):
            for path in ("loop", "batch", "gather", "scatter"):
                copies = places.descriptors(route, size, count)
                source, target = (
                    as_array(int(column.min()), size * count) for column in (copies.src, copies.dst)
                )
                source[:] = np.random.default_rng(1).integers(0, 256, size * count)
                target[:] = 0
                assert places.time(route, path, size, count, both=path == "loop").seconds > 0
                moved = target.reshape(count, size)
                order = (copies.src - copies.src.min()) // size
                assert (moved == source.reshape(count, size)[order]).all(), (route.link, path)


def as_array(address: int, nbytes: int) -> np.ndarray:
    """Return memory by its address."""
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def test_a_peer_lends_memory_and_ends() -> None:
    """Another process's memory is mapped, keeps what is written through a second mapping, and the process ends."""
    with Peer("memfd", 1 << 20) as peer:
        with peer.mapping() as one, peer.mapping() as two:
            view = one.view()
            view[5] = 77
            assert two.view()[5] == 77
            del view
        process = peer._process
    assert process.returncode == 0


def test_a_peer_that_cannot_lend_says_why() -> None:
    """An unknown back end comes back as the other process's own words."""
    with Peer("nonesuch", 4096) as peer, pytest.raises(RuntimeError, match="no back end 'nonesuch'"):
        peer.mapping()


def test_traffic_moves_pages_until_it_ends(cpu: Bench) -> None:
    """While the context lasts pages move, and afterwards the thread that feeds them is gone."""
    import threading

    before = threading.active_count()
    with traffic(cpu):
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_torch_is_taken_where_no_engine_is_installed(cpu: Bench) -> None:
    """On a CPU, and without engines, attention is torch's."""
    assert kernels.pick_kernel(cpu)[0] == "sdpa"


def test_torch_attention_is_causal_behind_cached_tokens(cpu: Bench) -> None:
    """The last query sees all keys, the first new one the cached ones and its own: checked against plain sums."""
    queries, keys, values = (
        cpu.tensor(1, n, h, 8, dtype=torch.float32) * 9 for n, h in ((3, 4), (7, 2), (7, 2))
    )
    found: Any = kernels.sdpa(cpu, queries, keys, values)()
    for head in range(4):
        for i in range(3):
            seen = 7 - 3 + i + 1
            weights = torch.softmax(keys[0, :seen, head // 2] @ queries[0, i, head] / 8**0.5, dim=0)
            assert torch.allclose(found[0, head, i], weights @ values[0, :seen, head // 2], atol=1e-4)


def stub_engines(monkeypatch: pytest.MonkeyPatch, cpu: Bench, *, wrong: bool) -> None:
    """Pretend that vLLM and flash-attn are installed, with kernels made of torch's; or wrong ones."""

    def sequences(news: list[int], queries: Any, keys: Any, values: Any, lengths: list[int]) -> Any:
        result = mixed._one_by_one(cpu, list(zip(news, lengths, strict=True)), queries, keys, values)
        return result + 0.02 if wrong else result

    def paged(
        q: Any, k: Any, v: Any, *, cu_seqlens_q: Any, seqused_k: Any, block_table: Any, **rest: Any
    ) -> Any:
        lengths = seqused_k.tolist()
        keys, values = (
            torch.cat([pool[block_table[i].long()].flatten(0, 1)[:n] for i, n in enumerate(lengths)])
            for pool in (k, v)
        )
        return sequences(cu_seqlens_q.diff().tolist(), q, keys, values, lengths)

    def ragged(q: Any, k: Any, v: Any, starts: Any, ends: Any, *rest: Any, causal: bool) -> Any:
        return sequences(starts.diff().tolist(), q, k, v, ends.diff().tolist())

    def uniform(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        result: Any = kernels.sdpa(cpu, q, k, v)()
        return result.transpose(1, 2) + (0.02 if wrong else 0)

    vllm, flash = types.ModuleType("vllm.vllm_flash_attn"), types.ModuleType("flash_attn")
    vllm.flash_attn_varlen_func = paged  # type: ignore[attr-defined]
    flash.flash_attn_varlen_func = ragged  # type: ignore[attr-defined]
    flash.flash_attn_func = flash.flash_attn_with_kvcache = uniform  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", vllm)
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))


@pytest.mark.parametrize("wrong", [False, True])
def test_an_engines_kernel_is_taken_only_if_it_agrees(
    cpu: Bench, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """Kernels get pages, tables and lengths in a form in which they agree with torch; others are refused."""
    stub_engines(monkeypatch, cpu, wrong=wrong)
    assert kernels._agrees(cpu, kernels.vllm) is not wrong
    assert kernels._agrees(cpu, kernels.flash_attn) is not wrong
    assert mixed._agrees(cpu, mixed.vllm) is not wrong
    assert mixed._agrees(cpu, mixed.flash_attn) is not wrong
    assert not kernels._agrees(cpu, kernels.flashinfer)
