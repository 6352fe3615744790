"""Conformance of the cost model: every profile with several models and degrees of tensor parallelism."""

from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest
from gpus import kernel_profile_names
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.hardware.attention import measured_head_dim
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import load_profile
from aquasim.hardware.serving import DEFAULT
from aquasim.models import load_model, model_names

KERNELS = kernel_profile_names()
MODELS = ("Llama-3.1-8B", "Llama-3.1-70B", "Mistral-7B", "Mixtral-8x7B", "OPT-30B", "Qwen3-14B")
CASES = [
    (profile, model, tp)
    for profile, model, tp in product(KERNELS, MODELS, (1, 2, 8))
    if tp in load_model(model).tp_degrees() and (tp == 1 or tp in load_profile(profile).all_reduce)
]
LENGTHS = (1, 17, 64, 100, 1000, 1024, 4095, 4096, 5000, 32768, 131072, 200_000)
BATCHES = (1, 2, 3, 8, 31, 64, 200, 256, 512, 1000)

cases = st.sampled_from(CASES)
batches = st.integers(1, 1024)
lengths = st.integers(0, 140_000)
chunks = st.lists(st.tuples(st.integers(1, 1024), st.integers(0, 100_000)), min_size=1, max_size=4)


@cache
def cost_of(case: tuple[str, str, int]) -> StepCost:
    """One cost model per case for all tests."""
    profile, model, tp = case
    return StepCost(load_profile(profile), load_model(model), tp)


@given(cases, batches, lengths, st.integers(0, 1023), st.integers(1, 200_000))
@settings(max_examples=400, deadline=None)
def test_fused_decodes_equal_single_ones(
    case: tuple[str, str, int], batch: int, length: int, spare: int, j: int
) -> None:
    """Iteration j < limit of a run lasts exactly what is said when asked at its own context."""
    cost, context = cost_of(case), batch * length + spare % batch
    a, b, limit = cost.decode(batch, context)
    j = min(j, limit - 1)
    assert limit >= 1
    assert cost.decode(batch, context + j * batch) == (a + b * j, b, limit - j)


@given(cases, batches, lengths)
@settings(max_examples=200, deadline=None)
def test_the_next_piece_begins_where_the_last_ends(
    case: tuple[str, str, int], batch: int, length: int
) -> None:
    """Decode time is continuous: at its limit a piece has reached the next one's first value."""
    cost = cost_of(case)
    a, b, limit = cost.decode(batch, batch * length)
    if limit < 1 << 40:
        assert cost.decode(batch, batch * (length + limit))[0] == a + b * limit


@given(cases, batches, lengths, st.integers(0, 1023))
@settings(max_examples=200, deadline=None)
def test_a_step_without_chunks_is_a_decode(
    case: tuple[str, str, int], batch: int, length: int, spare: int
) -> None:
    """Both ways of asking give the same nanosecond."""
    cost, context = cost_of(case), batch * length + spare % batch
    assert cost.step([], batch, context) == cost.decode(batch, context)[0]


@pytest.mark.parametrize("case", CASES)
def test_decode_rises_with_context_and_batch(case: tuple[str, str, int]) -> None:
    """More context at one batch never takes less time, nor do more sequences of one length.

    Slopes are whole nanoseconds per iteration, so a base may be off by half a nanosecond per token of its
    piece.
    """
    cost = cost_of(case)
    for batch in BATCHES:
        times = [cost.decode(batch, batch * length)[0] for length in LENGTHS]
        assert times == sorted(times)
        assert all(isinstance(time, int) for time in times)
    for length in LENGTHS:
        times = [cost.decode(batch, batch * length)[0] for batch in BATCHES]
        assert all(low <= high + length for low, high in pairwise(times))


@pytest.mark.parametrize("case", CASES)
def test_prefill_rises_with_new_and_cached_tokens(case: tuple[str, str, int]) -> None:
    """A longer chunk, or the same behind more cached tokens, never takes less time."""
    cost = cost_of(case)
    sizes = (1, 15, 16, 63, 64, 65, 127, 128, 200, 512, 1000, 2048, 5000, 8192)
    cached = (0, 1, 64, 511, 2048, 8192, 32768, 131072)
    for behind in cached:
        times = [cost.step([(new, behind)], 0, 0) for new in sizes]
        assert times == sorted(times)
    for new in sizes:
        times = [cost.step([(new, behind)], 0, 0) for behind in cached]
        assert times == sorted(times)


