"""On a GPU: the Triton kernel compiled, decodes as graphs, padded mode, and the copier's addresses."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive_llama import TINY
from pages import Pages

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, random_weights
from aquasim.runtime.engine.attention import Sdpa

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]  # Triton 3.9 says it
WIDE = LlamaConfig(vocab=512, hidden=512, layers=3, heads=8, kv_heads=2, head_dim=64, intermediate=768)


def generate(config: LlamaConfig, dtype: torch.dtype = torch.float32, **options: Any) -> list[list[int]]:
    """Return what five requests say."""
    pool = KvPool.of(config, 64, 16, dtype=dtype, device="cuda", fill=math.nan)
    weights = random_weights(config, 2, dtype=dtype, device="cuda")
    runner = Runner(config, weights, pool, device="cuda", max_seqs=12, **options)
    told = {}
    for id in range(5):
        prompt = [(11 * id + 5 * i) % config.vocab for i in range(10 + 13 * id)]
        blocks = [5 * i + id for i in range(8)]
        told[id] = [runner.step([Prefill(id, prompt, 0, blocks)], decode=False)[id]]
        runner.batch.join(id, told[id][0], len(prompt), blocks)
        for who, token in runner.step().items():
            told[who].append(token)
    for _ in range(12):
        for who, token in runner.step().items():
            told[who].append(token)
    return [told[id] for id in range(5)]


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(32, 8, 128), (9, 3, 64), (28, 4, 128), (6, 6, 80)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)]
)
def test_triton_is_torchs(heads: int, kv_heads: int, dim: int, dtype: torch.dtype, tolerance: float) -> None:
    """The compiled kernel against float64 over whole caches."""
    pytest.importorskip("triton")
    from aquasim.runtime.engine.attention.paged import PagedTriton

    pages = Pages([1, 16, 17, 600, 2049], kv_heads, dim, device="cuda", dtype=dtype)
    queries = pages.queries(5, heads)
    found = PagedTriton(pages.pool, heads, 8, Sdpa(pages.pool)).prepare(pages.decodes(), [])(1, queries)
    for row in range(5):
        expected = pages.expected(row, queries[row : row + 1])
        assert (found[row : row + 1].double() - expected).abs().max() < tolerance


def test_graphs_say_what_eager_steps_say() -> None:
    """Float32: Triton under graphs, Triton without, and torch's attention give the same greedy tokens."""
    pytest.importorskip("triton")
    graphs = generate(WIDE)

    assert graphs == generate(WIDE, graphs=False)
    assert graphs == generate(WIDE, attention="sdpa")
    assert len({tuple(tokens[:5]) for tokens in graphs}) == 5


def test_half_precision_runs_with_graphs() -> None:
    """bfloat16 decodes give tokens of the vocabulary, twice the same."""
    first = generate(WIDE, dtype=torch.bfloat16)

    assert first == generate(WIDE, dtype=torch.bfloat16)
    assert all(0 <= token < 512 for tokens in first for token in tokens)


@pytest.mark.parametrize("attention", ["sdpa", "triton"])
def test_padded_rows_do_not_depend_on_company(attention: str) -> None:
    """Pages of one request are the same bytes alone and beside others."""
    if attention == "triton":
        pytest.importorskip("triton")
    config = replace(TINY, head_dim=16)
    pages = []
    for others in (0, 3):
        pool = KvPool.of(config, 32, 16, device="cuda", fill=math.nan)
        weights = random_weights(config, 2, device="cuda")
        runner = Runner(config, weights, pool, device="cuda", padded=16, attention=attention)
        for id in range(others + 1):
            prompt, blocks = [(7 * id + i) % 97 for i in range(20)], [4 * id + i for i in range(4)]
            token = runner.step([Prefill(id, prompt, 0, blocks)], decode=False)[id]
            runner.batch.join(id, token, 20, blocks)
        for _ in range(20):
            runner.step()
        pages.append(pool.data[:2].cpu().view(torch.int32))

    assert torch.equal(*pages)


def test_a_step_that_is_done_has_written_its_pages() -> None:
    """Chunks of which none samples, too: the stream has nothing left to do, and a page is what it stays."""
    pool = KvPool.of(WIDE, 200, 16, device="cuda", fill=math.nan)
    runner = Runner(WIDE, random_weights(WIDE, 2, device="cuda"), pool, device="cuda")
    prompt = [i % WIDE.vocab for i in range(2048)]
    assert runner.step([Prefill(0, prompt, 0, list(range(200)), samples=False)], decode=False) == {}
    assert torch.cuda.current_stream().query()
    assert torch.isfinite(pool.data[:128]).all()
