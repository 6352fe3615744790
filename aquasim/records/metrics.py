"""Metrics: numpy folds over the tables of a run. Nothing is counted while it runs.

Per request, in seconds (undefined where an end of the interval did not happen):

- queue: from arrival to the start of the step with its first chunk.
- TTFT, time to first token: from arrival to the end of the step that made its first token.
- TPOT, time per output token: from first token to finish over (output tokens - 1); undefined for one token.
- RCT, request completion time (end to end): from arrival to finish.
- normalised latency: RCT over output tokens.

Percentiles and means of these are over finished requests; those rejected or aborted count in the attainment
of an SLO (as not met) and in the token counts.

Per token: ITL, inter-token latency, is the time between the ends of the consecutive iterations that made
tokens of one request, over every token but each request's first, whatever lay between (preemption, paging,
prompts of others). It is the exact distribution, over finished and aborted requests.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aquasim.records.stats import Floats, Ints, Progressions, jain, percentiles
from aquasim.records.tables import Outcome
from aquasim.records.tokens import account, durations, gather

if TYPE_CHECKING:
    from aquasim.records.run import Run

SLO_KEYS = ("ttft_s", "tpot_s", "rct_s", "normalised_s", "queue_s")
"""What an SLO may bound, per request."""

NS = 1e9


def summarise(run: "Run", slo: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return a run in numbers: seconds, tokens, bytes; None where undefined.

    Args:
        run: the run.
        slo: upper bounds in seconds (keys: `SLO_KEYS`). With it come `slo_attainment`, the share of all
            requests (rejected and aborted ones included) that finished within every bound, and
            `goodput_rps`, such requests per second of makespan.
    """
    requests = run.columns("requests")
    times = request_times(run)
    finished = requests["outcome"] == Outcome.FINISHED
    seconds = makespan(run)
    summary = {
        **_counts(run, seconds),
        **_latencies(times, finished),
        **_tokens(run),
        "fairness_jain": _fairness(times["normalised_s"][finished]),
        **_engines(run, seconds),
        "paged_bytes": paged_bytes(run),
        "links": run.meta.get("links"),
    }
    if slo:
        summary |= _goodput(times, finished, slo, seconds)
    return summary


def makespan(run: "Run") -> float | None:
    """Seconds from the first arrival to the last end of a request; None without any request.

    The one time base of rates, of engines' `busy` and of links' `share`.
    """
    requests = run.columns("requests")
    if not len(requests["arrival_ns"]):
        return None
    return float(requests["finished_ns"].max() - requests["arrival_ns"].min()) / NS


def request_times(run: "Run") -> dict[str, Floats | Ints]:
    """Return each request's times in seconds (NaN where undefined) and its preemptions, in table order."""
    requests = run.columns("requests")
    arrival, end = requests["arrival_ns"], requests["finished_ns"]
    first, output = requests["first_token_ns"], requests["output_tokens"]
    finished = requests["outcome"] == Outcome.FINISHED
    rct = np.where(finished, (end - arrival) / NS, np.nan)
    return {
        "arrival_s": arrival / NS,
        "queue_s": _since(arrival, requests["admitted_ns"]),
        "ttft_s": _since(arrival, first),
        "tpot_s": np.where(
            finished & (output > 1) & (first >= 0), (end - first) / np.maximum(output - 1, 1) / NS, np.nan
        ),
        "rct_s": rct,
        "normalised_s": rct / np.maximum(output, 1),
        "preemptions": _preemptions(run),
    }


def paged_bytes(run: "Run") -> dict[str, int] | None:
    """Bytes paged per tier and direction.

    `<tier>_out`: from HBM to the tier; `<tier>_in`: back; `<tier>_migrate`: on to another tier, if any.

    Returns:
        None if blocks were moved but `run.meta["block_bytes"]` does not say how large one is.
    """
    transfers = run.columns("transfers")
    kinds, tiers = run.labels["kind"], run.labels["tier"]
    size = run.meta.get("block_bytes")
    if size is None and len(transfers["kind"]):
        return None
    code = transfers["tier"] * len(kinds) + transfers["kind"]
    rows = np.bincount(code, minlength=len(tiers) * len(kinds)).tolist()
    names = [f"{tier}_{kind}" for tier in tiers for kind in kinds]
    return {
        name: int(transfers["blocks"][code == index].sum()) * int(size or 0)
        for index, name in enumerate(names)
        if rows[index] or not name.endswith("_migrate")
    }


# --- per request -------------------------------------------------------------------------------------------


def _since(start: Ints, end: Ints) -> Floats:
    """Seconds from `start` to `end`, NaN where the end did not happen."""
    return np.where(end >= 0, (end - start) / NS, np.nan)


def _preemptions(run: "Run") -> Ints:
    """Return how often each request was preempted, in the order of the table of requests."""
    counts = np.zeros(run.count("requests"), np.int64)
    done = 0
    for engine in range(len(run.engines)):
        ids = run.columns("requests", engine)["request"]
        hit, times = np.unique(run.columns("preemptions", engine)["request"], return_counts=True)
        if len(hit) and len(ids):
            place = np.minimum(np.searchsorted(hit, ids), len(hit) - 1)
            counts[done : done + len(ids)] = np.where(hit[place] == ids, times[place], 0)
        done += len(ids)
    return counts


