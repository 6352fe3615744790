"""What physics asks of every cost model: each shipped profile, several models, every degree that was measured.

Bounds are on times of neighbouring sizes as fractions of the smaller one's:

- one more token or sequence costs at most its proportional share and `STEP` more. Between knots time is a power of
  the size, so it cannot jump; where measured products step by a wave of tiles (up to 40 % of their time on RTX cards)
  the step is spread over the 16 tokens between two knots, 2.5 % a token;
- twice the work costs at most twice the time and `WASTE` more: two launches would do it in that. The worst, 7.5 %, is
  where the KV cache of models without grouped queries outgrows the cache of an L40S. All-reduce of L40S switches its
  algorithm between 512 KiB and 1 MiB and loses more there, as measured (`SWITCH`).
"""

from functools import cache
from itertools import pairwise, product
from math import isfinite

import pytest
from gpus import kernel_profile_names
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.hardware.cost import StepCost
from aquasim.hardware.links import LinkKind
from aquasim.hardware.profile import Profile, load_profile
from aquasim.models import load_model, model_names

STEP, WASTE, SWITCH = 0.025, 0.08, 0.7

PROFILES = kernel_profile_names()
MODELS = [name for name in model_names() if name != "Llama-mini"]
"""All but ours, whose products are smaller than any that was measured."""
CASES = [
    (profile, model, tp)
    for profile, model, tp in product(PROFILES, MODELS, (1, 2, 8))
    if tp in load_model(model).tp_degrees() and (tp == 1 or tp in load_profile(profile).all_reduce)
]
LENGTHS = (0, 1, 17, 64, 100, 1000, 1024, 4095, 4096, 5000, 32768, 131072)
BATCHES = (1, 2, 3, 7, 8, 31, 64, 100, 200, 256, 300, 512, 1000)
NEW = (1, 2, 15, 16, 63, 64, 65, 127, 128, 129, 200, 512, 1000, 1024, 1040, 2048, 5000, 8192)
CACHED = (0, 1, 64, 511, 2048, 8192, 32768, 131072)

Case = tuple[str, str, int]
cases = st.sampled_from(CASES)
batches, news, lengths = st.integers(1, 1024), st.integers(1, 8000), st.integers(0, 130_000)


@cache
def cost_of(case: Case) -> StepCost:
    """One cost model per case for all tests."""
    profile, model, tp = case
    return StepCost(load_profile(profile), load_model(model), tp)


def rises(times: list[int]) -> bool:
    """Whether no time is below the one before."""
    return all(low <= high for low, high in pairwise(times))


def test_every_profile_is_covered() -> None:
    """Each profile that ships is tested with dense models and mixtures of experts, and every degree measured."""
    assert {case[0] for case in CASES} == set(PROFILES)
    for name in PROFILES:
        models = {model for profile, model, _ in CASES if profile == name}
        assert {"Llama-3.1-8B", "Mixtral-8x7B", "OPT-30B"} <= models
        degrees = {tp for profile, _, tp in CASES if profile == name}
        assert degrees == {1, *({2, 8} & load_profile(name).all_reduce.keys())}


@pytest.mark.parametrize("case", CASES)
def test_times_are_whole_nanoseconds_above_zero(case: Case) -> None:
    """Whatever the size, inside what was measured or far outside, a time is a finite integer above 0."""
    cost = cost_of(case)
    for batch, length in product(BATCHES, LENGTHS):
        a, b, limit = cost.decode(batch, batch * length)
        assert (type(a), type(b)) == (int, int)
        assert a > 0 <= b
        assert limit >= 1
    for new, cached in product(NEW, CACHED):
        time = cost.step([(new, cached)], 0, 0)
        assert type(time) is int
        assert time > 0


@pytest.mark.parametrize("case", CASES)
def test_more_context_never_takes_less(case: Case) -> None:
    """Decoding behind more tokens, or a chunk behind more cached ones, is never faster."""
    cost = cost_of(case)
    for batch in BATCHES:
        assert rises([cost.decode(batch, batch * length)[0] for length in LENGTHS])
        assert rises(
            [cost.step([(64, 512)], min(batch, 512), min(batch, 512) * length) for length in LENGTHS]
        )
    for new in NEW:
        assert rises([cost.step([(new, cached)], 0, 0) for cached in CACHED])


