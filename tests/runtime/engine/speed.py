"""Tokens per second of a small random model on the CPU, and what a decode step costs outside of torch.

    python tests/runtime/engine/speed.py [--threads 1] [--layers 4] [--hidden 256] [--context 128]

Overhead is a step's time less that of its calls of torch, which are noted once and made again in a plain loop.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, random_weights


def build(layers: int, hidden: int, batch: int, context: int, steps: int) -> Runner:
    """Return a runner whose batch holds `batch` sequences of `context` tokens, with blocks for `steps` more."""
    config = LlamaConfig(
        vocab=4096, hidden=hidden, layers=layers, heads=8, kv_heads=2, head_dim=hidden // 8, intermediate=3 * hidden
    )  # fmt: skip
    each = -(-(context + steps) // 16)
    pool = KvPool.of(config, blocks=batch * each)
    runner = Runner(config, random_weights(config), pool, max_seqs=batch, max_len=each * 16)
    prompts = np.random.default_rng(0).integers(0, config.vocab, (batch, context)).tolist()
    for id, prompt in enumerate(prompts):
        blocks = range(id * each, (id + 1) * each)
        tokens = runner.step([Prefill(id, prompt, 0, blocks)], decode=False)
        runner.batch.join(id, tokens[id], context, blocks)
    return runner


def step_seconds(runner: Runner, steps: int) -> float:
    """Return the median time of a decode step."""
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        runner.step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class Recorder(TorchFunctionMode):
    """Notes every call of torch, to make the same calls again without the code around them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one call and make it."""
        self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def torch_seconds(runner: Runner, steps: int) -> tuple[float, int]:
    """Return the median time of one step's calls of torch made one after another, and how many they are."""
    with Recorder() as recorder:
        runner.step()
    times = []
    with torch.inference_mode():
        for _ in range(steps):
            started = time.perf_counter()
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)
            times.append(time.perf_counter() - started)
    return statistics.median(times), len(recorder.calls)


def overhead(runner: Runner, rounds: int) -> tuple[float, int]:
    """Return the median of what a step takes beyond torch, of rounds in turn, since the machine may be shared."""
    found = []
    for _ in range(rounds):
        whole = step_seconds(runner, 10)
        inside, count = torch_seconds(runner, 10)
        found.append(whole - inside)
    return statistics.median(found), count


def main() -> None:
    """Print one line per batch size."""
    parser = argparse.ArgumentParser()
    for name, default in (("threads", 1), ("layers", 4), ("hidden", 256), ("context", 128), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for batch in (1, 8, 64):
        runner = build(asked.layers, asked.hidden, batch, asked.context, asked.steps + 100)
        for _ in range(10):
            runner.step()
        whole = step_seconds(runner, asked.steps)
        outside, count = overhead(runner, 7)
        print(
            f"batch {batch:3}: {batch / whole:6.0f} tokens/s, step {whole * 1e6:6.0f} us, "
            f"{count} calls of torch; outside them {outside * 1e6:4.0f} us"
        )
    started = time.perf_counter()
    runner = build(asked.layers, asked.hidden, 8, 512, 8)
    seconds = time.perf_counter() - started
    print(f"prefill: {8 * 512 / seconds:.0f} tokens/s in prompts of 512, making the model included")


if __name__ == "__main__":
    main()
