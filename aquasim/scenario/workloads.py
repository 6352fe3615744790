"""From a scenario's `[workload]` table to a workload."""

from dataclasses import replace
from pathlib import Path

from aquasim.errors import UserError
from aquasim.scenario import schema
from aquasim.workload import (
    Adapters,
    Arrivals,
    AtOnce,
    ClosedLoop,
    FixedGap,
    FixedLength,
    Gamma,
    Histogram,
    Lengths,
    Lognormal,
    Piecewise,
    Poisson,
    SharedPrefix,
    Uniform,
    Workload,
    read_trace,
    stand_in,
    synthetic,
)
from aquasim.workload.streams import stream


def make_workload(table: schema.WorkloadTable, seed: int, block_size: int) -> Workload:
    """Return the workload that a table describes.

    Raises:
        UserError: the table contradicts itself, or the trace cannot be read.
    """
    try:
        workload = _make(table, seed, block_size)
        if table.cap is not None:
            workload = replace(workload, cap=table.cap)
        if table.adapters is not None:
            workload = Adapters(table.adapters.count, table.adapters.zipf).assign(workload, seed)
        return workload
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"workload: {error}" if ":" not in str(error)[:200] else str(error)) from None


def _make(table: schema.WorkloadTable, seed: int, block_size: int) -> Workload:
    arrivals = _arrivals(table.arrivals) if table.arrivals is not None else None
    if table.path is not None:
        return _trace(table, arrivals, seed)
    if table.stand_in is not None:
        _refuse(table, "a stand_in", _UNUSED_BY_STAND_INS)
        workload = stand_in(table.stand_in, table.requests or 1000, seed)
        if arrivals is not None:
            workload = workload.arriving(arrivals.times(len(workload), stream(seed, "arrivals")))
        return workload if table.rate_scale == 1 else workload.scaled(rate=table.rate_scale)
    if arrivals is None or table.prompt is None or table.output is None:
        raise UserError("workload: give path, stand_in, or all of arrivals, prompt and output")
    if table.requests is None and table.duration_s is None:
        raise UserError("workload: give requests or duration_s, so that the workload ends")
    _refuse(table, "a synthetic workload", _UNUSED_BY_SYNTHETIC)
    shared = table.shared_prefix
    return synthetic(
        arrivals,
        _lengths(table.prompt),
        _lengths(table.output),
        requests=table.requests,
        duration=table.duration_s,
        seed=seed,
        shared_prefix=SharedPrefix(shared.groups, shared.tokens, shared.zipf, block_size) if shared else None,
    )


_DESCRIBED = ("stand_in", "prompt", "output", "shared_prefix")
"""What a trace stands over."""
_OF_TRACES = dict.fromkeys(("format", "tokenizer", "model", "start_s"), "it is for a trace given by path")
_UNUSED_BY_STAND_INS = _OF_TRACES | {
    "duration_s": "requests says where it ends",
    "prompt": "its lengths are the trace's; for others leave out stand_in",
    "output": "its lengths are the trace's; for others leave out stand_in",
    "shared_prefix": "its prefixes are the trace's; for others leave out stand_in",
}
_UNUSED_BY_SYNTHETIC = _OF_TRACES | {
    "rate_scale": "arrivals say how fast requests come, for example arrivals.rate"
}


def _refuse(table: schema.WorkloadTable, what: str, unused: dict[str, str]) -> None:
    """Refuse keys that would change nothing; a trace by `path` may stand over whatever a file describes."""
    for key, instead in unused.items():
        if getattr(table, key) != schema.WorkloadTable.model_fields[key].default:
            raise UserError(f"workload.{key}: does nothing for {what}; {instead}")


def _trace(table: schema.WorkloadTable, arrivals: Arrivals | None, seed: int) -> Workload:
    assert table.path is not None
    workload = read_trace(
        Path(table.path).expanduser(),
        format=table.format,
        limit=table.requests,
        rate_scale=table.rate_scale,
        seed=seed,
        tokenizer=table.tokenizer,
        start=table.start_s,
        duration=table.duration_s,
        arrivals=arrivals,
        model=table.model,
    )
    if unused := [key for key in _DESCRIBED if getattr(table, key) is not None]:
        note = f"workload.{', '.join(unused)}: not used, {table.path} says what is requested"
        workload = replace(workload, notes=(*workload.notes, note))
    return workload


def _arrivals(table: schema.ArrivalsTable) -> Arrivals:
    match table:
        case schema.PoissonTable():
            return Poisson(table.rate)
        case schema.GammaTable():
            return Gamma(table.rate, table.cv)
        case schema.FixedGapTable():
            return FixedGap(table.gap_s)
        case schema.PiecewiseTable():
            return Piecewise(table.phases, repeat=table.repeat)
        case schema.AtOnceTable():
            return AtOnce(table.at_s)
        case schema.ClosedLoopTable():
            return ClosedLoop(table.cap, table.ramp_s)


def _lengths(table: schema.LengthTable) -> Lengths:
    match table:
        case schema.FixedLengthTable():
            return FixedLength(table.tokens)
        case schema.UniformTable():
            return Uniform(table.low, table.high)
        case schema.LognormalTable():
            known = {k: v for k in ("mean", "median", "sigma", "std") if (v := getattr(table, k)) is not None}
            return Lognormal(**known, low=table.low, high=table.high)
        case schema.HistogramTable():
            return Histogram(table.values, table.weights)
