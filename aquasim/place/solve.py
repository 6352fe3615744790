"""The optimum of the paper's objective, or the best placement found in time and a bound that says how good it is."""

import time
from dataclasses import dataclass

from aquasim.errors import UserError
from aquasim.place.baselines import greedy_placement
from aquasim.place.exchange import exchange, fill
from aquasim.place.patterns import Limits
from aquasim.place.problem import Instance, Ints
from aquasim.place.search import Search
from aquasim.place.sources import source_of


@dataclass(frozen=True)
class Packing:
    """How low the imbalance can be: none has less than `least`, and `placed` is one of classes, if found."""

    classes: Instance
    least: int
    placed: Ints | None


@dataclass(frozen=True)
class Solution:
    """A placement [servers, kinds] and what no placement can undercut, MiB."""

    placed: Ints
    bound: int
    formulation: str
    """"patterns": all enumerated, exact given time. "columns": generated, to a thousandth. Or the baseline's name."""


def pack(instance: Instance, deadline: float) -> Packing:
    """Find the least imbalance at which all jobs fit, amounts left aside.

    Raises:
        UserError: the jobs do not fit whatever the imbalance.
    """
    classes = instance.by_sign()
    source = source_of(classes)
    least: int | None = None
    for imbalance in range(instance.least_imbalance, instance.gpus + 1):
        answer = source.probe(Limits(instance.gpus, imbalance), deadline)  # a class's amounts are its GPUs
        if least is None and not (answer.placed is None and answer.sure):
            least = imbalance
        if answer.placed is not None or time.monotonic() > deadline:
            return Packing(classes, imbalance if least is None else least, answer.placed)
    if least is not None:
        return Packing(classes, least, None)
    shards = ", ".join(str(tp) for tp in sorted(set(instance.tp.tolist()), reverse=True))
    raise UserError(
        f"the jobs cannot be packed: groups of {shards} GPUs do not fit {instance.servers} servers "
        f"of {instance.gpus}, although {instance.idle} GPU{'s' if instance.idle > 1 else ''} would stay idle"
    )


def quick_bound(instance: Instance, packing: Packing) -> int:
    """Return what the averages and the packing say that no objective can undercut, MiB."""
    return instance.weight * packing.least + instance.least_surplus


def solve(instance: Instance, time_limit_s: float) -> Solution:
    """Minimise the paper's objective for `time_limit_s` seconds at most (a little more for large instances).

    Raises:
        UserError: the jobs do not fit, or no placement was found in time.
    """
    deadline = time.monotonic() + time_limit_s
    packing = pack(instance, deadline)
    source = source_of(instance)
    found = _starts(instance, packing, not source.exact, deadline)
    search = Search(instance, source, deadline)
    highest = instance.gpus * (instance.weight + max(0, int(instance.shard_mib.max())))
    search.run(packing.least, min((instance.score(start).objective for start in found), default=highest))
    bound = max(quick_bound(instance, packing), search.bound)
    if search.best is not None:
        found.insert(0, search.best)  # before a start of equal objective, which leaves more need uncovered
    if not found:
        raise UserError("no placement was found in time; allow more with --time-limit")
    best = min(found, key=lambda placed: instance.score(placed).objective)
    if instance.score(best).objective > bound:
        best = exchange(instance, best, deadline)
    return Solution(best, bound, "patterns" if source.exact else "columns")


def _starts(instance: Instance, packing: Packing, improve: bool, deadline: float) -> list[Ints]:
    """Return placements found without a solver."""
    starts = [greedy_placement(instance)]
    if improve and packing.placed is not None:
        starts.append(fill(instance, packing.classes, packing.placed))
    found = [start for start in starts if start is not None]
    return [exchange(instance, start, deadline) for start in found] if improve else found
