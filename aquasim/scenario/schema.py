"""The keys of a scenario file. Every table refuses unknown keys; units are in the names."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=10**9)]
Requests = Annotated[int, Field(ge=1, le=10**8)]
"""More do not fit in the memory of a machine, at some hundred bytes each."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Names become folders."""


class Table(BaseModel):
    """A table of a scenario file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=True)


class ModelTable(Table):
    """`[model]`: a known name or the path of a Hugging Face config.json, and the tensor-parallel degree."""

    name: Annotated[str, Field(min_length=1)]
    """A known model, or the path of a Hugging Face config.json."""
    tp: Literal[1, 2, 4, 8] = 1
    """GPUs that share it: the tensor-parallel degree."""


class MachineTable(Table):
    """`[machine]`: the server, the GPUs the engine runs on, and the peers that lend it memory."""

    server: str
    """A known server, for example 8xH100."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """One per rank; the first `tp` ones if left out."""
    donors: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The GPU whose memory each rank may use, in the order of `gpus`."""
    peer_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Memory lent by each donor, of which there is one per rank."""
    host_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Pinned host memory for pages, per GPU."""
    host_cores: Annotated[int, Field(ge=1)] | None = None
    """Cores for decode attention on the host; the server's if left out."""
    host_gbs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """GB/s that attention reads from host memory; the server's if left out."""
    link_gbs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """GB/s of NVLink between GPUs, each way; as measured if left out."""
    pcie_gbs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """GB/s of each GPU's link to host memory, each way; as measured if left out."""
    profile: str | None = None
    """Hardware profile to use instead of the server's GPU: a name, or a path of a JSON file."""


class EngineTable(Table):
    """`[engine]`: limits of the serving engine, named as in vLLM."""

    block_size: Positive = 16
    """Tokens of a KV block."""
    max_num_seqs: Positive = 256
    """Requests that run at once; policies that page displace for a seat too."""
    max_num_batched_tokens: Positive = 2048
    """Tokens of an iteration: decodes and prompts."""
    max_model_len: Annotated[int, Field(ge=0)] = 0
    """0: what the model allows and memory holds."""
    long_prefill_token_threshold: Annotated[int, Field(ge=0)] = 0
    """Tokens of one prompt in an iteration, where others wait; 0: no limit."""
    prefix_caching: bool = False
    """Whether blocks of prompts that begin alike are shared."""
    prefill: Literal["chunked", "prompt-only"] = "chunked"
    """Prompts in chunks beside decodes, or in iterations of their own."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of HBM for weights, activations and the KV cache."""
    kv_blocks: Positive | None = None
    """KV blocks in HBM; computed from the GPU's memory if left out."""
    version: str = "vllm-0.14"
    """Engine whose overheads outside kernels apply (`aquasim.hardware.serving`)."""
    sampling: Literal["greedy", "top-p"] = "greedy"
    """How tokens are chosen: top-p (and top-k) sort the logits, greedy does not."""
    decode_overhead_s: Annotated[float, Field(ge=0, le=10)] | None = None
    """Host time per iteration without chunks; the version's if left out."""
    mixed_overhead_s: Annotated[float, Field(ge=0, le=10)] | None = None
    """Host time per iteration with chunks; the version's if left out."""


class PoissonTable(Table):
    """Independent arrivals, `rate` per second."""

    kind: Literal["poisson"]
    rate: Rate


class GammaTable(Table):
    """Gamma-distributed gaps: `rate` per second, coefficient of variation `cv`."""

    kind: Literal["gamma"]
    rate: Rate
    cv: Rate


class FixedGapTable(Table):
    """One arrival every `gap_s` seconds."""

    kind: Literal["fixed"]
    gap_s: Rate


class PiecewiseTable(Table):
    """Bursts: `phases` of [rate per second, seconds], Poisson within each."""

    kind: Literal["piecewise"]
    phases: tuple[tuple[Annotated[float, Field(ge=0)], Rate], ...] = Field(min_length=1)
    repeat: bool = False
    """Begin again after the last phase; else its rate goes on."""


class AtOnceTable(Table):
    """Everything arrives at `at_s`."""

    kind: Literal["at-once"]
    at_s: Seconds = 0.0


class ClosedLoopTable(Table):
    """`cap` requests open at any time; the first ones start over `ramp_s` seconds."""

    kind: Literal["closed-loop"]
    cap: Positive
    ramp_s: Seconds = 0.0


ArrivalsTable = Annotated[
    PoissonTable | GammaTable | FixedGapTable | PiecewiseTable | AtOnceTable | ClosedLoopTable,
    Field(discriminator="kind"),
]


