"""Run as a program under TRITON_INTERPRET=1: the Triton back end against torch's, on the CPU. Prints the worst error.

Also runs whole steps with it, and the forward pass as a graph would capture it, with rows of nobody. A process of
its own, because Triton decides between compiling and interpreting when it is imported.
"""

import math

import torch
from naive_llama import TINY
from pages import Pages

from aquasim.runtime.engine import KvPool, Prefill, Runner, random_weights
from aquasim.runtime.engine.attention import Sdpa
from aquasim.runtime.engine.attention.paged import PagedTriton

CASES = [  # heads, KV heads, head_dim, block size, splits, lengths
    (8, 2, 16, 16, 4, [1, 5, 16, 17, 300]),
    (9, 3, 64, 16, 2, [33, 64]),
    (2, 2, 24, 8, 8, [7, 70]),
    (32, 1, 16, 4, 1, [3, 65]),
]


def steps(attention: str) -> tuple[list[int], torch.Tensor]:
    """Return what two requests say in 4 steps, and then the logits of a padded batch as a graph computes them."""
    pool = KvPool.of(TINY, 12, 4, fill=math.nan)
    runner = Runner(TINY, random_weights(TINY, 1), pool, attention=attention, max_seqs=4)
    told: list[int] = []
    for id in range(2):
        blocks = [id + 2 * index for index in range(5)]
        told += runner.step([Prefill(id, [id + 1] * (4 + 3 * id), 0, blocks)]).values()
        runner.batch.join(id, told[-1], 4 + 3 * id, blocks)
    for _ in range(4):
        told += runner.step().values()
    with torch.inference_mode():
        return told, (runner._captured(4)[:2] if attention == "triton" else runner.logits())


def main() -> None:
    """Compare decodes of each case, whose queries are strided, and a chunk beside them; then whole steps."""
    (found, padded), (wanted, expected) = steps("triton"), steps("sdpa")
    assert found == wanted, (found, wanted)
    worst = float((padded - expected).abs().max())
    for heads, kv_heads, dim, size, splits, lengths in CASES:
        pages = Pages(lengths, kv_heads, dim, size)
        reference = Sdpa(pages.pool)
        triton = PagedTriton(pages.pool, heads, len(lengths), reference, splits=splits)
        queries = pages.queries(len(lengths) + 3, heads)
        span = pages.span(1, len(lengths), 3)
        made, exact = (a.prepare(pages.decodes(), [span])(1, queries) for a in (triton, reference))
        worst = max(worst, float((made - exact).abs().max()))
    print(worst)


if __name__ == "__main__":
    main()
