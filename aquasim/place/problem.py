"""What is to be placed, and where: jobs that give or need memory, on servers that are all alike."""

from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIB = 1 << 20
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Model:
    """Equal jobs: `replicas` of a model, each on `tp` GPUs of one server."""

    name: str
    spare_bytes: int
    """Per GPU, as the profiler says: more than 0 is given, less than 0 is needed. Whole MiB."""
    replicas: int = 1
    tp: int = 1
    kind: str = "llm"
    bandwidth: float | None = None
    """Bytes per second that a GPU of this model can lend or page at; None: as fast as the link."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Models to place on `servers` servers of `gpus` GPUs with `hbm_bytes` each."""

    servers: int
    models: tuple[Model, ...]
    gpus: int = 8
    hbm_bytes: int = 80 * 1024 * MIB
    seed: int = 0
    """Of the random baseline."""
    donors: int = 1
    """Donors that one consumer GPU may have; AQUA's map has one."""

    def complaint(self) -> tuple[tuple[str, ...], str] | None:
        """Say what cannot be as it stands: the key's path and why, or None."""
        if not self.models:
            return ("models",), "is empty"
        for model in self.models:
            where = ("models", model.name)
            if model.tp > self.gpus:
                return (
                    *where,
                    "tp",
                ), f"is {model.tp}: all shards go on one server, which has {self.gpus} GPUs"
            if model.spare_bytes > self.hbm_bytes:
                most = self.hbm_bytes / 2**30
                return (*where, "gib"), f"is {model.spare_bytes / 2**30:g}: a GPU has {most:g} GiB to give"
        needed = sum(model.replicas * model.tp for model in self.models)
        if needed > self.servers * self.gpus:
            there = self.servers * self.gpus
            return ("servers", "count"), f"is {self.servers}: the jobs need {needed} GPUs, there are {there}"
        return None


class Score(NamedTuple):
    """The paper's objective and its parts, MiB: `objective` = `surplus` + HBM per GPU * `imbalance`."""

    objective: int
    surplus: int
    """Most memory left over on a server: given minus needed."""
    imbalance: int
    """Most donor GPUs minus consumer GPUs on a server."""


@dataclass(frozen=True)
class Instance:
    """A problem as the objective sees it: jobs of one kind (shards, bytes per shard) are interchangeable.

    A placement is an array [servers, kinds] of how many jobs of each kind a server holds.
    """

    servers: int
    gpus: int
    weight: int
    """MiB of HBM per GPU: what one GPU of imbalance costs."""
    tp: Ints
    shard_mib: Ints
    """Signed, per GPU."""
    count: Ints

    @staticmethod
    def of(problem: Problem) -> "Instance":
        """Merge the models of each kind; kinds in descending order of shards, then of memory."""
        found = kinds(problem)
        tp, mib = (np.array(column, np.int64) for column in zip(*found, strict=True))
        count = np.array([sum(m.replicas for m in models) for models in found.values()], np.int64)
        return Instance(problem.servers, problem.gpus, problem.hbm_bytes // MIB, tp, mib, count)

    def by_sign(self) -> "Instance":
        """Merge the kinds that only their amounts tell apart: what packing and imbalance depend on."""
        keys = np.stack([self.tp, np.sign(self.shard_mib)], axis=1)
        classes, which = np.unique(keys, axis=0, return_inverse=True)
        count = np.bincount(which.ravel(), weights=self.count).astype(np.int64)
        return Instance(self.servers, self.gpus, self.weight, classes[:, 0], classes[:, 1], count)

    @cached_property
    def mib(self) -> Ints:
        """What a job of each kind adds to its server's surplus."""
        return self.tp * self.shard_mib

    @cached_property
    def lean(self) -> Ints:
        """What a job of each kind adds to its server's imbalance, in GPUs: a shard counts as a model."""
        return self.tp * np.sign(self.shard_mib)

    @cached_property
    def idle(self) -> int:
        """GPUs that stay empty."""
        return self.servers * self.gpus - int(self.count @ self.tp)

    @cached_property
    def least_surplus(self) -> int:
        """What some server's surplus is at least: the average, or that of a large donor among the hungriest jobs.

        The average is rounded up to what sums of jobs can be.
        """
        step = gcd(*(int(mib) for mib in self.mib)) or 1
        average = -(-int(self.count @ self.mib) // (self.servers * step)) * step
        hungriest = min(0, int(self.shard_mib.min()))
        return max(average, int((self.mib + (self.gpus - self.tp) * hungriest).max()))

    @cached_property
    def least_imbalance(self) -> int:
        """What some server's imbalance is at least: the average, rounded up."""
        return -(-int(self.count @ self.lean) // self.servers)

    def score(self, placed: Ints) -> Score:
        """Return the objective of a placement."""
        surplus = int((placed @ self.mib).max())
        imbalance = int((placed @ self.lean).max())
        return Score(surplus + self.weight * imbalance, surplus, imbalance)

    def holds(self, placed: Ints) -> bool:
        """Whether every job is placed exactly once and no server has more shards than GPUs."""
        return (
            placed.shape == (self.servers, len(self.tp))
            and bool((placed >= 0).all())
            and bool((placed.sum(axis=0) == self.count).all())
            and bool((placed @ self.tp <= self.gpus).all())
        )


def kinds(problem: Problem) -> dict[tuple[int, int], list[Model]]:
    """Return the models by (shards, MiB per shard), in descending order."""
    found: dict[tuple[int, int], list[Model]] = {}
    for model in problem.models:
        found.setdefault((model.tp, model.spare_bytes // MIB), []).append(model)
    return dict(sorted(found.items(), reverse=True))