@pytest.mark.parametrize("case", CASES)
def test_more_tokens_never_take_less(case: Case) -> None:
    """A larger batch or a longer chunk is never faster, alone or beside each other, up to rounding of slopes.

    Slopes are whole nanoseconds per token of context, so a time may be off by half of one for each.
    """
    cost = cost_of(case)
    for length in LENGTHS:
        times = [cost.decode(batch, batch * length)[0] for batch in BATCHES]
        assert all(low <= high + length for low, high in pairwise(times))
        times = [cost.step([(64, 512)], batch, batch * length) for batch in (0, *BATCHES)]
        assert all(low <= high + length for low, high in pairwise(times))
    for cached in CACHED:
        assert rises([cost.step([(new, cached)], 0, 0) for new in NEW])
        assert rises([cost.step([(new, cached)], 8, 8000) for new in NEW if new < 8185])


@given(cases, batches, news, lengths, lengths)
@settings(max_examples=300, deadline=None)
def test_both_take_at_least_as_long_as_either(
    case: Case, batch: int, new: int, length: int, cached: int
) -> None:
    """A chunk beside decodes lasts at least as long as the chunk alone and as the decodes alone."""
    cost = cost_of(case)
    new = min(new, cost.max_tokens - batch)
    both = cost.step([(new, cached)], batch, batch * length)
    assert both >= cost.step([(new, cached)], 0, 0)
    assert both >= cost.decode(batch, batch * length)[0]


@given(cases, batches, lengths)
@settings(max_examples=400, deadline=None)
def test_decoding_beats_no_roofline(case: Case, batch: int, length: int) -> None:
    """Weights and KV cache come over HBM at its peak at most, and flops at the tensor cores' peak."""
    cost = cost_of(case)
    profile, model, tp = cost.profile, cost.model, cost.tp
    seen = min(length, model.sliding_window) if model.sliding_window else length
    read = batch * seen * model.kv_bytes_per_token_gpu(tp)
    weights = (
        sum(g.per_layer * g.n * g.k for g in model.gemms(tp)) * model.layers
        + model.vocab // tp * model.hidden
    )
    dense = 0 if model.experts else weights
    least = max((2 * dense + read) / profile.peak_hbm, 2 * dense * batch / profile.peak_flops)
    assert cost.decode(batch, batch * length)[0] >= least * 1e9


@given(cases, news, lengths)
@settings(max_examples=400, deadline=None)
def test_prefill_beats_no_roofline(case: Case, new: int, cached: int) -> None:
    """A chunk's products and its attention to every token it sees take their flops at the peak at least."""
    cost = cost_of(case)
    profile, model, tp = cost.profile, cost.model, cost.tp
    layer = sum(g.per_layer * g.n * g.k for g in model.gemms(tp) if not g.name.startswith("expert_"))
    reach = cost._prefill.reach(new, cached)
    attention = 4 * model.heads / tp * model.head_dim * new * reach
    least = model.layers * (2 * layer * new + attention) / profile.peak_flops
    assert cost.step([(new, cached)], 0, 0) >= least * 1e9


@given(cases, st.integers(1, 1023), lengths)
@settings(max_examples=400, deadline=None)
def test_one_more_sequence_is_a_small_step(case: Case, batch: int, length: int) -> None:
    """Decode time is continuous in the batch: one more costs its proportional share and 2.5 % at most."""
    cost = cost_of(case)
    times = [cost.decode(n, n * length)[0] for n in (batch, batch + 1)]
    assert times[1] <= times[0] * (1 + 1 / batch + STEP)


@given(cases, st.integers(1, 8190), lengths)
@settings(max_examples=400, deadline=None)
def test_one_more_token_is_a_small_step(case: Case, new: int, cached: int) -> None:
    """Prefill time is continuous in new and in cached tokens: one more costs its share and 2.5 % at most."""
    cost = cost_of(case)
    chunks = (new, cached), (new + 1, cached), (new, cached + 1)
    here, longer, behind = (cost.step([chunk], 0, 0) for chunk in chunks)
    assert longer <= here * (1 + 1 / new + STEP)
    assert behind <= here * (1 + 1 / (cached + new / 2) + STEP)


