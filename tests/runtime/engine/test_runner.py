"""Steps against the naive model: logits, tokens, chunks, mixed batches, refusals."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from naive_llama import TINY, logits, tensors

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, RopeScaling, Runner, Sampling, Weights
from aquasim.runtime.engine.graphs import graph_sizes
from aquasim.runtime.engine.weights import build

SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64)
KINDS = {
    "llama": TINY,
    "tied": replace(TINY, tied_embeddings=True),
    "llama3": replace(TINY, rope_scaling=SCALING, rope_theta=500.0),
    "qwen2": replace(TINY, qkv_bias=True),
    "qwen3": replace(TINY, qk_norm=True, head_dim=12),
}
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 89, 79, 32, 38, 46]


class Named:
    """Tensors by name, as a source."""

    def __init__(self, named: dict[str, torch.Tensor]) -> None:
        self.named = named

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See Source."""
        assert self.named[name].shape == shape
        return self.named[name]

    def rope_factors(self) -> None:
        """See Source."""


def weights(config: LlamaConfig) -> Weights:
    """Return the weights that the naive model has too."""
    return build(config, Named(tensors(config)))


def runner(config: LlamaConfig = TINY, blocks: int = 24, **options: Any) -> Runner:
    """Return a runner over a pool of NaN with blocks of 4 tokens."""
    return Runner(config, weights(config), KvPool.of(config, blocks, 4, fill=math.nan), max_seqs=8, **options)


