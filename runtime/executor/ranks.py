"""Tensor-parallel ranks as one engine: rank 0 schedules, the others do what it does, each with its own memory.

    leader = Leader(executor, connections, tier)     # rank 0; then drive the executor as ever
    Follower(executor, connection, tier).run()       # every other rank, until the leader is closed

Every rank has a scheduler, and all are told the same events in the same order: equal state, equal commands, equal
block numbers. Only rank 0 listens to clients and clocks. A transfer has landed when it has at every rank; a leased
tier is as large as at the rank that has least. Lanes are weighed by rank 0's tables: each rank measures others.
Where requests decode on the host, each rank has a host's pool and cores of its own, for its own KV heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from aquasim.core.predictor import Predictor
from aquasim.runtime.executor.executor import IDLE_S, Executor
from aquasim.runtime.executor.leased import LeasedTier
from aquasim.runtime.pager import Landed

NAP_S = 2e-3
"""Between two looks at leases while rank 0 says nothing."""


def _tables(predictor: Predictor | None) -> dict[str, Any] | None:
    """Return tables as plain data: compiled ones cannot be sent as they are."""
    return None if predictor is None else predictor.as_json()


class RankLostError(RuntimeError):
    """Another rank of the engine is gone, and the engine with it."""


class OutOfStepError(RuntimeError):
    """A rank computed other tokens than rank 0."""


@dataclass(slots=True)
class _Meeting:
    """A transfer that has landed at some ranks: here as `own`, at `count` in all."""

    own: Landed | None = None
    count: int = 0
    spoilt: set[int] = field(default_factory=set)


class Leader:
    """Rank 0's word to the others. Each of `connections` leads to one of them; `tiers` are leased, on every rank.

    The executor must have no adapters. Everybody's tiers begin empty. The executor's calls raise RankLostError when a
    rank is gone.
    """

    def __init__(
        self, executor: Executor, connections: Sequence[Connection], tiers: Sequence[LeasedTier] = ()
    ) -> None:
        assert executor.loras is None, "adapters are whole on one rank"
        self._executor, self._links = executor, list(connections)
        self._sizes: dict[str, list[int]] = {tier.name: [0] * (len(self._links) + 1) for tier in tiers}
        """Blocks that each rank has for a tier."""
        self._meetings: dict[int, _Meeting] = {}
        self._upkeep = executor.upkeep
        executor.upkeep, executor.follow = self.upkeep, self._tell
        executor.transfers.everywhere = self._everywhere
        for tier in tiers:
            tier.resize = lambda name, blocks: self._resize(0, name, blocks)
        self._tell("weigh", executor.now(), _tables(executor.scheduler.policy.predictor))

    def upkeep(self) -> bool:
        """Hear what the other ranks have to say, then do what else is to do; say whether there was anything."""
        heard = False
        for rank, link in enumerate(self._links, 1):
            while _waits(rank, link):
                heard = True
                self._hear(rank, _receive(rank, link))
        return (self._upkeep() if self._upkeep is not None else False) or heard

    def close(self) -> None:
        """Let the other ranks go. The executor must be idle."""
        self._executor.follow = None
        for link in self._links:
            link.send(None)
            link.close()

    def _tell(self, *words: Any) -> None:
        for rank, link in enumerate(self._links, 1):
            try:
                link.send(words)
            except OSError as error:
                raise RankLostError(f"rank {rank} is gone") from error

    def _hear(self, rank: int, words: Any) -> None:
        what, *rest = words
        if what == "landed":
            self._meet(rest[0])
        else:
            assert what == "resize", what
            self._resize(rank, *rest)

    def _resize(self, rank: int, tier: str, blocks: int) -> None:
        """Note what a rank has; the tier has what the poorest has."""
        sizes = self._sizes[tier]
        before, sizes[rank] = min(sizes), blocks
        if min(sizes) != before:
            self._executor.resize_tier(tier, min(sizes))

    def _everywhere(self, landed: list[Landed]) -> list[Landed]:
        """Add what has landed here; return what has at all ranks, with the moves that are spoilt at any."""
        for each in landed:
            self._meet(each).own = each
        done = [number for number, met in self._meetings.items() if met.own and met.count > len(self._links)]
        met = [self._meetings.pop(number) for number in done]
        return [each.own._replace(spoilt=tuple(sorted(each.spoilt))) for each in met if each.own]

    def _meet(self, landed: Landed) -> _Meeting:
        meeting = self._meetings.setdefault(landed.transfer, _Meeting())
        meeting.count += 1
        meeting.spoilt.update(landed.spoilt)
        return meeting


class Follower:
    """A rank above 0: repeats what rank 0 does, on its own part of the cache, and says what lands and what it leases.

    Its executor needs no clock and no worker: times are rank 0's, and a step is computed when it is told.
    """

    def __init__(self, executor: Executor, connection: Connection, tiers: Sequence[LeasedTier] = ()) -> None:
        self._executor, self._link = executor, connection
        self._now = 0
        self._landed: dict[int, Landed] = {}
        self._tokens: dict[int, int] = {}
        executor.now = lambda: self._now
        for tier in tiers:
            tier.resize = lambda name, blocks: self._say("resize", name, blocks)

    def run(self) -> None:
        """Follow until the leader lets go; raises RankLostError if it is gone, OutOfStepError for other tokens."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """Do what can be done now, and wait a moment where that is nothing; False: the leader has let go."""
        executor = self._executor
        for landed in executor.transfers.landed():
            self._landed[landed.transfer] = landed
            self._say("landed", landed)
        moved = executor.upkeep() if executor.upkeep is not None else False
        executor.transfers.start()
        idle = IDLE_S if executor.transfers.moving else NAP_S
        if _waits(0, self._link, 0 if moved else idle):
            words = _receive(0, self._link)
            if words is None:
                return False
            self._repeat(*words)
        return True

    def _repeat(self, what: str, now: int, *words: Any) -> None:
        """Do what rank 0 did at `now`."""
        executor, self._now = self._executor, now
        match what:
            case "begin":
                self._tokens = executor.begin().result()
            case "end":
                if self._tokens != words[0]:
                    raise OutOfStepError(f"rank 0 computed {words[0]}, we computed {self._tokens}")
                executor.end(self._tokens)
            case "land":
                own = self._landed.pop(words[0].transfer)
                executor.land(own._replace(spoilt=words[0].spoilt))
            case "submit":
                id, tokens, max_tokens, options = words
                executor.submit(id, tokens, max_tokens, **options)
            case "weigh":
                executor.scheduler.policy.predictor = Predictor.from_json(words[0]) if words[0] else None
            case _:
                assert what in ("abort", "decide", "resize_tier"), what
                getattr(executor, what)(*words)

    def _say(self, *words: Any) -> None:
        try:
            self._link.send(words)
        except OSError as error:
            raise RankLostError("rank 0 is gone") from error


def _waits(rank: int, link: Connection, seconds: float = 0.0) -> bool:
    try:
        return link.poll(seconds)
    except OSError as error:
        raise RankLostError(f"rank {rank} is gone") from error


def _receive(rank: int, link: Connection) -> Any:
    try:
        return link.recv()
    except (EOFError, OSError) as error:
        raise RankLostError(f"rank {rank} is gone") from error
