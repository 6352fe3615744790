"""Drive vLLM's own V1 scheduler, without a model: workloads in (JSON lines), what it decided out (JSON lines).

Runs under the python of the peer environment (setup.sh), where only vLLM is installed. A workload is

    {"num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len",
     "long_prefill_token_threshold", "prefix_caching", "policy": "fcfs" | "priority",
     "requests": [{"step", "prompt": token ids | number of tokens shared with nobody, "output", "priority"}]}

and its answer {"batches": [...], "hit_tokens", "calls", "schedule_s", "update_s"}. A batch is {"i", "tokens":
{id: n}, "preempted", "running", "waiting", "kv_used"}, for each call number `i` of `schedule()` that scheduled
something; whom calls that scheduled nothing preempted is listed in the next batch. `hit_tokens` were found in the
prefix cache; `schedule_s` and `update_s` are the CPU seconds in `schedule()` and `update_from_output()`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

Workload = dict[str, Any]

PRIVATE = 1_000_000
"""From here on, token ids stand for tokens nobody else has: this plus the request's number."""

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 32000,
    "max_position_embeddings": 1 << 20,
}


def main() -> None:
    """Answer each workload on stdin by a line on stdout."""
    init_none_hash(sha256)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
        model = ModelConfig(model=folder, tokenizer=folder, skip_tokenizer_init=True, dtype="float32")
    for line in sys.stdin:
        print(json.dumps(Drive(json.loads(line), model).run()), flush=True)


class Drive:
    """One workload, from the first arrival to the last token."""

    def __init__(self, workload: Workload, model: ModelConfig) -> None:
        self.scheduler = make_scheduler(workload, model)
        rows = list(enumerate(workload["requests"]))
        self.order = sorted(rows, key=lambda row: (row[1]["step"], row[0]))
        self.hasher = get_request_block_hasher(workload["block_size"], sha256)
        self.preempted: set[str] = set()
        self.hit_tokens = 0
        self.calls = 0
        self.schedule_s = self.update_s = 0.0

    def run(self) -> dict[str, Any]:
        """Return the batches and what they took."""
        batches = list(self.batches())
        return {
            "batches": batches,
            "hit_tokens": self.hit_tokens,
            "calls": self.calls,
            "schedule_s": self.schedule_s,
            "update_s": self.update_s,
        }

    def batches(self) -> Iterator[dict[str, Any]]:
        """Iterate until every request has ended; calls before an arrival that find nobody are only counted."""
        arrived = call = 0
        while arrived < len(self.order) or self.scheduler.requests:
            if not self.scheduler.requests:
                call = max(call, self.order[arrived][1]["step"])
            while arrived < len(self.order) and self.order[arrived][1]["step"] <= call:
                self.scheduler.add_request(self.request(arrived, *self.order[arrived]))
                arrived += 1
            output = self.schedule()
            if output.total_num_scheduled_tokens:
                yield self.batch(call, output.num_scheduled_tokens)
                self.preempted = set()
            self.update(output)
            call += 1

    def schedule(self) -> SchedulerOutput:
        """Have vLLM decide."""
        start = time.process_time()
        output = self.scheduler.schedule()
        self.schedule_s += time.process_time() - start
        self.calls += 1
        self.hit_tokens += hit_tokens(output)
        self.preempted |= output.preempted_req_ids or set()
        return output

    def update(self, output: SchedulerOutput) -> None:
        """Tell vLLM what its model, were there one, sampled."""
        sampled = sample(self.scheduler, output)
        start = time.process_time()
        self.scheduler.update_from_output(output, sampled)
        self.update_s += time.process_time() - start

    def batch(self, call: int, tokens: dict[str, int]) -> dict[str, Any]:
        """Return a decision in the form our own scheduler prints. Block 0 is vLLM's own and not counted."""
        pool = self.scheduler.kv_cache_manager.block_pool
        return {
            "i": call,
            "tokens": tokens,
            "preempted": sorted(map(int, self.preempted)),
            "running": len(self.scheduler.running),
            "waiting": len(self.scheduler.waiting),
            "kv_used": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
        }

    def request(self, place: int, number: int, row: dict[str, Any]) -> Request:
        """Make a request; no two arrive at the same moment, as on a real server."""
        prompt = row["prompt"]
        if isinstance(prompt, int):
            prompt = [PRIVATE + number] * prompt
        return Request(
            request_id=str(number),
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(max_tokens=row["output"], ignore_eos=True),
            pooling_params=None,
            arrival_time=float(place),
            priority=row.get("priority", 0),
            block_hasher=self.hasher,
        )


def make_scheduler(workload: Workload, model: ModelConfig) -> Scheduler:
    """Return vLLM's scheduler for one group of full-attention layers."""
    size, blocks = workload["block_size"], workload["num_blocks"]
    model.max_model_len = workload["max_model_len"]
    config = VllmConfig(
        model_config=model,
        cache_config=CacheConfig(block_size=size, enable_prefix_caching=workload["prefix_caching"]),
        scheduler_config=scheduler_config(workload),
        device_config=DeviceConfig(device="cpu"),
    )
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    grammars = SimpleNamespace(accept_tokens=lambda request, tokens: True)
    return Scheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=grammars,
        block_size=size,
        log_stats=False,
    )


def scheduler_config(workload: Workload) -> SchedulerConfig:
    """Return the sizes that bound an iteration.

    vLLM wants `max_num_batched_tokens` to be at least `max_num_seqs`; a smaller budget is set by
    `max_num_scheduled_tokens`, which bounds an iteration in the same place.
    """
    budget, sequences = workload["max_num_batched_tokens"], workload["max_num_seqs"]
    return SchedulerConfig(
        max_model_len=workload["max_model_len"],
        is_encoder_decoder=False,
        max_num_seqs=sequences,
        max_num_batched_tokens=max(budget, sequences),
        max_num_scheduled_tokens=budget,
        long_prefill_token_threshold=workload["long_prefill_token_threshold"],
        enable_chunked_prefill=True,
        async_scheduling=False,
        policy=workload.get("policy", "fcfs"),
    )


def hit_tokens(output: SchedulerOutput) -> int:
    """Return the tokens that requests which start in this iteration need not compute."""
    cached = output.scheduled_cached_reqs
    resumed = zip(cached.req_ids, cached.num_computed_tokens, strict=True)
    fresh: int = sum(new.num_computed_tokens for new in output.scheduled_new_reqs)
    again: int = sum(count for id, count in resumed if id in cached.resumed_req_ids)
    return fresh + again


def sample(scheduler: Scheduler, output: SchedulerOutput) -> ModelRunnerOutput:
    """Return the tokens a model would: one, its own, for each request whose known tokens are all computed."""
    ids = list(output.num_scheduled_tokens)
    tokens = [[] if scheduler.requests[id].is_prefill_chunk else [PRIVATE + int(id)] for id in ids]
    return ModelRunnerOutput(
        req_ids=ids, req_id_to_index={id: i for i, id in enumerate(ids)}, sampled_token_ids=tokens
    )


if __name__ == "__main__":
    main()
