"""Short synthetic stand-ins for published traces, for when the trace itself is not at hand.

They resemble the trace's lengths, rate, burstiness and, for Mooncake, prefix reuse; they are not the trace,
and their notes say so. The quantiles below were measured on the published files:
Azure/AzurePublicDataset, AzureLLMInferenceTrace_{code,conv}.csv (2023, CC-BY-4.0; 8,819 and 19,366 requests),
kvcache-ai/Mooncake, conversation_trace.jsonl (Apache-2.0; 12,031 requests),
and NEO-MLSys25/NEO, evaluation/data (Apache-2.0; the 2,000 lengths of its OSC workload, which has no times).
"""

from typing import NamedTuple

import numpy as np

from aquasim.workload.lengths import FloatArray, Quantiles
from aquasim.workload.streams import stream
from aquasim.workload.table import NS, IntArray, Workload

# fmt: off
_LEVELS = (0, .01, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, .99, .995, .997, .998, .999, .9997, 1)

_CODE_PROMPT = (3, 17, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 3192, 5188, 7303, 7436, 7436, 7436, 7436,
    7436, 7437, 7437, 7437)
_CODE_OUTPUT = (6, 6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 171, 252, 359, 512, 670, 825, 932, 1899)
_CODE_GAP = (6e-6, 2.2e-5, 8.8e-5, 2.1e-4, .00118, .00329, .0151, .0638, .095, .1001, .1601, .2729, .4008,
    .7987, 2.205, 9.978, 28.09, 41.41, 79.23, 152.5, 217.2)

_CONVERSATION_PROMPT = (2, 29, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4098, 4142,
    4831, 5277, 5652, 6179, 7096, 14050)
_CONVERSATION_OUTPUT = (7, 16, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 540, 601, 643, 675, 917,
    954, 1000, 1000)
_CONVERSATION_GAP = (2e-6, 5.5e-4, .00632, .01614, .03652, .06072, .08725, .1184, .1587, .2136, .2888,
    .4207, .5652, .7493, .8897, 1.034, 1.171, 1.249, 1.411, 2.005, 4.315)

_OSC_PROMPT = (29, 174, 201, 232, 274, 307, 339, 371, 407, 441, 475, 514, 536, 551, 555, 559, 562, 565, 567, 580,
    589)
_OSC_OUTPUT = (15, 25, 33, 35, 38, 40, 43, 45, 47, 50, 53, 56, 59, 62, 65, 73, 80, 88, 92, 111, 129)

_MOONCAKE_FIRST = (891, 894, 897, 905, 1092, 1757, 3913, 5264, 7418, 10770, 15870, 25560, 38490, 67130,
    89870, 111600, 116100, 118500, 121200, 124200, 126200)
_MOONCAKE_NEW = (0, 0, 163, 305, 473, 590, 698, 829, 992, 1679, 5018, 9741, 14690, 20590, 26700, 32600,
    36670, 41910, 54160, 84820, 94970)
_MOONCAKE_KEPT = (.0149, .0565, .1429, .36, .6667, .8, .8889, .9167, .9375, .9565, .9706, .9818, .9908, 1,
    1, 1, 1, 1, 1, 1, 1)
_MOONCAKE_PAUSE = (0, 12, 30, 42, 60, 75, 96, 123, 162, 222, 318, 483, 615, 1031, 1477, 1908, 2168, 2294,
    2639, 2960, 3030)
_MOONCAKE_OUTPUT = (1, 3, 10, 24, 100, 213, 291, 350, 399, 447, 504, 597, 698, 892, 1119, 1568, 1987, 2000,
    2000, 2000, 2000)
# fmt: on


class _Azure(NamedTuple):
    """Quantiles at `_LEVELS`: gaps in seconds, lengths in tokens; rate is the trace's requests per second."""

    rate: float
    gap: tuple[float, ...]
    prompt: tuple[float, ...]
    output: tuple[float, ...]


_AZURE = {
    "azure-code": _Azure(2.567, _CODE_GAP, _CODE_PROMPT, _CODE_OUTPUT),
    "azure-conversation": _Azure(5.530, _CONVERSATION_GAP, _CONVERSATION_PROMPT, _CONVERSATION_OUTPUT),
}

STAND_INS = (*_AZURE, "mooncake-conversation", "osc")
"""The kinds that `stand_in` knows."""

_MOONCAKE_RATE = 3.401
_MOONCAKE_BLOCK = 512
_MOONCAKE_CONTINUED = 0.457
"""Share of requests that continue an earlier one. In the trace 0.387 do; more here, because long sessions go
on more often in the trace than in this model, and the share of reused blocks is what was matched."""


