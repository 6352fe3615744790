"""Run as a program: one tensor-parallel rank on the CPU. Prints tokens and logits as JSON.

python engine_rank.py RANK WORLD FILE    (FILE: where the ranks meet; does not exist yet)
"""

import json
import math
import sys
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as distributed
from naive_llama import TINY

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, Sampling, random_weights

CONFIGS = {
    "heads": TINY,
    "vocabulary": replace(TINY, vocab=96, tied_embeddings=True),
    "shared": replace(TINY, kv_heads=1, qkv_bias=True),
}
WARM = Sampling(temperature=1.0, seed=4)


def generate(config: LlamaConfig, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Return what three requests say in 10 tokens, and the last logits of the first."""
    pool = KvPool.of(config, 30, 4, world=world, fill=math.nan)
    weights = random_weights(config, 5, rank=rank, world=world)
    runner = Runner(config, weights, pool, max_seqs=4, rank=rank, world=world)
    told: dict[str, list[int]] = {}
    for id in range(3):
        prompt, blocks = [(7 * id + 3 * i) % 90 for i in range(5 + 4 * id)], [3 * i + id for i in range(8)]
        sampling = WARM if id == 2 else Sampling()
        token = runner.step([Prefill(id, prompt, 0, blocks, True, sampling)], decode=False)[id]
        runner.batch.join(id, token, len(prompt), blocks, sampling)
        told[str(id)] = [token]
    for _ in range(9):
        for who, token in runner.step().items():
            told[str(who)].append(token)
    return {"tokens": told, "logits": runner.logits()[0].tolist(), "kv_heads": pool.kv_heads}


def main() -> None:
    """Meet the other ranks and run every config."""
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    print(json.dumps({name: generate(config, rank, world) for name, config in CONFIGS.items()}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