class FixedLengthTable(Table):
    """Always `tokens`."""

    kind: Literal["fixed"]
    tokens: Tokens


class UniformTable(Table):
    """Whole numbers from `low` to `high`, both included."""

    kind: Literal["uniform"]
    low: Tokens
    high: Tokens


class LognormalTable(Table):
    """Lognormal by (`mean` or `median`) and (`sigma` or `std`), kept within `low` and `high`."""

    kind: Literal["lognormal"]
    mean: Rate | None = None
    median: Rate | None = None
    sigma: Seconds | None = None
    std: Seconds | None = None
    low: Tokens = 1
    high: Tokens | None = None


class HistogramTable(Table):
    """One of `values`, with `weights`."""

    kind: Literal["histogram"]
    values: tuple[Tokens, ...]
    weights: tuple[Seconds, ...]


LengthTable = Annotated[
    FixedLengthTable | UniformTable | LognormalTable | HistogramTable, Field(discriminator="kind")
]


class SharedPrefixTable(Table):
    """System prompts in common: `groups` of them, `tokens` long, chosen by Zipf's law with exponent `zipf`."""

    groups: Positive
    tokens: Tokens
    zipf: Seconds = 0.0


class AdaptersTable(Table):
    """LoRA adapters: `count` of them, one per request, chosen by Zipf's law with exponent `zipf` (0: evenly)."""

    count: Positive
    zipf: Seconds = 0.0


class WorkloadTable(Table):
    """`[workload]`: a trace by `path`, a `stand_in` for one, or synthetic `arrivals`, `prompt` and `output`.

    With `path` or `stand_in` and `arrivals`, lengths come from the trace and times from the arrivals. `path` stands
    over what else describes requests; other keys that would do nothing are refused.
    """

    path: Annotated[str, Field(min_length=1)] | None = None
    """A trace's file, from the current folder."""
    format: str = "auto"
    """Of the trace: csv (arrival_s, prompt_tokens, output_tokens), lengths, azure, burstgpt, mooncake, ..."""
    stand_in: str | None = None
    """Drawn lengths with the quantiles of a published trace, for example azure-code."""
    requests: Requests | None = None
    """At most this many."""
    duration_s: Rate | None = None
    """Requests that arrive within so many seconds."""
    start_s: Seconds | None = None
    """Where in the trace to begin."""
    rate_scale: Rate = 1.0
    """Trace times are divided by it."""
    tokenizer: str | None = None
    """A tokenizer.json, for sharegpt."""
    model: str | None = None
    """Requests to this model, for burstgpt."""
    cap: Positive | None = None
    """At most this many requests open at once (a client's limit)."""
    arrivals: ArrivalsTable | None = None
    prompt: LengthTable | None = None
    output: LengthTable | None = None
    shared_prefix: SharedPrefixTable | None = None
    adapters: AdaptersTable | None = None


class EngineChanges(Table):
    """`[systems.NAME.engine]`: limits of the engine that are this system's own."""

    max_num_seqs: Positive | None = None
    """Instead of the engine's."""
    max_num_batched_tokens: Positive | None = None
    """Instead of the engine's."""


class SystemTable(Table):
    """`[systems.NAME]`: one system of a comparison."""

    policy: str
    """Who runs next: fcfs, cfs, aqua, neo, hybrid, ..."""
    tiers: tuple[Literal["peer", "host"], ...] = ()
    """Where pages go, in order of preference; none of them with room: recompute."""
    copies: Literal["scattered", "column", "block"] = "block"
    """What one copy moves: one layer's keys or values, those of all layers once gathered, or a block as it lies."""
    released: bool = False
    """Cost of gathering columns as in AQUA's release instead of a gather kernel's."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The policy's options; a wrong one is answered with those there are."""
    engine: EngineChanges = EngineChanges()


class SloTable(Table):
    """`[slo]`: what counts as good service."""

    ttft_s: Rate | None = None
    """Until the first token."""
    tpot_s: Rate | None = None
    """Per output token after it."""
    rct_s: Rate | None = None
    """Until the last."""


class Scenario(Table):
    """A whole scenario file."""

    question: str
    """What it asks: the head of every table."""
    source: str = ""
    """Where its figures come from."""
    expect: str = ""
    """What ought to come out."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of all that is drawn."""
    baseline: str | None = None
    """The system that the others are compared with; the first one if left out."""
    machine: MachineTable
    model: ModelTable
    engine: EngineTable = EngineTable()
    workload: WorkloadTable
    systems: dict[Name, SystemTable] = Field(min_length=1)
    slo: SloTable | None = None
