"""Run the pieces: each point once, samples written as they come, a rerun goes on where the last one stopped."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aquasim.calibrate.bench.attention import decode_piece, host_piece, prefill_piece
from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.collective import all_reduce_piece
from aquasim.calibrate.bench.copies import copy_piece
from aquasim.calibrate.bench.launch import launch_piece
from aquasim.calibrate.bench.layer import layer_piece, overlap_piece
from aquasim.calibrate.bench.mixed import mixed_piece
from aquasim.calibrate.bench.paging import host_memory_piece, ipc_piece, traffic
from aquasim.calibrate.bench.piece import Piece, Point, key_of
from aquasim.calibrate.bench.products import gemm_piece
from aquasim.calibrate.bench.sizes import sizes_for
from aquasim.calibrate.bench.small import elementwise_piece, memory_piece, sampling_piece
from aquasim.calibrate.bench.timing import Timing
from aquasim.calibrate.samples import KINDS, Samples, concat, make_samples
from aquasim.calibrate.store import read_samples, write_samples
from aquasim.errors import UserError
from aquasim.records.atomic import new_file

Progress = Callable[[str, int, int], None]
_SAVE_EVERY_S = 10.0


def pieces_for(bench: Bench) -> tuple[list[Piece], list[str]]:
    """Return what there is to measure on `bench`, what a profile cannot do without first, and notes on the rest."""
    sizes = sizes_for(bench.kind, quick=bench.quick)
    notes = []
    pieces = [
        memory_piece(bench, sizes), gemm_piece(sizes), decode_piece(bench, sizes), prefill_piece(bench, sizes),
        elementwise_piece(sizes), sampling_piece(sizes), launch_piece(bench), layer_piece(bench, sizes),
        host_memory_piece(bench), host_piece(bench, sizes),
    ]  # fmt: skip
    try:
        pieces.insert(7, copy_piece(bench, sizes))
        pieces += [overlap_piece(bench, sizes, traffic), ipc_piece(bench)]
    except RuntimeError as error:  # a GPU's copies need CuPy and the driver
        notes.append(f"copies, IPC and overlap are left out: {error}")
    maybe = (mixed_piece(bench, sizes), all_reduce_piece(bench, sizes))
    return [*pieces, *(piece for piece in maybe if piece is not None)], notes


@dataclass
class Runner:
    """Measures pieces into a folder of Parquet files, one per operator, until done or out of time.

    `budget` is in seconds; `progress` is told the operator and how many of all points are done.
    """

    bench: Bench
    folder: Path
    budget: float | None = None
    progress: Progress = lambda operator, done, total: None
    skipped: dict[str, str] = field(default_factory=dict)

    def run(self, pieces: list[Piece]) -> bool:
        """Measure what is not in the folder yet; returns whether everything is. Whatever stops it, nothing is lost.

        Raises UserError if the folder holds measurements of another device or of other sizes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._go_on_with_as_many_threads()
        self._provenance = self.bench.provenance()
        self.skipped = self._read_skipped()
        earlier = {piece.operator: self._earlier(piece) for piece in pieces}
        left = {piece.operator: self._left(piece, earlier[piece.operator]) for piece in pieces}
        self._total = sum(len(piece.points) for piece in pieces)
        self._done = self._total - sum(map(len, left.values()))
        return all(
            self._piece(piece, left[piece.operator], earlier[piece.operator])
            for piece in pieces
            if left[piece.operator]
        )

    def _piece(self, piece: Piece, points: list[Point], earlier: Samples | None) -> bool:
        """Measure the points left of a piece, saving as it goes; returns False when time is up."""
        rows: list[tuple[Point, Timing]] = []
        saved = time.monotonic()
        try:
            with piece.open(self.bench) as measure:
                for point in points:
                    if self.budget is not None and time.monotonic() - self._started > self.budget:
                        return False
                    self.progress(piece.operator, self._done, self._total)
                    try:
                        rows.append((point, measure(point)))
                    except (RuntimeError, MemoryError) as error:
                        self._skip(piece.operator, point, error)
                    self._done += 1
                    if time.monotonic() - saved > _SAVE_EVERY_S:
                        self._save(piece, rows, earlier)
                        saved = time.monotonic()
        finally:
            self._save(piece, rows, earlier)
        self.progress(piece.operator, self._done, self._total)
        return True

    def path(self, operator: str) -> Path:
        """Return the file with an operator's samples."""
        return self.folder / f"{operator}.parquet"

    def _go_on_with_as_many_threads(self) -> None:
        """Take as many threads on a CPU as the samples in the folder did."""
        if not self.bench.cuda:
            for path in sorted(self.folder.glob("*.parquet")):
                self.bench.use_threads(int(read_samples(path).provenance.get("threads", self.bench.threads)))

    def _earlier(self, piece: Piece) -> Samples | None:
        path = self.path(piece.operator)
        if not path.exists():
            return None
        samples = read_samples(path)
        for key in ("device", "dtype", "sizes", "threads"):
            was, now = samples.provenance.get(key), self._provenance.get(key)
            if was != now:
                raise UserError(
                    f"{path}: was measured with {key} {was}, this is {now}; name another folder with --out"
                )
        return samples

    def _left(self, piece: Piece, earlier: Samples | None) -> list[Point]:
        """Return the points that are neither in the folder nor known to fail."""
        kind = KINDS[piece.operator]
        known: set[tuple[float | str, ...]] = set()
        if earlier is not None:
            rows = ({name: earlier.shape[name][i] for name in kind.shape} for i in range(len(earlier)))
            labels = (
                {name: str(earlier.labels[name][i]) for name in kind.labels} for i in range(len(earlier))
            )
            known = {key_of(piece.operator, {**a, **b}) for a, b in zip(rows, labels, strict=True)}
        keys = ((point, key_of(piece.operator, point)) for point in piece.points)
        return [
            point
            for point, key in keys
            if key not in known and _text(piece.operator, key) not in self.skipped
        ]

    def _save(self, piece: Piece, rows: list[tuple[Point, Timing]], earlier: Samples | None) -> None:
        if not rows:
            return
        kind = KINDS[piece.operator]
        points, timings = zip(*rows, strict=True)
        columns = {name: [point.get(name, "") for point in points] for name in (*kind.shape, *kind.labels)}
        samples = make_samples(
            piece.operator,
            str(self.path(piece.operator)),
            columns,
            [timing.seconds for timing in timings],
            q25=[timing.q25 for timing in timings],
            q75=[timing.q75 for timing in timings],
            repeats=[timing.repeats for timing in timings],
            provenance={**self._provenance, **piece.provenance},
        )
        write_samples(samples if earlier is None else concat([earlier, samples]), self.path(piece.operator))

    def _skip(self, operator: str, point: Point, error: Exception) -> None:
        """Note a point that cannot be measured, so that a rerun does not try it again."""
        self.skipped[_text(operator, key_of(operator, point))] = (
            str(error).splitlines() or [type(error).__name__]
        )[0]
        self.bench.free()
        with new_file(self.folder / "skipped.json") as part:
            part.write_text(json.dumps(self.skipped, indent=2), encoding="utf-8")

    def _read_skipped(self) -> dict[str, str]:
        path = self.folder / "skipped.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None


def _text(operator: str, key: tuple[float | str, ...]) -> str:
    return " ".join([operator, *(f"{part:g}" if isinstance(part, float) else part for part in key)])