def stand_in(kind: str, n: int, seed: int = 0) -> Workload:
    """Return `n` requests that resemble a published trace; `kind` is one of `STAND_INS`.

    azure-code, azure-conversation: independent gaps and lengths with the trace's quantiles. The real gaps are
    weakly correlated (lag-1 correlation of their logarithms 0.11 and 0.03).
    mooncake-conversation: sessions of several turns over 512-token blocks. A turn keeps a part of an earlier
    turn's blocks and adds new ones; every request shares one first block, as in the trace. With a cache that
    forgets nothing, 36.6 % of the trace's blocks are found there (28.9 % in the first 2,000 requests); here
    36.6 % in 12,031 requests and 27 % in 2,000, averages over seeds with standard deviations of 0.5 and 1 %.
    osc: lengths only (prompts of 372 tokens, outputs of 45 on average), all at time 0: give arrivals.
    Raises ValueError when `kind` is unknown or `n` < 1.
    """
    if kind not in STAND_INS:
        raise ValueError(f"stand-in {kind!r} is unknown, valid: {', '.join(STAND_INS)}")
    if n < 1:
        raise ValueError(f"n is {n}, a whole number >= 1 is needed")
    notes = (f"synthetic stand-in, not the trace: {kind}, seed {seed}",)
    if kind in _AZURE:
        return _azure(_AZURE[kind], n, seed, kind, notes)
    if kind == "osc":
        prompt = Quantiles(_LEVELS, _OSC_PROMPT).sample(n, stream(seed, "prompt"))
        output = Quantiles(_LEVELS, _OSC_OUTPUT).sample(n, stream(seed, "output"))
        return Workload(np.zeros(n, np.int64), prompt, output, name=kind, notes=notes)
    return _mooncake(n, seed, kind, notes)


def _azure(model: _Azure, n: int, seed: int, name: str, notes: tuple[str, ...]) -> Workload:
    gap = Quantiles(_LEVELS, model.gap)
    # Straight lines between quantiles overestimate a convex tail: scaled, the mean gap is the trace's.
    seconds = np.cumsum(gap.draw(n, stream(seed, "arrivals"))) / (gap.mean * model.rate)
    prompt = Quantiles(_LEVELS, model.prompt).sample(n, stream(seed, "prompt"))
    output = Quantiles(_LEVELS, model.output).sample(n, stream(seed, "output"))
    return Workload(np.rint(seconds * NS).astype(np.int64), prompt, output, name=name, notes=notes)


def _mooncake(n: int, seed: int, name: str, notes: tuple[str, ...]) -> Workload:
    seconds = np.cumsum(stream(seed, "arrivals").exponential(1 / _MOONCAKE_RATE, n))
    prompt, prefix = _turns(seconds, seed)
    output = Quantiles(_LEVELS, _MOONCAKE_OUTPUT).sample(n, stream(seed, "output"))
    return Workload(
        np.rint(seconds * NS).astype(np.int64),
        prompt,
        output,
        prefix=prefix,
        prefix_block=_MOONCAKE_BLOCK,
        name=name,
        notes=notes,
    )


def _turns(seconds: FloatArray, seed: int) -> tuple[IntArray, list[tuple[int, ...]]]:
    """Return prompts and chain hashes: each request opens a session or goes on from an earlier request."""
    n = len(seconds)
    lengths, links = stream(seed, "prompt"), stream(seed, "prefix")
    first = Quantiles(_LEVELS, _MOONCAKE_FIRST).sample(n, lengths)
    new = Quantiles(_LEVELS, _MOONCAKE_NEW).sample(n, lengths)
    kept = Quantiles(_LEVELS, _MOONCAKE_KEPT).draw(n, links)
    parent = _parents(seconds, links)
    prompt = first
    prefix: list[tuple[int, ...]] = []
    fresh = 1
    for i in range(n):
        # Block 0 is common to all.
        old: tuple[int, ...] = (0,)
        if parent[i] >= 0:
            before = prefix[parent[i]]
            old = before[: max(1, round(kept[i] * len(before)))]
            prompt[i] = len(old) * _MOONCAKE_BLOCK + new[i]
        added = -(-int(prompt[i]) // _MOONCAKE_BLOCK) - len(old)
        prefix.append(old + tuple(range(fresh, fresh + added)))
        fresh += added
    return prompt, prefix


def _parents(seconds: FloatArray, rng: np.random.Generator) -> IntArray:
    """Return the request that each one continues, -1 for one that opens a session.

    A session goes on after a pause; the pause leads back to whichever request arrived then. One that would
    have been before the first request opens a session, so reuse grows from nothing, as in the trace.
    """
    n = len(seconds)
    pause = Quantiles(_LEVELS, _MOONCAKE_PAUSE).draw(n, rng)
    earlier = np.searchsorted(seconds, seconds - pause, side="right") - 1
    goes_on = rng.random(n) < _MOONCAKE_CONTINUED
    return np.where(goes_on, np.minimum(earlier, np.arange(n) - 1), -1)
