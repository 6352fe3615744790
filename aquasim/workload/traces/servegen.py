"""ServeGen (alibaba/ServeGen): not requests but clients, with rates and distributions by time of day.

A client is a pair of files: `chunk-N-trace.csv`, whose rows `start s, rate per s, CV, distribution, shape,
scale` describe the arrivals of 600 s each, and `chunk-N-dataset.json`, the histograms of lengths per 6 h.
Requests are drawn: gaps have the distribution and shape of the row, and are scaled to the row's measured
rate, from which the fitted scale may differ. A gap that begins in one window and ends in the next is
stretched to the next one's rate for what is left of it, so the expected number of requests is the published
one in every window.
"""

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquasim.workload.lengths import Histogram
from aquasim.workload.streams import stream
from aquasim.workload.table import NS, IntArray
from aquasim.workload.traces.cells import Cells
from aquasim.workload.traces.source import Options, Rows, TraceError, load, parse_json

COLUMNS = ("start_s", "rate", "cv", "distribution", "shape", "scale")
FILE_NAME = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)(\.gz)?")

WINDOW = 600.0
DATASET_WINDOW = 6 * 3600

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Client:
    """One client; windows are (start s, rate per s, distribution, shape), in order, WINDOW seconds each."""

    number: int
    windows: list[tuple[float, float, str, float]]
    starts: IntArray
    prompts: list[Histogram]
    outputs: list[Histogram]


def read(path: Path, options: Options) -> Rows:
    """Draw the requests of all clients in the folder `path`, or of the one that the file `path` belongs to.

    Raises ValueError when neither a limit nor a duration bounds the two weeks that the files describe, and
    TraceError, naming the file, for a pair that is incomplete or damaged.
    """
    if options.limit is None and options.duration is None:
        raise ValueError(f"{path}: servegen describes two weeks of requests, give a limit or a duration")
    clients = [_client(number, *pair) for number, pair in sorted(_pairs(path).items())]
    drawn = [_requests(client, options) for client in clients]
    arrival, prompt, output = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
    if not arrival.size:
        raise TraceError.at(path, None, "no request in the time asked for, the clients are idle then")
    notes = (
        f"drawn from ServeGen's distributions of {len(clients)} clients with seed {options.seed}",
        "lengths of 0 tokens count as 1",
    )
    return Rows(prompt, output, arrival, notes=notes)


def _pairs(path: Path) -> dict[int, tuple[Path, Path]]:
    """Return the trace and the data set of each client, or raise TraceError naming the missing file."""
    folder = path if path.is_dir() else path.parent
    found = {match[0]: match for match in map(FILE_NAME.fullmatch, _names(folder)) if match}
    if not path.is_dir():
        only = FILE_NAME.fullmatch(path.name)
        number = only[1] if only else None
        found = {name: match for name, match in found.items() if match[1] == number}
    if not found:
        raise TraceError.at(path, None, "no chunk-N-trace.csv[.gz] with chunk-N-dataset.json[.gz] is there")
    return {int(match[1]): _pair(folder, match[1], found) for match in found.values()}


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise TraceError.at(folder, None, f"cannot be read: {error.strerror}") from None


def _pair(folder: Path, number: str, found: dict[str, Any]) -> tuple[Path, Path]:
    files = []
    for kind in ("trace.csv", "dataset.json"):
        name = f"chunk-{number}-{kind}"
        present = [folder / full for full in (name, name + ".gz") if full in found]
        if not present:
            raise TraceError.at(
                folder / name, None, f"client {number} has no such file, plain or .gz; it is needed"
            )
        files.append(present[0])
    return files[0], files[1]


def _client(number: int, trace: Path, dataset: Path) -> _Client:
    windows = _windows(trace)
    document = parse_json(dataset, load(dataset))
    if not isinstance(document, dict) or not document:
        raise TraceError.at(
            dataset, 1, 'an object {"0": {"input_tokens": ..., "output_tokens": ...}} is needed'
        )
    starts = sorted((_start(dataset, key), key) for key in document)
    prompts = [_histogram(dataset, document, key, "input_tokens") for _, key in starts]
    outputs = [_histogram(dataset, document, key, "output_tokens") for _, key in starts]
    return _Client(number, windows, np.array([start for start, _ in starts], np.int64), prompts, outputs)


