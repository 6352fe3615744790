"""Time and bytes per token of a long prompt: all local, from host memory, and from another process's memory.

    python tests/runtime/longprompt/speed.py [--context 4096] [--count 16] [--share 0.5] [--device cpu]

On a GPU the host's memory is pinned; `--backend cuda-vmm --donor 1` lends from another GPU. Hidden is what of the
copies' time the compute covered: 1 - (time - local time) / (time of the same bytes copied alone).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from aquasim.runtime.engine import LlamaConfig, Weights, random_weights
from aquasim.runtime.longprompt import LongPrompt
from aquasim.runtime.tensors import PeerPool

GIB = 1 << 30


def measure(engine: LongPrompt, context: int, count: int) -> tuple[float, float, float]:
    """Return the median seconds of a token after `context`, and the bytes read for it from lenders and the host."""
    prompt = [(31 * at * at + 7 * at) % engine.config.vocab for at in range(context)]
    engine.generate(prompt, count + 1, chunk=512)
    last = engine.iterations[-count:]
    engine.close()
    reads = [each.traffic for each in last]
    mean = [sum(read[side] for read in reads) / count for side in (0, 1)]
    return statistics.median(each.seconds for each in last), mean[0], mean[1]


def copy_seconds(pool: PeerPool, layers: int, nbytes: int, device: str) -> float:
    """Return the time of copying `nbytes` in as many pieces as there are layers, with nothing beside."""
    from aquasim.runtime.tensors import Part

    size = max(1, int(nbytes) // layers)
    kept = [pool.put(torch.zeros(size, dtype=torch.uint8)) for _ in range(layers)]
    target = torch.zeros(size, dtype=torch.uint8, device=device)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for tensor in kept:
            pool.fetch([Part(tensor, 0, size, target.data_ptr())]).wait()
        times.append(time.perf_counter() - started)
    for tensor in kept:
        tensor.free()
    return statistics.median(times)


@contextmanager
def lenders(asked: argparse.Namespace) -> Iterator[Path]:
    """Give a coordinator and a donor as processes; yields the socket."""
    folder = Path(tempfile.mkdtemp(prefix="aql"))
    socket = folder / "c.sock"
    donate = ["donate", "--gib", f"{asked.gib}", "--extent-mib", "256", "--backend", asked.backend]
    donate += [] if asked.donor is None else ["--device", f"{asked.donor}"]
    started = []
    for words in (["coordinator"], donate):
        command = [sys.executable, "-m", "aquasim", *words, "--socket", str(socket)]
        started.append(subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL))
        while not socket.exists():
            time.sleep(0.05)
    yield socket
    for process in reversed(started):
        process.kill()
        process.wait()


def report(
    name: str, asked: argparse.Namespace, config: LlamaConfig, weights: Weights, pool: PeerPool, share: float,
    local: float,
) -> float:  # fmt: skip
    """Print one line; return the time of a token."""
    limit = asked.context + asked.count + 1
    device = "cpu" if asked.device == "cpu" else "cuda"
    engine = LongPrompt(config, weights, pool, tokens=limit, share=share, device=device)
    seconds, peer, host = measure(engine, asked.context, asked.count)
    line = f"{name:10} {seconds * 1e3:8.2f} ms/token, {peer / 1e6:7.2f} MB of peers, {host / 1e6:7.2f} of the host"
    if peer + host:
        alone = copy_seconds(pool, config.layers, int(peer + host), device)
        hidden = max(0.0, min(1.0, 1 - (seconds - local) / alone))
        line += f"; alone {alone * 1e3:.2f} ms ({(peer + host) / alone / 1e9:.1f} GB/s), hidden {hidden:.0%}"
    print(line)
    return seconds


def main() -> None:
    """Print a line each for local, host and peer."""
    parser = argparse.ArgumentParser()
    for name, default in (("threads", 1), ("layers", 8), ("hidden", 512), ("context", 4096), ("count", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="memfd")
    parser.add_argument("--donor", default=None)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    sizes = {"hidden": asked.hidden, "head_dim": 64, "intermediate": 3 * asked.hidden, "layers": asked.layers}
    heads = asked.hidden // 64
    config = LlamaConfig(vocab=4096, heads=heads, kv_heads=heads, max_positions=1 << 17, **sizes)
    on = "cpu" if asked.device == "cpu" else "cuda"
    dtype = torch.float32 if on == "cpu" else torch.bfloat16
    weights = random_weights(config, dtype=dtype, device=on)
    device = "cpu" if on == "cpu" else int(asked.device)
    size = int(asked.gib * GIB)
    with PeerPool(None, "long", 0, size, device=device) as pool:
        local = report("local", asked, config, weights, pool, 0.0, 0.0)
        report("host", asked, config, weights, pool, asked.share, local)
    with lenders(asked) as socket, PeerPool(socket, "long", size, size, device=device) as pool:
        while not pool.room[0]:
            pool.respond()
            time.sleep(0.05)
        report("peer", asked, config, weights, pool, asked.share, local)


if __name__ == "__main__":
    main()