@pytest.mark.parametrize("padded", [None, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_naive_model(kind: str, padded: int | None) -> None:
    """Whole prompts, chunks behind cached tokens, decodes, several requests in one forward pass; within 1e-4."""
    config = KINDS[kind]
    engine = runner(config, padded=padded)
    expected = logits(config, tensors(config), PROMPT)
    other = logits(config, tensors(config), PROMPT[::-1])
    blocks, others = [9, 2, 7, 0], [1, 8, 3, 5]

    first = Prefill(1, np.array(PROMPT[:6]), 0, blocks)  # type: ignore[arg-type]
    found = [engine.logits([first, Prefill(2, PROMPT[::-1][:3], 0, others)])]
    found += [engine.logits([Prefill(1, PROMPT[6:7], 6, blocks)])]
    engine.batch.join(2, PROMPT[::-1][3], 3, others)
    found += [engine.logits([Prefill(1, PROMPT[7:14], 7, blocks)])]
    engine.batch.join(1, PROMPT[14], 14, blocks)
    found += [engine.logits()]
    wanted = [expected[5], other[2], expected[6], other[3], expected[13], other[3], expected[14]]
    assert np.abs(torch.cat(found).double().numpy() - wanted).max() < 1e-4
    assert np.abs(expected).max() > 1


def test_frequencies_that_a_gguf_file_divides_are_llama_3s() -> None:
    """Factors as llama.cpp stores them stand for the same scaling as the config's."""
    config = KINDS["llama3"]
    plain = replace(config, rope_scaling=None)
    factors = torch.tensor(plain.frequencies()) / torch.tensor(config.frequencies())
    divided = replace(weights(plain), rope_factors=factors)
    engine = Runner(plain, divided, KvPool.of(plain, 24, 4))
    found = engine.logits([Prefill(1, PROMPT * 4, 0, range(20))])
    expected = runner(config).logits([Prefill(1, PROMPT * 4, 0, range(20))])

    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(
        expected, runner(plain).logits([Prefill(1, PROMPT * 4, 0, range(20))]), atol=0.1
    )


def test_greedy_tokens_are_those_of_the_naive_model() -> None:
    """Three requests of different lengths join at different times and decode together."""
    engine = runner()
    prompts = {1: PROMPT, 2: PROMPT[:4], 3: PROMPT[5:11]}
    blocks = {id: [id + 3 * index for index in range(7)] for id in prompts}
    told: dict[int, list[int]] = {id: [] for id in prompts}
    for id, prompt in prompts.items():
        for who, token in engine.step([Prefill(id, prompt, 0, blocks[id])]).items():
            told[who].append(token)
        engine.batch.join(id, told[id][-1], len(prompt), blocks[id])
    for _ in range(8):
        for who, token in engine.step().items():
            told[who].append(token)

    for id, prompt in prompts.items():
        rows = logits(TINY, tensors(TINY), prompt + told[id][:-1])[len(prompt) - 1 :]
        assert told[id] == rows.argmax(-1).tolist()
    assert len({tuple(tokens) for tokens in told.values()}) == 3


def test_random_models_say_different_things() -> None:
    """Greedy sequences differ between prompts and do not repeat one token."""
    for kind, config in KINDS.items():
        engine = runner(config, blocks=40)
        told = []
        for id in range(4):
            blocks = [id * 10 + index for index in range(10)]
            prompt = np.random.default_rng(id).integers(0, 97, 8).tolist()
            tokens = list(engine.step([Prefill(id, prompt, 0, blocks)], decode=False).values())
            engine.batch.join(id, tokens[0], 8, blocks)
            told.append([*tokens, *(engine.step()[id] for _ in range(24))])
            engine.batch.leave(id)
        assert len({tuple(tokens[:6]) for tokens in told}) == 4, kind
        assert min(len(set(tokens)) for tokens in told) > 4, kind


def test_sampled_tokens_do_not_depend_on_how_they_were_computed() -> None:
    """Prefill, decode and recomputation draw the same token at the same position; another seed draws another."""
    warm = Sampling(temperature=1.0, top_p=0.95, seed=5)
    engine = runner()
    blocks = list(range(8))
    tokens = [engine.step([Prefill(1, PROMPT, 0, blocks, sampling=warm)])[1]]
    engine.batch.join(1, tokens[0], len(PROMPT), blocks, warm)
    tokens += [engine.step()[1] for _ in range(9)]
    engine.batch.leave(1)
    for done in range(10):
        again = engine.step([Prefill(1, PROMPT + tokens[:done], 0, blocks[::-1], sampling=warm)])
        assert again == {1: tokens[done]}
    other = engine.step([Prefill(1, PROMPT, 0, blocks, sampling=replace(warm, seed=6))])[1]
    seeds = [replace(warm, seed=seed) for seed in range(20)]
    drawn = {engine.step([Prefill(1, PROMPT, 0, blocks, sampling=seed)])[1] for seed in seeds}
    assert len(drawn | {other}) > 3


@pytest.mark.parametrize("padded", [None, 16])
def test_a_chunk_that_does_not_sample_returns_nothing(padded: int | None) -> None:
    """Only who gets a token is named; decoding can be left out; an empty step is empty."""
    engine = runner(padded=padded)
    assert engine.step() == {}
    assert engine.step([Prefill(1, PROMPT[:5], 0, [0, 1], samples=False)]) == {}
    engine.batch.join(2, 7, 0, [4])
    assert set(engine.step([Prefill(1, PROMPT[5:8], 5, [0, 1])], decode=False)) == {1}
    assert engine.batch.token(2) == (7, 0)
    assert set(engine.step([Prefill(3, PROMPT[:2], 0, [5], samples=False)])) == {2}
    assert engine.batch.token(2)[1] == 1


def test_a_changed_page_changes_what_follows() -> None:
    """The cache is really read: one other key in an early block gives other logits."""
    engine = runner()
    engine.step([Prefill(1, PROMPT, 0, [3, 1, 2, 0])])
    engine.batch.join(1, 5, len(PROMPT), [3, 1, 2, 0])
    before = engine.logits()
    engine.pool.data[1, 1, 0, 2] += 1.0
    assert not torch.equal(before, engine.logits())


def test_misuse_is_refused() -> None:
    """Chunks beyond their blocks, decodes without one, parts that do not fit each other."""
    engine = runner()
    with pytest.raises(ValueError, match="request 1: its 1 blocks, or 96 positions, end before 5"):
        engine.step([Prefill(1, PROMPT[:5], 0, [0])])
    with pytest.raises(ValueError, match="request 1: a chunk needs tokens"):
        engine.step([Prefill(1, [], 0, [0])])
    engine.batch.join(1, 5, 3, [0])
    engine.step()
    with pytest.raises(ValueError, match=r"requests \[1\] have no block for their next token"):
        engine.step()
    with pytest.raises(ValueError, match="max_len is 97; model and pool hold at most 96"):
        runner(max_len=97)
    with pytest.raises(ValueError, match="KV heads of the pool: 4, but 2 is needed"):
        Runner(TINY, weights(TINY), KvPool(4, 2, 4, 4, 8))
    with pytest.raises(ValueError, match=r"dtype of the pool: torch\.bfloat16, but torch\.float32 is needed"):
        Runner(TINY, weights(TINY), KvPool.of(TINY, 4, 4, dtype=torch.bfloat16))
    pool, half = KvPool.of(TINY, 4, 4, world=2), build(TINY, Named(tensors(TINY)), world=2)
    with pytest.raises(RuntimeError, match="init_process_group"):
        Runner(TINY, half, pool, rank=0, world=2)


def test_bfloat16_stays_close() -> None:
    """The same model in half precision gives nearly the same logits."""
    config = TINY
    half = build(config, Named(tensors(config)), dtype=torch.bfloat16)
    engine = Runner(config, half, KvPool.of(config, 8, 4, dtype=torch.bfloat16, fill=math.nan))
    found = engine.logits([Prefill(1, PROMPT, 0, [3, 1, 2, 0])])[0].double().numpy()

    assert np.abs(found - logits(config, tensors(config), PROMPT)[-1]).max() < 0.2


def test_graph_sizes_cover_every_batch() -> None:
    """1, 2, 4, then every eighth, and the largest batch."""
    assert graph_sizes(30) == [1, 2, 4, 8, 16, 24, 30]
    assert graph_sizes(1) == [1]
    assert graph_sizes(16) == [1, 2, 4, 8, 16]
