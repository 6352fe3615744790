"""Replays a measured run in the simulator and gathers the same statistics of it."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from aquasim.calibrate.validate.runs import Floats, Mask, MeasuredRun, Part, statistics
from aquasim.core import Limits, Scheduler, make_policy
from aquasim.hardware.cost import SHARED_SAVING, StepCost
from aquasim.hardware.memory import kv_blocks
from aquasim.hardware.profile import load_profile
from aquasim.hardware.serving import load_serving
from aquasim.hardware.throttle import Heat
from aquasim.models import load_model
from aquasim.records.run import Run
from aquasim.records.tables import Outcome, RunTables
from aquasim.records.tokens import account
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
from aquasim.sim.source import Source


@dataclass(frozen=True, eq=False)
class Replayed:
    """Simulated times of one run, seconds by metric and request (NaN where it did not end), and its records."""

    times: dict[str, Floats]
    ended: Mask
    run: Run

    def samples(self, part: Part, metric: str) -> Floats:
        """Return the metric's values over a part's requests that ended."""
        if metric == "itl":
            return np.asarray(_token_gaps(self.run))
        values = self.times[metric][part.counted & self.ended]
        return values[~np.isnan(values)]

    def statistics(self, part: Part, metric: str) -> dict[str, float]:
        """Return mean, p50, p90 and p99; for throughput the mean over the run."""
        if metric == "throughput":
            return {"mean": self._throughput()}
        return statistics(self.samples(part, metric))

    def _throughput(self) -> float:
        requests = self.run.columns("requests")
        span = requests["finished_ns"].max() - requests["arrival_ns"].min()
        return float(requests["output_tokens"].sum() / (span / 1e9))


def replay(measured: MeasuredRun) -> Replayed:
    """Simulate a run under fcfs as vLLM schedules. ValueError if model or profile are unknown or do not fit."""
    profile, model = load_profile(measured.profile), load_model(measured.model)
    serving = load_serving(measured.serving)
    limits = _limits(measured)
    cost = StepCost(
        profile,
        model,
        measured.tp,
        _largest_step(limits),
        serving=serving,
        sampling=measured.sampling,
    )
    clock, tables = Clock(), RunTables()
    delay_ns = round(serving.request_s * 1e9)
    source = Source(clock, measured.workload, limits.block_size, limits.prefix_caching, delay_ns)
    engine = Engine(
        clock,
        Scheduler(limits, make_policy("fcfs")),
        cost,
        tables,
        on_gone=source.gone,
        ahead=serving.ahead,
        heat=Heat(profile.throttle) if profile.throttle else None,
        idle_ns=round(serving.idle_s * 1e9),
        spared=limits.block_size * SHARED_SAVING if limits.prefix_caching else 0.0,
    )
    source.start(engine)
    if measured.timeout_s is not None:
        _time_out(clock, engine, measured.workload.arrival + delay_ns, measured.timeout_s)
    while clock.play():
        pass
    return _gather(Run([(measured.name, tables)], {}), len(measured.workload))


def _limits(measured: MeasuredRun) -> Limits:
    profile, model = load_profile(measured.profile), load_model(measured.model)
    blocks = measured.blocks or kv_blocks(
        profile,
        model,
        measured.tp,
        measured.block_size,
        measured.utilization,
        max_tokens=measured.max_num_batched_tokens,
        max_sequences=measured.max_num_seqs,
    )
    room = blocks * measured.block_size
    return Limits(
        blocks=blocks,
        block_size=measured.block_size,
        max_num_seqs=measured.max_num_seqs,
        max_num_batched_tokens=measured.max_num_batched_tokens,
        max_model_len=min(measured.max_model_len or model.max_position, room),
        prefix_caching=measured.prefix_caching,
        prefill=measured.prefill,
        max_repeat=1 << 30,
    )


def _largest_step(limits: Limits) -> int:
    """Return the most tokens of an iteration: prompts that are not chunked may exceed the budget."""
    longest = limits.max_model_len if limits.prefill == "prompt-only" else 0
    return max(limits.max_num_batched_tokens, longest) + limits.max_num_seqs


def _time_out(clock: Clock, engine: Engine, arrival: np.ndarray, seconds: float) -> None:
    """Have clients give their requests up `seconds` after these reached the engine (ns)."""
    after = round(seconds * 1e9)
    for request, when in enumerate(arrival.tolist()):
        clock.at(when + after, partial(_give_up, engine, request))


def _give_up(engine: Engine, request: int, _: object) -> None:
    engine.abort(request)


def _gather(run: Run, count: int) -> Replayed:
    requests = run.columns("requests")
    rows = np.argsort(requests["request"])
    assert len(rows) == count, "a request has no row"
    arrival, first, end = (requests[f"{name}_ns"][rows] for name in ("arrival", "first_token", "finished"))
    output = requests["output_tokens"][rows]
    ttft, e2e = (first - arrival) / 1e9, (end - arrival) / 1e9
    tpot = np.where(output > 1, (e2e - ttft) / np.maximum(output - 1, 1), np.nan)
    ended = requests["outcome"][rows] == int(Outcome.FINISHED)
    return Replayed({"ttft": ttft, "tpot": tpot, "e2e": e2e}, ended, run)


def _token_gaps(run: Run) -> Floats:
    """Return a thousand quantiles of the seconds between tokens, over all requests of the run."""
    columns = (run.columns(table) for table in ("requests", "steps", "spans", "chunks"))
    gaps = account(*columns).gaps
    return np.asarray(gaps.percentiles([(i + 0.5) / 10 for i in range(1000)])) / 1e9
