"""GPUs known by layer times only: what is published comes out, and time is monotonous."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.hardware.profile import load_profile
from aquasim.hardware.rates import RateCost
from aquasim.models import load_model

A10G = RateCost(load_profile("a10g"), load_model("Llama-3.1-8B"))
T4 = RateCost(load_profile("t4"), load_model("Llama-2-7B"))


@pytest.mark.parametrize(
    ("tokens", "ms"), [(1, 1.11), (128, 1.11), (129, 2.15), (256, 2.15), (512, 4.0), (1024, 7.8)]
)
def test_products_of_a_layer_are_the_published_staircase(tokens: int, ms: float) -> None:
    """LLaMA-3-8B on A10G: tiles of 128 tokens."""
    assert A10G.layer_ns(tokens) / 1e6 == pytest.approx(ms, rel=1e-3)


@pytest.mark.parametrize(("tokens", "ms"), [(2000, 0.036), (16000, 0.166)])
def test_decode_attention_is_the_published(tokens: int, ms: float) -> None:
    """LLaMA-3-8B on A10G, per layer, within a hundredth of a ms."""
    assert A10G.attention_ns(4, tokens) / 1e6 == pytest.approx(ms, abs=0.01)


@given(batch=st.integers(1, 300), context=st.integers(1, 50_000), j=st.integers(0, 100))
def test_a_run_of_decodes_is_its_iterations_one_by_one(batch: int, context: int, j: int) -> None:
    """Iteration j of a run lasts a + b * j: what asking again at its context gives."""
    a, b, _ = T4.decode(batch, context * batch)
    assert T4.decode(batch, (context + j) * batch)[0] == a + b * j


@given(
    st.lists(st.tuples(st.integers(1, 800), st.integers(0, 500)), min_size=1, max_size=4), st.integers(1, 50)
)
def test_more_work_never_takes_less(chunks: list[tuple[int, int]], batch: int) -> None:
    """One more chunk, or one more decode, adds time or none."""
    for cost in (A10G, T4):
        time = cost.step(chunks, batch, batch * 100)
        more = cost.step(chunks, batch + 1, (batch + 1) * 100)
        assert cost.step(chunks[1:], batch, batch * 100) <= time * (1 + 1e-5)  # slopes are whole ns per token
        assert time <= more * (1 + 1e-5)


def test_what_is_not_known_is_refused() -> None:
    """Several GPUs and mixtures of experts."""
    with pytest.raises(ValueError, match="t4: only layers of dense models on one GPU"):
        RateCost(load_profile("t4"), load_model("Llama-2-7B"), 2)
    with pytest.raises(ValueError, match="dense"):
        RateCost(load_profile("a10g"), load_model("Mixtral-8x7B"))
