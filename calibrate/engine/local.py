"""Measures this machine for one scenario's engine, and keeps the profile in the user's cache."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from aquasim.calibrate.engine.points import Point, Ranges, points_for
from aquasim.calibrate.lines import round_to
from aquasim.hardware import local
from aquasim.hardware.profile import Profile, load_profile
from aquasim.models import Model

Show = Callable[[str, int, int], None]
ROUNDS = {True: 6, False: 24}
"""How often each iteration is timed, quick or not; the first time around warms up and does not count."""
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


def calibrate_local(
    model: Model, ranges: Ranges, device: str = "cpu", *, quick: bool = True, show: Show | None = None,
    rounds: int | None = None,
) -> Path:  # fmt: skip
    """Measure kernels, copies and our own engine with `model`; write this machine's profile and return its file.

    Raises:
        UserError: torch is missing, or the cache's folder cannot be written.
    """
    from aquasim.runtime.local.threads import use_threads

    general = _general(device, quick, show)
    threads = use_threads()
    block = {**general, "name": local.LOCAL, "runtime": {}}
    block["runtime"] = runtime_block(model, ranges, device, rounds or ROUNDS[quick], show)
    block["runtime"] |= {"threads": threads, "machine": local.machine()}
    _take_links(block)
    return store(block, local.cached_path(model, device))


def store(block: dict[str, Any], path: Path) -> Path:
    """Write a profile, whole or not at all."""
    from aquasim.errors import UserError
    from aquasim.records.atomic import new_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part:
            part.write_text(local.text_of(block), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def ensure(model: Model, ranges: Ranges, device: str, show: Show | None = None) -> tuple[Profile, bool]:
    """Return this machine's profile for a model, measured now if none covers `ranges`, and whether it was."""
    found = local.load_cached(model, device)
    if found is not None and Ranges(*found.blocks["runtime"]["ranges"]).covers(ranges):
        return found, False
    return load_profile(calibrate_local(model, ranges, device, show=show)), True


def runtime_block(
    model: Model, ranges: Ranges, device: str, rounds: int, show: Show | None
) -> dict[str, Any]:
    """Measure our engine with `model`: iterations, what lies between them, and transfers of pages."""
    from aquasim.calibrate.engine.between import overheads, transfers
    from aquasim.calibrate.engine.fit import fit_steps, level
    from aquasim.calibrate.engine.rig import Rig

    points = points_for(ranges)
    rig = Rig(model, ranges, device, DTYPES[device])
    try:
        order, seconds, probes = _time_points(rig, points, rounds, show)
        decode_s, mixed_s = overheads(rig)
        pages = {
            tier: transfers(rig, tier, backend) for tier, backend in (("host", "host"), ("peer", "memfd"))
        }
    finally:
        rig.close()
    flat = level(order, seconds, probes)
    medians = np.array([np.median(flat.seconds[order == i]) for i in range(len(points))])
    starts = [start for found in pages.values() for start, _ in found.values()]
    size = rig.pool.block_bytes
    return {
        "version": local.VERSION,
        "model": {"name": model.name, "shape": local.shape_of(model)},
        "ranges": list(ranges),
        "itemsize": rig.itemsize,
        "padded": device == "cpu",
        "probe": {"seconds": round_to(flat.reference), "power": round(flat.power, 3)},
        "step": fit_steps(points, medians),
        "serving": {
            "decode_s": round_to(max(0.0, decode_s)),
            "mixed_s": round_to(max(0.0, mixed_s)),
            "transfer_s": round_to(float(np.median(starts))),
        },
        "pages": {
            t: {k: round_to(size / each) for k, (_, each) in found.items()} for t, found in pages.items()
        },
        "source": f"iterations of {model.name} by aquasim's own engine, {time.strftime('%Y-%m-%d', time.gmtime())}",
    }


def _time_points(rig: Any, points: list[Point], rounds: int, show: Show | None) -> tuple[Any, Any, Any]:
    """Time every iteration once a round, in another order each time; return which, seconds and probes."""
    random = Random(0)
    order: list[int] = []
    timed: list[tuple[float, float]] = []
    for round_ in range(rounds + 1):
        numbers = list(range(len(points)))
        random.shuffle(numbers)
        for number in numbers:
            found = rig.step(points[number])
            if round_:
                order.append(number)
                timed.append(found)
        if show is not None:
            show("engine", round_ + 1, rounds + 1)
    seconds, probes = np.array(timed).T
    return np.array(order), seconds, probes


def _general(device: str, quick: bool, show: Show | None) -> dict[str, Any]:
    """Return a profile of kernels and copies, as `aquasim calibrate` makes it."""
    from aquasim.calibrate.assemble import build_profile
    from aquasim.calibrate.bench.bench import Bench
    from aquasim.calibrate.bench.run import Runner, pieces_for
    from aquasim.calibrate.importers import read_paths
    from aquasim.calibrate.samples import by_operator

    bench = Bench(device, quick=quick)
    with tempfile.TemporaryDirectory(prefix="aquasim-") as folder:
        runner = Runner(bench, Path(folder) / "samples", None, show or (lambda operator, done, total: None))
        runner.run(pieces_for(bench)[0])
        samples, _ = read_paths([Path(folder) / "samples"])
        return build_profile(local.LOCAL, by_operator(samples))


def _take_links(block: dict[str, Any]) -> None:
    """Let pages travel at the rates that the pager reached."""
    pages = block["runtime"]["pages"]
    rates = {
        "pcie_d2h": pages["host"]["out"],
        "pcie_h2d": pages["host"]["in"],
        "nvlink": min(pages["peer"].values()),
    }
    for name, rate in rates.items():
        source = "blocks by the runtime's own pager"
        block["links"][name] = {
            "bytes_per_s": rate,
            "start_s": 0.0,
            "peak_bytes_per_s": rate,
            "source": source,
        }
    top = max(*rates.values(), block["links"]["host_dram"]["bytes_per_s"])
    block["links"]["host_dram"] |= {"bytes_per_s": top, "peak_bytes_per_s": top}
