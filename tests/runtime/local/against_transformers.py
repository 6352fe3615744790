"""Our engine against transformers' continuous batching: one model, one burst, the same KV memory, one thread.

    python tests/runtime/local/against_transformers.py [--requests 48] [--repeats 3]

Prints, per engine: TTFT p50 and p99, RCT p99, generated tokens per second; medians over the repeats, which alternate.
Needs transformers and psutil.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from aquasim.runtime.local import Options, run_local
from aquasim.runtime.local.plan import hardware_plan
from aquasim.runtime.local.prompts import prompt_tokens
from aquasim.scenario import Scenario, load_scenario

BLOCK = 16


def make_model(folder: Path) -> Any:
    """Save a random Llama of burst-local's shape; return it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=1024, head_dim=64, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().float()
    model.save_pretrained(folder)
    return model


def theirs(
    model: Any, jobs: list[tuple[float, list[int], int]], blocks: int, budget: int
) -> dict[str, float]:
    """Run the burst on transformers' engine."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = ContinuousBatchingConfig(
        num_blocks=blocks, block_size=BLOCK, max_batch_tokens=budget, use_cuda_graph=False
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=10_000)
    manager = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=settings)
    manager.start()
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    made: dict[str, int] = {}
    begun, sent = time.monotonic(), 0
    try:
        while len(last) < len(jobs):
            now = time.monotonic() - begun
            while sent < len(jobs) and jobs[sent][0] <= now:
                _, prompt, output = jobs[sent]
                manager.add_request(prompt, request_id=str(sent), max_new_tokens=output, streaming=True)
                sent += 1
            result = manager.get_result(timeout=0.002)
            if result is None:
                assert manager.is_running(), "transformers' engine has died: see its log"
                continue
            name, now = result.request_id, time.monotonic() - begun
            if result.generated_tokens:
                first.setdefault(name, now)
                made[name] = len(result.generated_tokens)
            if result.is_finished():
                last[name] = now
    finally:
        manager.stop(block=True)
    times = [(first[str(i)] - job[0], last[str(i)] - job[0]) for i, job in enumerate(jobs)]
    return figures(times, sum(made.values()), max(last.values()))


def ours(scenario: Any, system: str, weights: Path) -> dict[str, float]:
    """Run the burst on our engine."""
    options = Options(device="cpu", weights=weights)
    run = run_local(hardware_plan(scenario, options), system, options)
    rows = run.columns("requests")
    times = [
        ((f - a) / 1e9, (e - a) / 1e9)
        for a, f, e in zip(rows["arrival_ns"], rows["first_token_ns"], rows["finished_ns"], strict=True)
    ]
    return figures(times, int(rows["output_tokens"].sum()), float(rows["finished_ns"].max()) / 1e9)


def figures(times: list[tuple[float, float]], tokens: int, seconds: float) -> dict[str, float]:
    """Return what is printed."""
    ttft, rct = (np.array(column) for column in zip(*times, strict=True))
    return {
        "ttft_p50": float(np.quantile(ttft, 0.5)),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "rct_p99": float(np.quantile(rct, 0.99)),
        "tokens_per_s": tokens / seconds,
    }


def main() -> None:
    """Alternate between the engines, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        scenario = load_scenario("burst-local", [f"workload.requests={asked.requests}"])
        assert isinstance(scenario, Scenario)
        plan = hardware_plan(scenario, Options(device="cpu", weights=Path(folder)))
        load, limits = plan.workload, plan.scenario.engine
        jobs = [
            (
                int(load.arrival[i]) / 1e9,
                prompt_tokens(i, int(load.prompt[i]), (), BLOCK, 8192, scenario.seed),
                int(load.output[i]),
            )
            for i in range(len(load))
        ]
        found: dict[str, list[dict[str, float]]] = {"transformers": [], "fcfs": [], "cfs-host": []}
        for _ in range(asked.repeats):
            found["transformers"].append(theirs(model, jobs, plan.llm.blocks, limits.max_num_batched_tokens))
            for system in ("fcfs", "cfs-host"):
                found[system].append(ours(scenario, system, Path(folder)))
    for name, rows in found.items():
        print(name.ljust(14), {key: round(median(row[key] for row in rows), 3) for key in rows[0]})


if __name__ == "__main__":
    main()