def _windows(path: Path) -> list[tuple[float, float, str, float]]:
    cells = Cells.parse(path, load(path), COLUMNS, header=COLUMNS)
    start = cells.numbers("start_s")
    rate = cells.numbers("rate")
    # An idle window has no distribution and no parameters.
    shape = cells.numbers("shape", blank="0")
    kinds = cells.columns["distribution"]
    for row, kind in enumerate(kinds):
        if rate[row] and kind not in ("Gamma", "Weibull"):
            raise cells.error(
                row, f"distribution is {kind!r}, Gamma or Weibull is needed where the rate is not 0"
            )
        if rate[row] and not shape[row] > 0:
            raise cells.error(row, f"shape is {cells.columns['shape'][row]!r}, a number > 0 is needed")
    unsorted = np.flatnonzero(np.diff(start) < WINDOW)
    if unsorted.size:
        raise cells.error(int(unsorted[0]) + 1, f"start_s is less than {WINDOW:g} s after the row before it")
    return list(zip(start.tolist(), rate.tolist(), kinds, shape.tolist(), strict=True))


def _start(path: Path, key: str) -> int:
    if not key.isdecimal():
        raise TraceError.at(path, None, f"key {key!r} is no start of a window, whole seconds are needed")
    return int(key)


def _histogram(path: Path, document: Any, key: str, name: str) -> Histogram:
    """Return one histogram, which the file holds as the text of a dict: "{34: 0.001, 35: 0.04}"."""
    try:
        mapping = ast.literal_eval(document[key][name])
        # 0 tokens count as 1, as in every other trace.
        return Histogram([max(1, tokens) for tokens in mapping], list(mapping.values()))
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        reason = str(error) or type(error).__name__
        raise TraceError.at(
            path, None, f"{name} of window {key}: {reason}; the text of a dict tokens -> share is needed"
        ) from None


def _requests(client: _Client, options: Options) -> tuple[IntArray, IntArray, IntArray]:
    """Return arrival (ns), prompt and output of one client's requests."""
    parts = list(_arrivals(client, options))
    seconds = np.concatenate(parts)[: options.limit] if parts else np.empty(0)
    # The published days repeat: a data set of one day serves two weeks.
    period = int(client.starts[-1]) + DATASET_WINDOW
    window = np.searchsorted(client.starts, seconds % period, side="right") - 1
    window = np.maximum(window, 0)
    prompt = _lengths(client.prompts, window, stream(options.seed, "prompt", [client.number]))
    output = _lengths(client.outputs, window, stream(options.seed, "output", [client.number]))
    return np.rint(seconds * NS).astype(np.int64), prompt, output


def _arrivals(client: _Client, options: Options) -> Iterator[FloatArray]:
    """Yield the arrival times, in seconds, window by window, until the limit or the end is reached."""
    rng = stream(options.seed, "arrivals", [client.number])
    end = math.inf if options.duration is None else options.start + options.duration
    count = 0
    wait: float | None = None
    for start, rate, kind, shape in client.windows:
        low, high = max(start, options.start), min(start + WINDOW, end)
        if high <= low or not rate:
            continue
        if wait is None:
            wait = float(_gaps(rng, kind, shape, 1)[0])
        times, wait = _window(rng, kind, shape, wait, rate * (high - low))
        yield low + times / rate
        count += len(times)
        if options.limit is not None and count >= options.limit:
            return


def _window(
    rng: np.random.Generator, kind: str, shape: float, wait: float, mass: float
) -> tuple[FloatArray, float]:
    """Return the arrivals of a window and the wait left over at its end, in units of the mean gap.

    `wait` is that from the window's start to the first arrival, `mass` the window's length.
    """
    parts, last = [np.array([wait])], wait
    while last < mass:
        parts.append(last + np.cumsum(_gaps(rng, kind, shape, int(mass - last) + 64)))
        last = float(parts[-1][-1])
    times = np.concatenate(parts)
    inside = int(np.searchsorted(times, mass))
    return times[:inside], float(times[inside]) - mass


def _gaps(rng: np.random.Generator, kind: str, shape: float, n: int) -> FloatArray:
    """Return `n` gaps of mean 1."""
    if kind == "Gamma":
        return rng.gamma(shape, 1 / shape, n)
    return rng.weibull(shape, n) / math.gamma(1 + 1 / shape)


def _lengths(histograms: list[Histogram], window: NDArray[np.intp], rng: np.random.Generator) -> IntArray:
    lengths = np.empty(len(window), np.int64)
    for number in np.unique(window).tolist():
        rows = np.flatnonzero(window == number)
        lengths[rows] = histograms[number].sample(len(rows), rng)
    return lengths