@given(cases, st.integers(1, 4000), st.integers(1, 256), lengths)
@settings(max_examples=300, deadline=None)
def test_decodes_beside_a_chunk_are_a_small_step(case: Case, new: int, batch: int, length: int) -> None:
    """Time is continuous in the decodes beside a chunk: one more costs its share of them and 2.5 % at most.

    The first one may cost what decoding alone costs a launch: the kernel is another one from there on.
    """
    cost = cost_of(case)
    times = [cost.step([(new, 0)], n, n * length) for n in (batch, batch + 1)]
    assert times[1] <= times[0] * (1 + 1 / batch + STEP)


@pytest.mark.parametrize("case", CASES)
def test_twice_the_sequences_take_at_most_twice_as_long(case: Case) -> None:
    """Two launches of half a batch would do the same work."""
    cost = cost_of(case)
    slack = SWITCH if case[0] == "l40s" and case[2] > 1 else WASTE
    for batch, length in product((1, 2, 4, 8, 16, 32, 64, 128, 256), (0, 64, 1000, 8192, 32768)):
        half, whole = (cost.decode(n, n * length)[0] for n in (batch, 2 * batch))
        assert whole <= 2 * half * (1 + slack)


@pytest.mark.parametrize("case", CASES)
def test_nothing_in_nothing_out(case: Case) -> None:
    """An iteration of nothing and a chunk of nothing are refused; decodes of no context cost no attention to any."""
    cost = cost_of(case)
    with pytest.raises(ValueError, match="decode batch of 0 sequences"):
        cost.step([], 0, 0)
    with pytest.raises(ValueError, match="chunk of 0 new"):
        cost.step([(0, 0)], 0, 0)
    with pytest.raises(ValueError, match="chunk of 1 new and -1 cached"):
        cost.step([(1, -1)], 0, 0)
    assert cost.memory_ns(1, 0, 1) < cost.memory_ns(1, 100_000, 1) or cost.model.sliding_window
    assert cost.decode(4, 0)[0] <= cost.decode(4, 4)[0]


@pytest.mark.parametrize("name", PROFILES)
def test_small_parts_add_up_from_zero(name: str) -> None:
    """No kernel and no byte take no time; time rises with both; a copy of nothing is its start."""
    profile = load_profile(name)
    assert profile.elementwise_seconds(0, 0) == 0
    moved = [profile.elementwise_seconds(10.0**i, 1) for i in range(3, 12)]
    assert rises([round(seconds * 1e15) for seconds in moved])
    assert profile.elementwise_seconds(1e9, 2) > profile.elementwise_seconds(1e9, 1) > 0
    assert all(isfinite(seconds) for seconds in moved)
    for link in profile.links.values():
        assert link.seconds(0) == link.start
        assert link.seconds(1 << 20, 0) == 0


@pytest.mark.parametrize("name", PROFILES)
def test_links_rise_and_stay_below_their_peak(name: str) -> None:
    """A larger copy takes longer at a higher rate, never above the peak; two copies take twice one's time."""

    def check(link: LinkKind) -> None:
        sizes = [2.0**i for i in range(10, 34)]
        assert all(a < b for a, b in pairwise(link.seconds(size) for size in sizes))
        assert all(a <= b <= link.peak for a, b in pairwise(link.rate(size) for size in sizes))
        assert link.seconds(4096, 2) == pytest.approx(2 * link.seconds(4096))

    for link in load_profile(name).links.values():
        check(link)


@pytest.mark.parametrize("name", [name for name in PROFILES if load_profile(name).all_reduce])
def test_reducing_more_bytes_never_takes_less(name: str) -> None:
    """All-reduce rises with bytes and is slower than the links' peak allows, for every number of GPUs measured."""
    profile: Profile = load_profile(name)
    for gpus, curve in profile.all_reduce.items():
        times = [curve.ns(2.0**i) for i in range(8, 31)]
        assert all(a <= b for a, b in pairwise(times))
        if "nvlink" in profile.links:
            least = 2 * (gpus - 1) / gpus * 2**30 / (2 * profile.links["nvlink"].peak)
            assert times[-1] * 1e-9 >= least