@given(cases, chunks, st.integers(0, 256), st.integers(1, 20_000), st.tuples(st.integers(1, 512), lengths))
@settings(max_examples=300, deadline=None)
def test_one_more_chunk_takes_longer(
    case: tuple[str, str, int],
    given_chunks: list[tuple[int, int]],
    batch: int,
    length: int,
    extra: tuple[int, int],
) -> None:
    """Adding a chunk to an iteration does not make it shorter, but for a few percent at worst.

    Chunks are priced at the rate of a launch of all rows. That one more of a few tokens lowers the price of
    others happens where chunks of a few tokens stand behind tens of thousands: the GPU is not full there.
    """
    cost, context = cost_of(case), batch * length
    most = cost.model.max_position
    *before, last = [(new, min(cached, most - new)) for new, cached in (*given_chunks, extra)]
    assert cost.step([*before, last], batch, context) >= cost.step(before, batch, context) * 0.97


@given(cases, chunks, batches, st.integers(1, 20_000))
@settings(max_examples=300, deadline=None)
def test_chunks_beside_decodes_take_longer_than_either(
    case: tuple[str, str, int], given_chunks: list[tuple[int, int]], batch: int, length: int
) -> None:
    """An iteration of both lasts at least as long as either."""
    cost, context = cost_of(case), batch * length
    both = cost.step(given_chunks, batch, context)
    decodes, alone = cost.decode(batch, context)[0], cost.step(given_chunks, 0, 0)
    assert max(decodes, alone) <= both


@pytest.mark.parametrize("case", CASES)
def test_never_below_the_roofline(case: tuple[str, str, int]) -> None:
    """No iteration beats the vendor's peaks: weights and KV cache over HBM, flops over the tensor cores."""
    cost = cost_of(case)
    profile, model, tp = cost.profile, cost.model, cost.tp
    weights = cost._linear.weight_bytes(1)
    dense = weights if not model.experts else 0.0
    window = model.sliding_window or 1 << 40
    for batch, length in product(BATCHES, LENGTHS):
        read = weights + batch * min(length, window) * model.kv_bytes_per_token_gpu(tp)
        assert cost.decode(batch, batch * length)[0] >= read / profile.peak_hbm * 1e9
    for new in (1, 64, 512, 2048, 8192):
        flops = 2 * new * (dense - cost._linear.head.n * cost._linear.head.k * 2) / 2
        attention = 4 * model.layers * model.heads / tp * model.head_dim * new * min(new / 2, window / 2)
        assert cost.step([(new, 0)], 0, 0) >= (flops + attention) / profile.peak_flops * 1e9


@pytest.mark.parametrize("case", CASES)
def test_memory_time_is_part_of_an_iteration(case: tuple[str, str, int]) -> None:
    """Moving the bytes at the peak rate takes some of the iteration and never more than all of it."""
    cost = cost_of(case)
    for batch, length in product(BATCHES, LENGTHS):
        assert 0 < cost.memory_ns(batch, batch * length, batch) <= cost.decode(batch, batch * length)[0]


@pytest.mark.parametrize("profile", [name for name in KERNELS if "nvlink" in load_profile(name).links])
@pytest.mark.parametrize("name", [name for name in model_names() if name != "Llama-mini"])
def test_more_gpus_are_faster_at_large_batches(profile: str, name: str) -> None:
    """Over NVLink, splitting a model in two shortens its decodes at 64 sequences of 1,000 tokens."""
    times = [cost_of((profile, name, tp)).decode(64, 64_000)[0] for tp in (1, 2)]
    assert times[1] < times[0]


def test_sliding_window_ends_growth() -> None:
    """Beyond the window neither decode nor the bytes read grow; queries see no more than the window."""
    cost = cost_of(("h100", "Mistral-7B", 1))
    assert cost.decode(8, 8 * 4096)[:2] == (cost.decode(8, 8 * 90_000)[0], 0)
    assert cost.memory_ns(8, 8 * 4096, 8) == cost.memory_ns(8, 8 * 90_000, 8)
    assert cost.step([(512, 8192)], 0, 0) == cost.step([(512, 65_536)], 0, 0)
    assert cost._prefill.reach(8192, 0) == (4096 * 2048 + 4096 * 4096) / 8192


def test_a_wider_head_costs_in_proportion() -> None:
    """A head dimension nobody measured takes the next larger one's time, or grows beyond the largest."""
    dims = load_profile("h100").decode_attention
    assert measured_head_dim(dims, 80) == (128, 1.0)
    assert measured_head_dim(dims, 64) == (64, 1.0)
    assert measured_head_dim(dims, 256) == (128, 2.0)


