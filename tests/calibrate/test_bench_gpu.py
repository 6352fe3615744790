"""Measuring a GPU: for real where there is one, and its branches on stand-ins where there is none."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aquasim.calibrate.assemble import build_profile
from aquasim.calibrate.bench import copies, paging
from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.piece import Piece
from aquasim.calibrate.bench.run import Runner, pieces_for
from aquasim.calibrate.bench.timing import Patience, time_eagerly, time_on_cuda
from aquasim.calibrate.importers import read_paths
from aquasim.calibrate.samples import KINDS, by_operator
from aquasim.hardware.profile import load_profile

torch = pytest.importorskip("torch", reason="measuring needs torch")


class Event:
    """A CUDA event on the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """See CUDA."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """See CUDA."""
        assert self.at

    def elapsed_time(self, later: "Event") -> float:
        """See CUDA; milliseconds."""
        return (later.at - self.at) * 1e3


class Graph:
    """A CUDA graph whose replays take 2 ms."""

    replays = 0

    def replay(self) -> None:
        """Take 2 ms."""
        Graph.replays += 1
        time.sleep(2e-3)


@contextmanager
def capture(graph: Graph, capture_error_mode: str = "global") -> Iterator[None]:
    """Run what is captured at once."""
    yield


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A GPU made of the CPU: tensors, copies and kernels are the CPU's, streams and graphs are stand-ins."""
    gpu = Bench("cpu", quick=True)
    gpu.kind, gpu.cuda, gpu.patience = "cuda", True, Patience(0.5, 2, 0.01)
    properties = SimpleNamespace(
        name="Stand-in", total_memory=1 << 34, multi_processor_count=9, L2_cache_size=1 << 20
    )
    fakes: dict[str, Any] = {
        "CUDAGraph": Graph, "graph": capture, "Event": Event, "_sleep": lambda cycles: None,
        "stream": lambda side: nullcontext(), "synchronize": lambda *_: None, "empty_cache": lambda: None,
        "current_stream": lambda: SimpleNamespace(wait_stream=lambda other: None), "device_count": lambda: 1,
        "mem_get_info": lambda device: (1 << 28, 1 << 34), "get_device_properties": lambda index: properties,
        "get_device_capability": lambda *_: (9, 0),
    }  # fmt: skip
    fakes["Stream"] = lambda: SimpleNamespace(wait_stream=lambda other: None)
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, value)
    from aquasim.runtime import copy

    host = copy.open_copier
    monkeypatch.setattr(copy, "open_copier", lambda device="cpu": host("cpu"))
    for module in (copies, paging):
        monkeypatch.setattr(module, "peer_backend", lambda bench: ("memfd", -1))
    monkeypatch.setattr(torch, "compile", lambda step, dynamic: step)
    return gpu


def firsts(pieces: list[Piece], each: int) -> list[Piece]:
    """Return the pieces with their first points of every label only."""
    cut = []
    for piece in pieces:
        labels = [name for name in KINDS[piece.operator].labels if name != "model"]
        seen: dict[tuple[Any, ...], int] = {}
        points = []
        for point in piece.points:
            key = (*(point.get(label) for label in labels), point.get("both"))
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= each:
                points.append(point)
        cut.append(Piece(piece.operator, tuple(points), piece.open, piece.provenance))
    return cut


@pytest.mark.slow
def test_every_gpu_branch_runs_on_stand_ins(stand_in: Bench, tmp_path: Path) -> None:
    """What is done on a GPU only (graphs, events, pinned and pageable copies, peers) runs through, and fits."""
    pieces, notes = pieces_for(stand_in)
    assert notes == []
    routes = {point["link"] for piece in pieces if piece.operator == "copy" for point in piece.points}
    assert {"pcie_h2d", "pageable_h2d", "device", "peer_same_gpu", "peer_same_gpu_read"} <= routes
    methods = {point["method"] for piece in pieces if piece.operator == "launch" for point in piece.points}
    assert methods == {"eager", "readback", "replay", "node"}
    before = Graph.replays
    runner = Runner(stand_in, tmp_path)
    assert runner.run(firsts(pieces, 3))
    assert runner.skipped == {}
    assert Graph.replays > before + 50
    samples = by_operator(read_paths([tmp_path])[0])
    profile = build_profile("mine", samples, load_profile("h100"))
    assert profile["memory"]["bytes"] == 1 << 34
    assert "the same GPU" in samples["copy"].provenance["link peer_same_gpu"]
    assert profile["links"]["nvlink"]["source"].startswith("from profile h100, not measured here")


def test_a_graph_is_timed_per_call(stand_in: Bench) -> None:
    """A replay of 2 ms that holds so many calls gives each its share of 2 ms."""
    calls = [lambda: time.sleep(2e-4)] * 2
    timing = time_on_cuda(torch, calls, stand_in.patience)
    parts = 2e-3 / timing.seconds
    assert parts == pytest.approx(round(parts), rel=0.3)
    assert 2 <= round(parts) <= 10


def test_what_cannot_be_captured_is_timed_eagerly(stand_in: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal to capture falls back to launches from Python; any other failure comes through."""

    def refuse(text: str) -> Any:
        @contextmanager
        def failing(graph: Graph, capture_error_mode: str) -> Iterator[None]:
            yield
            raise RuntimeError(text)

        return failing

    monkeypatch.setattr(torch.cuda, "graph", refuse("operation not permitted when stream is capturing"))
    assert stand_in.time([lambda: time.sleep(1e-3)]).seconds == pytest.approx(1e-3, rel=0.9)
    assert time_eagerly(torch, [lambda: time.sleep(1e-3)] * 2, stand_in.patience).seconds < 2e-3
    monkeypatch.setattr(torch.cuda, "graph", refuse("an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        stand_in.time([lambda: None])


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_every_operator_is_measured_on_a_gpu(tmp_path: Path) -> None:
    """The first point of every kind gives a time on the GPU, and none is left out."""
    gpu = Bench("cuda", quick=True)
    pieces, notes = pieces_for(gpu)
    runner = Runner(gpu, tmp_path)
    assert runner.run(firsts(pieces, 1))
    assert (notes, runner.skipped) == ([], {})
