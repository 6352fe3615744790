"""Paged attention against attention in float64 over whole caches; the pool is NaN wherever nothing was written."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pages import Pages

from aquasim.runtime.engine.attention import Sdpa, make_attention

HEADS = [(4, 4, 16), (8, 2, 16), (9, 3, 24), (6, 1, 8)]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), HEADS)
def test_decodes_and_chunks_are_exact(heads: int, kv_heads: int, dim: int, alone: bool) -> None:
    """Sequences of any length, whole prompts, chunks behind cached tokens, grouped queries, all in one call."""
    pages = Pages([1, 15, 16, 40, 33, 70], kv_heads, dim)
    queries = pages.queries(6 + 33 + 20 + 1, heads)
    spans = [pages.span(4, 6, 33), pages.span(5, 39, 20), pages.span(3, 59, 1)]
    found = Sdpa(pages.pool, alone=alone).prepare(pages.decodes(), spans)(1, queries)

    for row in range(6):
        expected = pages.expected(row, queries[row : row + 1])
        assert torch.allclose(found[row : row + 1].double(), expected, atol=2e-6)
    for row, span in zip((4, 5, 3), spans, strict=True):
        rows = slice(span.first, span.first + span.tokens)
        assert torch.allclose(found[rows].double(), pages.expected(row, queries[rows]), atol=2e-6)


def test_rows_of_nobody_give_zeros() -> None:
    """What fills up a padded shape gets no attention."""
    pages = Pages([3], 2, 8)
    found = Sdpa(pages.pool).prepare(pages.decodes(), [])(1, pages.queries(4, 4))

    assert found[0].abs().max() > 0
    assert not found[1:].any()


def test_alone_does_not_see_the_neighbours() -> None:
    """A sequence's bits are the same with others before and after it, elsewhere in the pool."""
    single = Pages([37], 2, 16, seed=5)
    query = single.queries(1, 4)
    many = Pages([37, 90, 3], 2, 16, seed=5)
    positions = torch.arange(37)
    slots = many.pool.slots(many.tables[0][positions // 16].long(), positions)
    many.pool.write(1, slots, *single.caches[0])
    queries = torch.cat((query, many.queries(2, 4)))
    alone = Sdpa(single.pool, alone=True).prepare(single.decodes(), [])(1, query)
    beside = Sdpa(many.pool, alone=True).prepare(many.decodes(), [])(1, queries)

    assert torch.equal(alone[0], beside[0])


def test_triton_is_torchs_within_1e_5() -> None:
    """The paged kernel, interpreted on the CPU in float32."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    program = Path(__file__).parent / "engine_interpret.py"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_an_unknown_back_end_is_refused() -> None:
    """The valid names are listed."""
    pages = Pages([1], 1, 8)
    with pytest.raises(ValueError, match="attention is 'flash'; valid: sdpa, triton"):
        make_attention("flash", pages.pool, 1, 1)
