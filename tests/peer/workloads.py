"""Random workloads, one family per corner of the scheduler; the same seed gives the same workloads."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Workload = dict[str, Any]
Prompt = int | list[int]

VOCABULARY = 30_000
OUTPUT = 300
"""Longest output: keeps a workload under a few thousand iterations."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the workloads of one family have in common; each tuple lists equally likely values."""

    blocks: tuple[int, int] = (40, 200)
    """Least and most usable blocks."""
    sequences: tuple[int, ...] = (1, 2, 8, 32, 128)
    budgets: tuple[int, ...] = (64, 128, 256, 512, 2048)
    thresholds: tuple[int, ...] = (0, 7, 16, 48)
    caching: tuple[bool, ...] = (False,)
    documents: tuple[int, ...] = (0,)
    """Texts that prompts begin with; 0: every prompt is its own."""
    whole: float = 0.0
    """Share of the prompts from documents that are nothing but the document's beginning."""
    policy: str = "fcfs"
    priorities: tuple[int, ...] = (0,)


TIGHT = (3, 24)
FAMILIES = {
    "chunked": Family(),
    "tight": Family(blocks=TIGHT),
    "small budget": Family(blocks=(4, 60), sequences=(2, 8, 32), budgets=(1, 2, 3, 5, 8, 13, 24)),
    "prefixes": Family(caching=(True,), blocks=(4, 80), documents=(1, 2, 5), whole=0.2),
    "identical": Family(caching=(True,), blocks=TIGHT, documents=(1, 2, 3), whole=0.9),
    "priority": Family(blocks=(4, 60), policy="priority", priorities=(0, 1, 2, 3)),
    "priority, all else": Family(
        blocks=(3, 60),
        sequences=(2, 8, 32),
        budgets=(2, 5, 13, 64, 512),
        caching=(False, True),
        documents=(0, 1, 3),
        whole=0.5,
        policy="priority",
        priorities=(-1, 0, 0, 5),
    ),
}


def workloads(name: str, count: int, seed: int = 0) -> Iterator[Workload]:
    """Yield `count` workloads of a family."""
    for number in range(count):
        yield make(FAMILIES[name], random.Random(f"{name} {seed} {number}"))


def make(family: Family, rng: random.Random) -> Workload:
    """Draw one workload."""
    size, blocks = rng.choice((8, 16, 32)), rng.randint(*family.blocks)
    longest = rng.choice((blocks, max(2, blocks // 2))) * size - rng.choice((0, 0, 1, 5))
    documents = make_documents(rng, rng.choice(family.documents), longest - 1)
    return {
        "num_blocks": blocks + 1,
        "block_size": size,
        "max_num_seqs": rng.choice(family.sequences),
        "max_num_batched_tokens": rng.choice(family.budgets),
        "max_model_len": longest,
        "long_prefill_token_threshold": min(rng.choice(family.thresholds), longest),
        "prefix_caching": rng.choice(family.caching),
        "policy": family.policy,
        "requests": make_requests(family, rng, documents, length_of(rng, size, longest - 1)),
    }


def make_requests(
    family: Family, rng: random.Random, documents: list[list[int]], length: Callable[[], int]
) -> list[dict[str, Any]]:
    """Draw requests that arrive in bursts."""
    step, rows = 0, []
    for _ in range(rng.choice((3, 8, 20, 50))):
        step += rng.choice((0, 0, 0, 0, 1, 2, 9, 40))
        prompt = make_prompt(rng, documents, length(), family.whole)
        output, priority = min(length(), OUTPUT), rng.choice(family.priorities)
        rows.append({"step": step, "prompt": prompt, "output": output, "priority": priority})
    return rows


def length_of(rng: random.Random, size: int, longest: int) -> Callable[[], int]:
    """Return a source of lengths: short ones, any, and those a token off a block's edge."""

    def draw() -> int:
        edge = rng.randint(1, max(1, longest // size)) * size + rng.choice((-1, 0, 0, 1))
        return min(longest, rng.choice((rng.randint(1, size), rng.randint(1, longest), edge, edge // 4 + 1)))

    return draw


def make_documents(rng: random.Random, count: int, longest: int) -> list[list[int]]:
    """Draw texts of `longest` tokens, each of which leaves an earlier one's path at a random place."""
    documents: list[list[int]] = []
    for _ in range(count):
        parent = rng.choice(documents) if documents else []
        begin = parent[: rng.randint(0, longest)]
        documents.append(begin + fresh(rng, longest - len(begin)))
    return documents


def make_prompt(rng: random.Random, documents: list[list[int]], length: int, whole: float) -> Prompt:
    """Draw a prompt: a document's beginning, one with an own ending, or (one in ten) tokens of its own."""
    if not documents or rng.random() < 0.1:
        return length
    document = rng.choice(documents)
    if rng.random() < whole:
        return document[:length]
    begin = document[: rng.randint(0, length)]
    return begin + fresh(rng, length - len(begin))


def fresh(rng: random.Random, count: int) -> list[int]:
    """Return tokens that make no block another text has."""
    return [rng.randrange(VOCABULARY) for _ in range(count)]
