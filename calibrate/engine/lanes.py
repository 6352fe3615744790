"""What NEO's scheduler weighs, measured on the runner itself: four tables and a constant (NEO, section 3.3).

Times are of one layer. Axes are the authors': products at every width up to 511 tokens and powers of two beyond;
attention of prompts and of decodes at powers of two and halfway; attention on the host by requests and tokens.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquasim.core import Limits
from aquasim.core.predictor import Curve, Predictor, Surface
from aquasim.hardware import local
from aquasim.hardware.lanes import doubling, halves

if TYPE_CHECKING:
    from aquasim.runtime.engine import HostLanes, Runner

WIDTHS = 512
"""Tokens up to which products are measured one by one."""
PATIENCE_S = 15.0
"""Products that would take longer in all are measured at powers of two and halfway only."""
REPEATS = 3
Grid = dict[tuple[int, int], float]
"""ns by (requests, tokens)."""


class LaneBench:
    """Times the parts of an iteration with lanes on a runner that has a host; nothing may decode meanwhile.

    Block 0 of the host's pool is written to.
    """

    def __init__(self, runner: "Runner", limits: Limits) -> None:
        assert runner.host is not None, "a runner without a host has no lanes"
        self.runner, self.limits = runner, limits
        self.host: HostLanes = runner.host
        self._layer = 0

    def predictor(self) -> Predictor:
        """Measure everything an engine of these limits can ask for."""
        import torch

        limits, size = self.limits, self.limits.block_size
        most = limits.max_num_batched_tokens
        with torch.inference_mode():
            widths = self._widths(most)
            prompts, resident = halves(size, most), halves(size, (limits.blocks + 1) * size)
            return Predictor(
                self.runner.config.layers,
                Curve(widths, [self.linear(tokens) for tokens in widths]),
                Curve(prompts, [self.prefill(tokens) for tokens in prompts]),
                Curve(resident, [self.gpu_decode(tokens) for tokens in resident]),
                self._surface(),
                self.launch(),
            )

    def linear(self, tokens: int) -> float:
        """Return ns of a layer's products over so many tokens: what comes before attention, and what after."""
        import torch

        model, config = self.runner.model, self.runner.config
        options: Any = {"dtype": model.weights.dtype, "device": self.runner.device}
        hidden = torch.randn(tokens, config.hidden, **options)
        attended = torch.randn(tokens, model.heads * config.head_dim, **options)
        turn = model.turn(torch.zeros(tokens, dtype=torch.int64, device=self.runner.device))

        def both() -> None:
            layer = self._next()
            model.before(layer, hidden, turn)
            model.after(layer, hidden, attended)

        return self._time(both)

    def prefill(self, tokens: int) -> float:
        """Return ns of the attention of one prompt of so many tokens."""
        import torch

        from aquasim.runtime.engine.attention.sdpa import attend_whole

        model, dim = self.runner.model, self.runner.config.head_dim
        options: Any = {"dtype": model.weights.dtype, "device": self.runner.device}
        queries = torch.randn(tokens, model.heads, dim, **options)
        keys, values = (torch.randn(tokens, model.kv_heads, dim, **options) for _ in range(2))
        return self._time(lambda: attend_whole(queries, keys, values))

    def gpu_decode(self, tokens: int) -> float:
        """Return ns of the device's decode attention over as few sequences as hold so many tokens."""
        import torch

        from aquasim.runtime.engine.attention import Decodes

        runner, size = self.runner, self.limits.block_size
        count = -(-tokens // min(self.limits.max_model_len, runner.max_len))
        longest = -(-tokens // count)
        places = torch.arange(count * -(-longest // size), device=runner.device) % runner.pool.blocks
        tables = places.view(count, -1).int()
        positions = torch.full((count,), longest - 1, dtype=torch.int64, device=runner.device)
        model, dim = runner.model, runner.config.head_dim
        queries = torch.randn(count, model.heads, dim, dtype=model.weights.dtype, device=runner.device)
        attend = runner.attention.prepare(Decodes(tables, positions, longest), ())
        return self._time(lambda: attend(self._next(), queries))

    def host_decode(self, requests: int, tokens: int) -> float:
        """Return ns of the host's attention over `tokens` tokens, split as evenly as they can be."""
        import torch

        each, more = divmod(tokens, requests)
        lengths = [each + (row < more) for row in range(requests)]
        work = self.host.attention.plan(self._blocks(lengths), lengths)
        queries = torch.randn(requests, self.runner.model.heads, self.runner.config.head_dim)
        out = torch.empty_like(queries)
        return self._time(lambda: self.host.attention.attend(work, self._next(), queries, out))

    def launch(self) -> float:
        """Return ns from a layer's queries to its results on the device, less what the host computes meanwhile."""
        import torch

        from aquasim.runtime.engine import Hosted

        side = self.host.side(0, [Hosted(0, 0, 0, [0])])
        assert side is not None
        model, dim = self.runner.model, self.runner.config.head_dim
        options: Any = {"dtype": model.weights.dtype, "device": self.runner.device}
        queries = torch.randn(1, model.heads, dim, **options)
        keys, values = (torch.randn(1, model.kv_heads, dim, **options) for _ in range(2))

        def there_and_back() -> None:
            side.start(self._next(), queries, keys, values)
            side.finish()

        return max(0.0, self._time(there_and_back, 7 * REPEATS) - self.host_decode(1, 1))

    def _surface(self) -> Surface:
        limits, size = self.limits, self.limits.block_size
        room = (dict(limits.tiers)["host"] + 1) * size
        last = min(room, limits.max_num_seqs * limits.max_model_len)
        requests, tokens = doubling(1, min(limits.max_num_seqs, last)), doubling(1, last)
        found: Grid = {}
        for count in requests:
            for n in tokens:
                if max(count, min(count * size, last)) <= n <= count * limits.max_model_len:
                    found[count, n] = self.host_decode(count, n)
        fill_corner(found, requests, tokens)
        rows = {count: [n for n in tokens if (count, n) in found] for count in requests}
        return Surface(
            requests, [Curve(points, [found[count, n] for n in points]) for count, points in rows.items()]
        )

    def _widths(self, most: int) -> list[int]:
        dense = min(WIDTHS, most + 1)
        long = doubling(dense, most) if most >= dense else []
        slow = self.linear(dense - 1) * 1e-9 * dense / 2 * (REPEATS + 1) > PATIENCE_S
        return sorted({*(halves(1, dense - 1) if slow else range(1, dense)), *long})

    def _blocks(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return blocks of the host's pool for each row, all different while there are as many."""
        at, found = 0, []
        for length in lengths:
            count = -(-length // self.limits.block_size)
            found.append([(at + i) % self.host.pool.blocks for i in range(count)])
            at += count
        return found

    def _next(self) -> int:
        """Return another layer each time, so that no cache holds what is read."""
        self._layer = (self._layer + 1) % self.runner.config.layers
        return self._layer

    def _time(self, call: Callable[[], object], repeats: int = REPEATS) -> float:
        """Return the median ns of a call, after one that does not count."""
        times = []
        for _ in range(repeats + 1):
            self._wait()
            began = time.perf_counter_ns()
            call()
            self._wait()
            times.append(time.perf_counter_ns() - began)
        return float(statistics.median(times[1:]))

    def _wait(self) -> None:
        if self.runner.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.runner.device)


def fill_corner(found: Grid, requests: list[int], tokens: list[int]) -> None:
    """Add what cannot be measured: more tokens than so few requests may have.

    A row goes on as the next one does: T[i][j] = T[i][j-1] + T[i+1][j] - T[i+1][j-1] (NEO's profiler).
    """
    for few, many in zip(requests[-2::-1], requests[:0:-1], strict=True):
        for less, more in pairwise(tokens):
            if (few, more) not in found and (few, less) in found and (many, more) in found:
                found[few, more] = (
                    found[few, less] + found[many, more] - found.get((many, less), found[many, more])
                )


def ensure(runner: "Runner", limits: Limits) -> tuple[Predictor, bool]:
    """Return this machine's tables for a runner and its limits, and whether they were measured now.

    They are kept in the user's cache. Raises UserError where that cannot be written.
    """
    from aquasim.calibrate.engine.local import store

    path = cached_path(runner, limits)
    try:
        return Predictor.from_json(json.loads(path.read_text(encoding="utf-8"))), False
    except (OSError, ValueError, KeyError, TypeError):
        found = LaneBench(runner, limits).predictor()
        store(found.as_json(), path)
        return found, True


def cached_path(runner: "Runner", limits: Limits) -> Path:
    """Return where the tables of this machine, model, engine and kernel are, or would be."""
    import torch

    assert runner.host is not None
    attention = runner.host.attention
    about = [
        local.machine(), repr(runner.config), str(runner.model.weights.dtype), runner.device.type, repr(limits),
        torch.get_num_threads(), attention.threads, attention.name,
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return local.cache_folder() / f"lanes-{name}.json"
