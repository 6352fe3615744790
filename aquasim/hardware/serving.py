"""What a serving engine adds to the kernels: a few constants per engine version, for any model, GPU and load."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import log2
from typing import Any, Literal

Sampling = Literal["greedy", "top-p"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Times of one engine version outside its kernels, in seconds.

    ahead: the next iteration is decided while one runs, so that the host's work hides behind the GPU's; a
        request that arrives during an iteration waits for the one after it as well.
    decode_s, mixed_s: time per iteration that the GPU waits for the host, without and with prefill chunks;
        sequence_s more for each sequence sampled (input preparation, detokenising), rank_s more for each
        doubling of the GPUs (sending inputs to workers, waiting for the slowest).
    idle_s: host time before the first iteration after idleness, when nothing hides it: scheduling, input
        preparation, launches.
    request_s: from the client's send to the engine and from the first token back: HTTP, tokenising,
        detokenising.
    top_p_start_s, top_p_s: choosing a token by top-p or top-k sorts the logits: per logit of the vocabulary
        once an iteration, and per logit of each sequence. Greedy choice needs neither.
    transfer_s: from a decision to move pages until their arrival is noted, beyond the copies themselves.
    padded: decodes attend together, each to as many tokens as the longest of them.
    """

    name: str
    ahead: bool
    decode_s: float
    mixed_s: float
    idle_s: float
    request_s: float
    top_p_start_s: float
    top_p_s: float
    source: str
    sequence_s: float = 0.0
    rank_s: float = 0.0
    transfer_s: float = 0.0
    padded: bool = False

    def host_s(self, tp: int) -> tuple[float, float]:
        """Return seconds per iteration on `tp` GPUs that the GPU waits, without and with chunks."""
        ranks = self.rank_s * log2(tp)
        return self.decode_s + ranks, self.mixed_s + ranks

    def sampling_s(self, sampling: Sampling, vocab: int) -> tuple[float, float]:
        """Return seconds per iteration and per sequence that choosing tokens takes beyond reading the logits."""
        if sampling == "greedy":
            return 0.0, self.sequence_s
        return self.top_p_start_s * vocab, self.sequence_s + self.top_p_s * vocab

    def with_overheads(self, decode_s: float | None, mixed_s: float | None) -> "Serving":
        """Return a copy with other host times per iteration (None keeps one). ValueError unless finite and >= 0."""
        for seconds in (decode_s, mixed_s):
            if seconds is not None and not 0 <= seconds < float("inf"):
                raise ValueError(f"overhead per iteration must be at least 0 seconds, is {seconds}")
        return replace(
            self,
            decode_s=self.decode_s if decode_s is None else decode_s,
            mixed_s=self.mixed_s if mixed_s is None else mixed_s,
        )


_VLLM = Serving(
    name="vllm-0.14",
    ahead=True,
    decode_s=0.0,
    mixed_s=0.0,
    idle_s=0.0048,
    request_s=0.0068,
    top_p_start_s=2e-9,
    top_p_s=7.5e-11,
    source=(
        "ahead, idle_s, request_s: time stamps of every token of a run of Qwen3-14B at 2 requests/s (vLLM 0.23, one "
        "H100): TTFT of requests that met an idle engine, and the earliest first tokens beside decodes. "
        "top_p: what decode iterations of models with a vocabulary of 128k and top-p in their generation config "
        "lack against ones of 32k, over batches of 9 to 87"
    ),
)

_VLLM_ENGINE = replace(
    _VLLM,
    name="vllm-0.14-engine",
    request_s=0.0,
    source="as vllm-0.14; times as the engine itself notes them, without server and client",
)

_VLLM_012 = replace(
    _VLLM,
    name="vllm-0.12",
    ahead=False,
    decode_s=0.00085,
    mixed_s=0.0081,
    sequence_s=0.000033,
    idle_s=0.0,
    request_s=0.005,
    source="40 closed loops of Qwen3-32B on H100 (aiconfigurator); top_p as vllm-0.14; request_s: assumption",
)
_VLLM_05 = replace(
    _VLLM_012,
    name="vllm-0.5",
    decode_s=0.00133,
    mixed_s=0.00133,
    rank_s=0.00105,
    sequence_s=0.000066,
    request_s=0.0,
    source="116 static batches on H100 (LLM-Inference-Bench, 2024); too few prefills to tell mixed_s apart",
)
_VLLM_02 = replace(
    _VLLM_05,
    name="vllm-0.2",
    decode_s=0.0044,
    mixed_s=0.012,
    rank_s=0.0052,
    sequence_s=0.000295,
    source="111 static batches on A100 and H100 (splitwise-sim, 2023): no CUDA graphs, workers under Ray",
)
_TENSORRT_011 = replace(
    _VLLM_05,
    name="tensorrt-llm-0.11",
    decode_s=0.00098,
    mixed_s=0.00098,
    rank_s=0.0003,
    sequence_s=0.000024,
    source="168 static batches on H100 (LLM-Inference-Bench, 2024); mixed_s as decode_s",
)
_TENSORRT_10 = replace(
    _VLLM_012,
    name="tensorrt-llm-1.0",
    ahead=True,
    decode_s=0.00045,
    mixed_s=0.0054,
    sequence_s=0.000015,
    source="98 closed loops of Llama-3.1-8B on H100 (aiconfigurator); overlap scheduler; request_s: assumption",
)
_SGLANG_05 = replace(
    _VLLM_012,
    name="sglang-0.5",
    ahead=True,
    decode_s=0.00078,
    mixed_s=0.023,
    sequence_s=0.000012,
    source=(
        "39 closed loops of Qwen3-32B on H100 (aiconfigurator); mixed_s also holds its slower prefill kernels; "
        "request_s: assumption"
    ),
)

_SWIFTLLM = replace(
    _VLLM_ENGINE,
    name="swiftllm",
    ahead=False,
    idle_s=0.0,
    top_p_start_s=0.0,
    top_p_s=0.0,
    source="NEO's engine; what its iterations take beyond kernels is in the layer times of the T4 and A10G profiles",
)

SERVING = {
    serving.name: serving
    for serving in (
        _VLLM, _VLLM_ENGINE, _VLLM_012, _VLLM_05, _VLLM_02, _TENSORRT_011, _TENSORRT_10, _SGLANG_05,
        _SWIFTLLM,
    )
}  # fmt: skip
DEFAULT = _VLLM
"""vLLM with asynchronous scheduling, its default since 0.14."""


def measured_serving(name: str, block: dict[str, Any]) -> Serving:
    """Return our own engine as a profile's block `runtime` has it; an empty one takes no time."""
    times = block.get("serving", {})
    return replace(
        _VLLM_ENGINE,
        name=name,
        ahead=False,
        decode_s=float(times.get("decode_s", 0.0)),
        mixed_s=float(times.get("mixed_s", 0.0)),
        idle_s=0.0,
        top_p_start_s=0.0,
        top_p_s=0.0,
        transfer_s=float(times.get("transfer_s", 0.0)),
        padded=bool(block.get("padded", False)),
        source=str(block.get("source", "not measured")),
    )


def load_serving(name: str) -> Serving:
    """Return the engine version `name`; ValueError, naming the known ones, if there is none."""
    if name not in SERVING:
        near = get_close_matches(name, SERVING, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown engine version {name!r}; {hint}known: {', '.join(SERVING)}")
    return SERVING[name]
