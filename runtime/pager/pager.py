"""Carries out transfers by a copier: one list of descriptors each, polled for its end, checked where wanted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from aquasim.core.events import Transfer
from aquasim.runtime.copy import Copier, Descriptors, Event
from aquasim.runtime.pager.slots import Blocks, Int64s, Pieces, Slots

Check = Literal["off", "sampled", "always"]
Pages = tuple[tuple[int, ...], tuple[int, ...]]
SAMPLE = 16
"""Sampled: one block in so many is checked."""


class Landed(NamedTuple):
    """A transfer that ended: its times (ns), bytes, and the moves whose pages are spoilt."""

    transfer: int
    start_ns: int
    end_ns: int
    nbytes: int
    spoilt: tuple[int, ...] = ()


@dataclass(slots=True)
class _Flight:
    transfer: Transfer
    pages: Sequence[Pages]
    start_ns: int
    event: Event
    nbytes: int


@dataclass(slots=True)
class _Tier:
    slots: Slots
    sums: dict[int, int] = field(default_factory=dict)
    """Checksum of each block that has one."""


class Pager:
    """Copies between a KV cache in `hbm` and its tiers, on the copier's two streams. One thread may use it.

    Page-outs run in order on one stream and page-ins on the other; a transfer starts when those it names in `after`
    have landed, which the caller sees to. `check` says whether blocks are weighed when they leave and again when
    they are back; a block that differs is told, and is nobody's but its owner's to compute again.

    A cache in `Pieces` pages as well: a block's pieces are gathered to its page and scattered from it. With `staged`,
    that is by way of a buffer near the cache, so that what crosses the link is a few large copies (the default
    on a GPU); else piece by piece.
    """

    def __init__(
        self,
        copier: Copier,
        hbm: Blocks,
        check: Check = "off",
        now: Callable[[], int] = time.monotonic_ns,
        *,
        staged: bool | None = None,
    ) -> None:
        self.copier = copier
        self.staged = copier.device != "cpu" if staged is None else staged
        self.now = now
        self.hbm = hbm
        self.check = check
        self.moved_bytes = 0
        self.spoilt_blocks = 0
        self._tiers: dict[str, _Tier] = {}
        self._flights: dict[int, _Flight] = {}

    def tier(self, name: str) -> Slots:
        """Return where a tier's blocks lie; a new name makes a tier without any."""
        if name not in self._tiers:
            self._tiers[name] = _Tier(Slots(self.hbm.block_bytes))
        return self._tiers[name].slots

    @property
    def busy(self) -> bool:
        """Whether any transfer is under way."""
        return bool(self._flights)

    def uses(self, tier: str) -> bool:
        """Whether a transfer to or from a tier is under way."""
        return any(tier in (f.transfer.tier, f.transfer.to) for f in self._flights.values())

    def start(self, transfer: Transfer, pages: Sequence[Pages]) -> None:
        """Begin a transfer; `pages` are its moves' blocks (from, to).

        They are copied from now on: what was to be written there is, and nobody reads what is overwritten.
        """
        source, target = self._ends(transfer)
        sources = [block for blocks, _ in pages for block in blocks]
        targets = [block for _, blocks in pages for block in blocks]
        stream = self.copier.incoming if transfer.kind == "in" else self.copier.outgoing
        copies = self._copies(transfer, (source, sources), (target, targets))
        now = self.now()
        if transfer.kind != "in":
            self._weigh_leaving(transfer, sources, targets)
        event = self.copier.submit(copies, stream, self._path(transfer), stable=transfer.kind == "in")
        self._flights[transfer.transfer] = _Flight(transfer, pages, now, event, copies.nbytes)

    def landed(self) -> list[Landed]:
        """Return what has ended since the last call, in order of start; raises CopyError where a copy failed."""
        return [self._land(number) for number in [n for n, f in self._flights.items() if f.event.done()]]

    def wait(self, transfers: Sequence[int]) -> list[Landed]:
        """Block until these transfers have ended, and return what has."""
        for number in transfers:
            if number in self._flights:
                self._flights[number].event.wait()
        return self.landed()

    def empty(self, tier: str, extent: str, held: set[int]) -> None:
        """Move the blocks in `held` off an extent to others of its tier, and forget it; blocks until done."""
        assert not self.uses(tier), f"transfers of {tier} are under way"

        def move(source: Int64s, target: Int64s) -> None:
            sizes = np.full(len(source), self.hbm.block_bytes, np.int64)
            self.copier.submit(Descriptors(source, target, sizes), self.copier.outgoing).wait()

        self.tier(tier).empty(extent, move, held.__contains__)

    def written(self, tier: str, numbers: Sequence[int]) -> None:
        """Somebody else writes to blocks of a tier: what they weighed when they left says nothing any more."""
        sums = self._tiers[tier].sums
        for number in numbers:
            sums.pop(number, None)

    def retire(self, tier: str, numbers: Sequence[int]) -> None:
        """Take block numbers of a tier out for good."""
        self.tier(tier).retire(numbers)
        for number in numbers:
            self._tiers[tier].sums.pop(number, None)

    # --- one transfer ----------------------------------------------------------------------------------------

    def _ends(self, transfer: Transfer) -> tuple[Blocks, Blocks]:
        tier = self.tier(transfer.tier)
        if transfer.kind == "out":
            return self.hbm, tier
        return tier, self.hbm if transfer.kind == "in" else self.tier(transfer.to)

    def _copies(
        self, transfer: Transfer, source: tuple[Blocks, list[int]], target: tuple[Blocks, list[int]]
    ) -> Descriptors:
        """Return what a transfer copies: block by block, or piece by piece."""
        hbm, size = self.hbm, self.hbm.block_bytes
        src, dst = (blocks.addresses(numbers) for blocks, numbers in (source, target))
        if isinstance(hbm, Pieces) and transfer.kind != "migrate":
            size = hbm.piece_bytes
            src, dst = (hbm.cut(src), dst) if transfer.kind == "in" else (src, hbm.cut(dst))
        return Descriptors(src, dst, np.full(len(src), size, np.int64))

    def _path(self, transfer: Transfer) -> str:
        if not (self.staged and isinstance(self.hbm, Pieces)) or transfer.kind == "migrate":
            return "auto"
        return "scatter" if transfer.kind == "in" else "gather"

    def _land(self, number: int) -> Landed:
        flight = self._flights.pop(number)
        self.moved_bytes += flight.nbytes
        spoilt = self._spoilt(flight) if flight.transfer.kind == "in" and self.check != "off" else ()
        return Landed(number, flight.start_ns, self.now(), flight.nbytes, spoilt)

    # --- checksums -------------------------------------------------------------------------------------------

    def _checked(self, block: int) -> bool:
        return self.check == "always" or (self.check == "sampled" and block % SAMPLE == 0)

    def _weigh_leaving(self, transfer: Transfer, sources: list[int], targets: list[int]) -> None:
        """Note what each block weighs where it is still: in the cache, or in the tier it migrates from."""
        if self.check == "off":
            return
        here = self._tiers[transfer.to or transfer.tier].sums
        if transfer.kind == "migrate":
            there = self._tiers[transfer.tier].sums
            for source, target in zip(sources, targets, strict=True):
                here.pop(target, None)
                if source in there:
                    here[target] = there[source]
            return
        pairs = [(s, t) for s, t in zip(sources, targets, strict=True) if self._checked(t)]
        for _, target in zip(sources, targets, strict=True):
            here.pop(target, None)
        if pairs:
            sums = self._sums([source for source, _ in pairs], self.copier.outgoing)
            here.update(zip((target for _, target in pairs), sums, strict=True))

    def _spoilt(self, flight: _Flight) -> tuple[int, ...]:
        """Return the moves of which a block weighs something else than when it left."""
        sums = self._tiers[flight.transfer.tier].sums
        found = []
        for index, (sources, targets) in enumerate(flight.pages):
            known = [(s, t) for s, t in zip(sources, targets, strict=True) if s in sums]
            if not known:
                continue
            weights = self._sums([target for _, target in known], self.copier.incoming)
            wrong = sum(sums[s] != weight for (s, _), weight in zip(known, weights, strict=True))
            self.spoilt_blocks += wrong
            if wrong:
                found.append(index)
        return tuple(found)

    def _sums(self, blocks: list[int], stream: object) -> list[int]:
        """Weigh blocks of the cache; of pieces, each counts for more than the one before: none may change places."""
        starts = self.hbm.addresses(blocks)
        pieces = len(starts) // len(blocks)
        sizes = np.full(len(starts), self.hbm.block_bytes // pieces, np.int64)
        sums = self.copier.checksums(starts, sizes, stream).reshape(-1, pieces)  # type: ignore[arg-type]
        weights = np.arange(1, 2 * pieces, 2, dtype=np.uint64)
        found: list[int] = (sums.view(np.uint64) * weights).sum(axis=1, dtype=np.uint64).tolist()
        return found
