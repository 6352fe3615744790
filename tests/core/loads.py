"""Random engines, loads and policies' options; and the same load in runs of iterations and one by one."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from driver import Driver, Load

from aquasim.core import POLICIES, Limits
from aquasim.core.policies.base import Policy

PLAIN = sorted(name for name, policy in POLICIES.items() if policy.lanes is None)
Mode = Literal["chunked", "prompt-only"]
MODES: tuple[Mode, ...] = ("chunked", "prompt-only")


def random_load(seed: int, blocks: int, tiers: bool) -> Load:
    """Requests of all sizes that fit, shared prefixes, aborts, and a peer tier that comes and goes."""
    rng = random.Random(seed)
    count = rng.randint(1, 25)
    room = blocks * 4
    jobs = []
    for _ in range(count):
        prefix = tuple(hash((rng.randint(0, 1), i)) for i in range(rng.randint(0, 3)))
        prompt = rng.randint(
            max(1, 4 * len(prefix)), max(2, 4 * len(prefix), room // rng.choice([1, 2, 4, 8]))
        )
        jobs.append((rng.randint(0, 60), prompt, rng.randint(1, room // 2), rng.randint(0, 3), prefix))
    aborts = {rng.randint(0, 100): [rng.randrange(count)] for _ in range(rng.randint(0, 4))}
    resizes = {}
    if tiers:
        resizes = {
            rng.randint(0, 120): [("peer", rng.choice([0, blocks // 2, blocks * 2]))]
            for _ in range(rng.randint(0, 4))
        }
    return Load(jobs, aborts, resizes)


def lend(seed: int, blocks: int, load: Load) -> None:
    """Let HBM's pool shrink, down to half, and grow a few times; at last it has its size again."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        load.resizes.setdefault(rng.randint(0, 120), []).append(
            ("hbm", rng.randint((blocks + 1) // 2, blocks))
        )
    load.resizes.setdefault(121, []).append(("hbm", blocks))


def random_limits(seed: int, mode: Mode, caching: bool) -> tuple[Limits, Load]:
    """A small engine, with or without tiers, and a load for it."""
    rng = random.Random(seed)
    blocks = rng.randint(6, 40)
    pages = rng.random() < 0.8
    tiers = (("peer", blocks), ("host", rng.choice([0, blocks, blocks * 10]))) if pages else ()
    lends = rng.random() < 0.4
    limits = Limits(
        blocks=blocks,
        block_size=4,
        max_model_len=(blocks + 1) // 2 * 4 if lends else 0,
        max_num_seqs=rng.choice([2, 4, 64]),
        max_num_batched_tokens=rng.choice([4, 16, 64]),
        long_prefill_token_threshold=rng.choice([0, 0, 8]),
        prefix_caching=caching,
        prefill=mode,
        tiers=tiers,
        max_repeat=rng.choice([1, 1 << 30]),
    )
    load = random_load(seed, blocks, pages)
    if lends:
        lend(seed, blocks, load)
    return limits, load


def options(name: str, seed: int, mode: Mode = "chunked") -> dict[str, object]:
    """Options for a policy that has any."""
    rng = random.Random(seed)
    if name == "cfs":
        return {
            "slice_length": rng.choice([1, 2, 6]),
            "clamp": rng.random() < 0.5,
            "backfill": rng.random() < 0.5,
            "overlap": rng.random() < 0.3,
        }
    if name == "fcfs-swap":
        return {"overlap": mode == "chunked" and rng.random() < 0.3}
    return {"slice_length": rng.choice([1, 4, 16])} if name == "aqua" else {}


class Announced(Driver):
    """A driver that ends a run of iterations when somebody comes or leaves or a tier changes, as an engine does."""

    def _complete(self, now: int) -> None:
        comes = any(job[0] <= now and id not in self.generated for id, job in enumerate(self.load.jobs))
        if comes or now in self.load.aborts or now in self.load.resizes:
            self.disturbed = True
        super()._complete(now)


def both(limits: Limits, policy: Callable[[], Policy], load: Load, seed: int) -> tuple[object, object]:
    """Return when every token came, iteration by iteration and in runs of iterations."""
    stepped, fused = (
        Announced(replace(limits, max_repeat=most), policy(), load, seed, check=False).run().tokens
        for most in (1, 1 << 30)
    )
    return stepped, fused
