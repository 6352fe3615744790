"""Loads of an adapter by home, and what adapters add to a decode step.

    python tests/runtime/lora/speed.py [--threads 1] [--layers 8] [--hidden 512] [--rank 32] [--batch 8]

Homes: one contiguous tensor in another process's memory and in host memory, a tensor per A and B, the file.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, random_weights
from aquasim.runtime.lora import Adapter, FileHome, LoraLayout, LoraSlots, PeerHome, pack, random_adapter
from aquasim.runtime.tensors import PeerPool


def median(run: Callable[[], object], times: int) -> float:
    """Return the median seconds of some runs."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def load(home: Any, name: str, slots: LoraSlots) -> None:
    """Load one adapter to a slot and wait."""
    loading, _ = home.load(name, slots.memory[0])
    while not loading.done():
        time.sleep(2e-5)


def save(folder: Path, adapter: Adapter) -> Path:
    """Write an adapter as PEFT does."""
    folder.mkdir()
    tensors = {}
    for (layer, target), pair in adapter.matrices.items():
        module = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        for half, matrix in zip("AB", pair, strict=True):
            tensors[f"base_model.model.model.layers.{layer}.{module}.{target}.lora_{half}.weight"] = matrix
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": adapter.rank, "lora_alpha": adapter.rank}))
    return folder


def loads(layout: LoraLayout, adapter: Adapter, folder: Path) -> None:
    """Print the time of a load from each home."""
    slots = LoraSlots(layout, 1)
    size = slots.slot_bytes
    socket = folder / "c.sock"
    started = []
    for words in (["coordinator"], ["donate", "--gib", "0.5", "--extent-mib", "256"]):
        command = [sys.executable, "-m", "aquasim", *words, "--socket", str(socket)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        while not socket.exists():
            time.sleep(0.05)
    print(f"adapter of {size / 1e6:.1f} MB, {layout.tensors} tensors")
    for side, want in (("host", 0), ("peer", 512 << 20)):
        for small in (False, True):
            with PeerPool(socket, "adapters", want, 256 << 20) as pool:
                while want and not pool.room[0]:
                    pool.respond()
                    time.sleep(0.02)
                home = PeerHome(pool, layout, torch.float32, small=small)
                home.add(adapter)
                seconds = median(partial(load, home, adapter.name, slots), 15)
            kind = "small tensors" if small else "one tensor"
            print(f"{side:5} {kind:13} {seconds * 1e3:8.2f} ms, {size / seconds / 1e9:5.2f} GB/s")
    file = FileHome(layout, torch.float32, [save(folder / adapter.name, adapter)])
    seconds = median(lambda: load(file, adapter.name, slots), 5)
    print(f"file                {seconds * 1e3:8.2f} ms, {size / seconds / 1e9:5.2f} GB/s")
    file.close()
    for process in reversed(started):
        process.kill()
        process.wait()


def steps(config: LlamaConfig, layout: LoraLayout, batch: int) -> None:
    """Print the time of a decode step by how many of its rows have which adapters."""
    slots = LoraSlots(layout, 4)
    for slot in range(4):
        slots.memory[slot] = pack(random_adapter(config, layout.rank, slot), layout, torch.float32)
    weights = random_weights(config)
    for name, adapters in (
        ("none", [-1]),
        ("one", [0]),
        ("four", [0, 1, 2, 3]),
        ("half base", [0, -1, 1, -1]),
    ):
        pool = KvPool.of(config, 16 * batch, 16)
        runner = Runner(config, weights, pool, max_seqs=batch, loras=slots)
        for id in range(batch):
            slot, blocks = adapters[id % len(adapters)], range(16 * id, 16 * id + 16)
            token = runner.step([Prefill(id, [id + 1] * 64, 0, blocks, adapter=slot)], decode=False)[id]
            runner.batch.join(id, token, 64, blocks, adapter=slot)
        print(f"decode of {batch}, adapters: {name:9} {median(runner.step, 40) * 1e3:7.2f} ms")


def main() -> None:
    """Print loads, then steps."""
    parser = argparse.ArgumentParser()
    for name, default in (("threads", 1), ("layers", 8), ("hidden", 512), ("rank", 32), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    sizes = {"hidden": asked.hidden, "head_dim": 64, "intermediate": 3 * asked.hidden, "layers": asked.layers}
    config = LlamaConfig(vocab=4096, heads=asked.hidden // 64, kv_heads=2, **sizes)
    layout = LoraLayout(config, asked.rank)
    with tempfile.TemporaryDirectory(prefix="aqx") as folder:
        loads(layout, random_adapter(config, asked.rank, 1, name="a"), Path(folder))
    steps(config, layout, asked.batch)


if __name__ == "__main__":
    main()