def _latencies(times: Mapping[str, Any], finished: Any) -> dict[str, float | None]:
    summary: dict[str, float | None] = {}
    for name in ("ttft", "tpot", "rct", "normalised", "queue"):
        values = times[f"{name}_s"][finished]
        values = values[~np.isnan(values)]
        some = len(values) > 0
        p50, p90, p99 = percentiles(values, (50, 90, 99)) if some else (None, None, None)
        mean = float(values.mean()) if some else None
        summary |= {f"{name}_p50": p50, f"{name}_p90": p90, f"{name}_p99": p99, f"{name}_mean": mean}
    return summary


def _fairness(normalised: Floats) -> float | None:
    """Jain's index over finished requests of output tokens per second from arrival to finish."""
    normalised = normalised[normalised > 0]
    return jain(1 / normalised) if len(normalised) else None


def _goodput(
    times: Mapping[str, Any], finished: Any, slo: Mapping[str, float], makespan: float | None
) -> dict[str, float | None]:
    """Judge requests by an SLO. A bound on what is undefined for a finished request is met."""
    met = finished.copy()
    for key, bound in slo.items():
        if key not in SLO_KEYS:
            raise ValueError(f"unknown SLO bound {key!r}; known: {', '.join(SLO_KEYS)}")
        met &= ~(times[key] > bound)
    count = int(met.sum())
    return {
        "slo_attainment": count / len(met) if len(met) else None,
        "goodput_rps": count / makespan if makespan else None,
    }


# --- the whole run -----------------------------------------------------------------------------------------


def _counts(run: "Run", makespan: float | None) -> dict[str, Any]:
    """Requests by outcome, tokens, and both per second of makespan."""
    requests = run.columns("requests")
    done, rejected, aborted = np.bincount(requests["outcome"], minlength=len(Outcome)).tolist()
    generated = int(requests["output_tokens"].sum())
    ran = requests["admitted_ns"] >= 0
    cached = int(requests["cached_tokens"].sum())
    prompt = int(requests["prompt_tokens"][ran].sum())
    return {
        "requests": done + rejected + aborted,
        "requests_done": done,
        "requests_rejected": rejected,
        "requests_aborted": aborted,
        "makespan_s": makespan,
        "generated_tokens": generated,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "throughput_tok_s": generated / makespan if makespan else None,
        "total_tok_s": (generated + prompt) / makespan if makespan else None,
        "request_rate": done / makespan if makespan else None,
        "preemptions": run.count("preemptions"),
    }


def _tokens(run: "Run") -> dict[str, Any]:
    """Inter-token latencies, and tokens that were computed again."""
    tables = ("requests", "steps", "spans", "chunks")
    accounts = [account(*(run.columns(t, engine) for t in tables)) for engine in range(len(run.engines))]
    gaps = Progressions.join([each.gaps for each in accounts])
    some = gaps.total() > 0
    p50, p90, p99 = [gap / NS for gap in gaps.percentiles((50, 90, 99))] if some else (None, None, None)
    return {
        "itl_p50": p50,
        "itl_p90": p90,
        "itl_p99": p99,
        "itl_max": gaps.max() / NS if some else None,
        "itl_mean": gaps.mean() / NS if some else None,
        "recomputed_tokens": sum(each.recomputed for each in accounts),
    }


def _engines(run: "Run", makespan: float | None) -> dict[str, Any]:
    """How the engines were used. All but the peaks and counts are means weighted by the time of steps.

    `busy`: time in steps over makespan, per engine (its mean over engines). `kv_mean`, `kv_peak`: share of
    HBM blocks not free at the ends of steps, by `run.meta["blocks"]`. `batch_mean`: decoding sequences.
    """
    steps = run.columns("steps")
    if not len(steps["step"]):
        return dict.fromkeys(("busy", "batch_mean", "kv_mean", "kv_peak")) | dict.fromkeys(
            ("iterations", "steps", "waiting_peak", "paged_peak"), 0
        )
    names = ("first_ns", "growth_ns", "iterations", "batch", "free_blocks", "waiting", "paged")
    first, growth, iterations, batch, free, waiting, paged = gather(steps, names)
    lasted = durations(first, growth, iterations).astype(np.float64)
    total = float(lasted.sum())
    kv_mean, kv_peak = _kv(run, steps["engine"], free, lasted)
    return {
        "busy": total / NS / makespan / len(run.engines) if makespan else None,
        "batch_mean": _mean(batch, lasted),
        "kv_mean": kv_mean,
        "kv_peak": kv_peak,
        "iterations": int(iterations.sum()),
        "steps": len(lasted),
        "waiting_peak": int(waiting.max()),
        "paged_peak": int(paged.max()),
    }


def _kv(run: "Run", engine: Ints, free: Ints, lasted: Floats) -> tuple[float | None, float | None]:
    blocks = run.meta.get("blocks")
    if blocks is None:
        return None, None
    if isinstance(blocks, Mapping):
        blocks = np.array([blocks[engine] for engine in run.engines])[engine]
    used = 1 - free / blocks
    return _mean(used, lasted), float(used.max())


def _mean(values: Any, weights: Floats) -> float | None:
    """Weighted mean; None if nothing lasted."""
    total = float(weights.sum())
    return float(np.dot(values, weights)) / total if total else None