def test_few_tokens_touch_few_experts() -> None:
    """One token reads the weights of its own two experts, many tokens those of all eight.

    Two tokens read 4 less what they have in common, the sum of squares of the experts' chances, which fall with
    the 0.8th power of their rank.
    """
    model = load_model("mixtral-8x7b")
    cost = cost_of(("h100", "Mixtral-8x7B", 1))
    expert = 3 * model.hidden * model.intermediate * model.layers * model.dtype_bytes
    reads = [cost._linear.weight_bytes(tokens) for tokens in (1, 2, 1000)]
    popular = [rank**-0.8 for rank in range(1, 9)]
    common = sum((2 * share / sum(popular)) ** 2 for share in popular)
    assert reads[1] - reads[0] == pytest.approx((2 - common) * expert)
    assert reads[2] - reads[0] == pytest.approx(6 * expert)


def test_overheads_can_be_replaced() -> None:
    """An engine's host time per iteration is part of it, to the nanosecond."""
    profile, model = load_profile("h100"), load_model("llama-3.1-8b")
    none = StepCost(profile, model, serving=DEFAULT.with_overheads(0, 0))
    slow = StepCost(profile, model, serving=DEFAULT.with_overheads(0.005, 0.007))
    assert slow.decode(8, 8000)[0] - none.decode(8, 8000)[0] == 5_000_000
    assert slow.step([(512, 0)], 8, 8000) - none.step([(512, 0)], 8, 8000) == 7_000_000


def test_host_time_grows_with_sequences_and_ranks() -> None:
    """An engine's time per sequence counts for each one sampled, its time per rank for each doubling of GPUs."""
    profile, model = load_profile("h100"), load_model("llama-3.1-8b")
    busy = replace(DEFAULT, sequence_s=1e-4, rank_s=1e-3)
    for tp, doublings in ((1, 0), (2, 1), (8, 3)):
        more = [
            StepCost(profile, model, tp, serving=serving).decode(16, 16000)[0] for serving in (busy, DEFAULT)
        ]
        assert more[0] - more[1] == pytest.approx(16 * 1e5 + doublings * 1e6, abs=1)


def test_choosing_by_top_p_takes_time_by_vocabulary_and_batch() -> None:
    """Sorting 128,256 logits: a start per iteration and as much again for each sequence; greedy has neither."""
    profile, model = load_profile("h100"), load_model("llama-3.1-8b")
    greedy, top_p = (StepCost(profile, model, sampling=sampling) for sampling in ("greedy", "top-p"))
    start, each = DEFAULT.sampling_s("top-p", 128256)
    for batch in (1, 64):
        more = top_p.decode(batch, 1000 * batch)[0] - greedy.decode(batch, 1000 * batch)[0]
        assert more == pytest.approx((start + each * batch) * 1e9, abs=1)


def test_compute_is_part_of_an_iteration() -> None:
    """What a lower clock stretches is at most the whole iteration: nearly all of a long prefill, none of decodes."""
    cost = cost_of(("h100", "Qwen3-14B", 1))
    lasts, compute = cost.timed([(4096, 0)], 0, 0)
    assert 0.9 * lasts < compute <= lasts
    lasts, compute = cost.timed([(16, 500)], 32, 32000)
    assert 0 < compute < 0.4 * lasts
    assert cost.timed([], 32, 32000) == (cost.decode(32, 32000)[0], 0.0)


def test_decodes_cost_more_beside_a_long_chunk() -> None:
    """On H100 a chunk of more than 128 rows of queries per KV head (26 tokens in groups of 5) slows decodes.

    What 64 decodes add to a chunk's iteration then grows by the profile's factor, the launch apart.
    """
    cost = cost_of(("h100", "Qwen3-14B", 1))
    added = [cost.step([(n, 0)], 64, 64000) - cost.step([(n, 0)], 64, 0) for n in (25, 26)]
    factor, rows = load_profile("h100").beside_chunks
    assert rows == 128
    assert added[1] / added[0] == pytest.approx(factor, rel=0.05)


def test_refusals() -> None:
    """Iterations that cannot be are refused with the value in the text."""
    cost = StepCost(load_profile("h100"), load_model("llama-3.1-8b"), max_tokens=2048)
    with pytest.raises(ValueError, match="decode batch of 0 sequences"):
        cost.decode(0, 0)
    with pytest.raises(ValueError, match="iteration of 2049 tokens, max_tokens is 2048"):
        cost.step([(2048, 0)], 1, 10)
    with pytest.raises(ValueError, match="chunk of 0 new and 5 cached tokens"):
        cost.step([(0, 5)], 1, 10)
    with pytest.raises(ValueError, match="overhead per iteration must be at least 0 seconds, is -1"):
        DEFAULT.with_overheads(-1, None)
    with pytest.raises(ValueError, match="degree 3"):
        StepCost(load_profile("h100"), load_model("llama-3.1-8b"), tp=3)
