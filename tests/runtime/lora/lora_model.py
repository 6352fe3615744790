"""A tiny model, adapters, and what they say when they are merged into the weights."""

import dataclasses
from typing import Any

import torch

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, Weights, random_weights
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.worker import Threaded
from aquasim.runtime.lora import Adapter, LoraLayout, LoraSlots, random_adapter
from aquasim.runtime.pager import Pager, Window

CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=48, max_positions=256
)
WEIGHTS = random_weights(CONFIG, seed=3)
SIZE, PADDED = 4, 32
RANK = 4
LAYOUT = LoraLayout(CONFIG, RANK)
ADAPTERS = [random_adapter(CONFIG, RANK, seed, name=f"a{seed}", scale=0.5) for seed in range(6)]
PROMPT = [5, 17, 80, 3, 44, 9, 61]


def merged(adapter: Adapter) -> Weights:
    """Return the model's weights with an adapter added to them, in float64 before it is rounded."""
    layers = []
    for number, layer in enumerate(WEIGHTS.layers):

        def added(number: int, weight: torch.Tensor, targets: tuple[str, ...]) -> torch.Tensor:
            parts = []
            for target in targets:
                inputs, outputs = LAYOUT.size(target)
                part = torch.zeros(outputs, inputs, dtype=torch.float64)
                if (number, target) in adapter.matrices:
                    a, b = adapter.matrices[number, target]
                    part += adapter.scale * b.double() @ a.double()
                parts.append(part)
            return (weight.double() + torch.cat(parts)).float()

        layers.append(
            dataclasses.replace(
                layer,
                qkv=added(number, layer.qkv, ("q_proj", "k_proj", "v_proj")),
                output=added(number, layer.output, ("o_proj",)),
                gate_up=added(number, layer.gate_up, ("gate_proj", "up_proj")),
                down=added(number, layer.down, ("down_proj",)),
            )
        )
    return dataclasses.replace(WEIGHTS, layers=tuple(layers))


def generate(runner: Runner, count: int, slot: int = -1, prompt: list[int] = PROMPT) -> list[int]:
    """Return what one request says, its prompt in two chunks."""
    blocks = range(12)
    options: dict[str, Any] = {"adapter": slot}
    runner.step([Prefill(1, prompt[:3], 0, blocks, False, **options)])
    told = [runner.step([Prefill(1, prompt[3:], 3, blocks, **options)])[1]]
    runner.batch.join(1, told[0], len(prompt), blocks, **options)
    told += [runner.step()[1] for _ in range(count - 1)]
    runner.batch.leave(1)
    return told


def plain(weights: Weights = WEIGHTS, slots: LoraSlots | None = None, padded: int | None = None) -> Runner:
    """Return a runner over 16 blocks."""
    pool = KvPool.of(CONFIG, 16, SIZE, fill=float("nan"))
    return Runner(CONFIG, weights, pool, max_seqs=8, loras=slots, padded=padded)


def engine(
    slots: LoraSlots, blocks: int = 40, policy: str = "fcfs", pager: Pager | None = None,
    worker: Threaded | None = None, **limits: Any,
) -> Executor:  # fmt: skip
    """Return an executor whose requests' tokens do not depend on their company; a pager's tier is "host"."""
    pool = KvPool.of(CONFIG, blocks, SIZE, fill=float("nan"))
    runner = Runner(CONFIG, WEIGHTS, pool, padded=PADDED, max_seqs=24, loras=slots)
    fixed: dict[str, Any] = {"block_size": SIZE, "max_num_seqs": 8, "max_num_batched_tokens": PADDED}
    if pager is not None:
        pager.hbm = Window(pool.base, pool.block_bytes)
        fixed["tiers"] = (("host", pager.tier("host").capacity),)
    made = Limits(blocks=blocks, max_repeat=1, **fixed | limits)
    return Executor(Scheduler(made, make_policy(policy)), runner, pager, worker=worker)
