"""Tenants that borrow and lend without an engine: they remember what they are told, and take their time."""

from collections import Counter
from collections.abc import Callable, Iterator

from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.leasing import Loan, Market

MS = 1_000_000
SECOND = 1_000 * MS


class Tenant:
    """A borrower that takes `delays`, in turn, to settle, and accepts no second word before it has."""

    def __init__(self, env: Clock, delays: Iterator[int]) -> None:
        self.env = env
        self.delays = delays
        self.told: dict[int, int] = {}
        """Bytes it was last told of, by donor."""
        self.used: dict[int, int] = {}
        """Bytes it may have state in: until settled, the more of before and after."""
        self.busy: set[int] = set()
        self.log: list[tuple[int, int, int]] = []

    def use_peer(self, donor: int, size: int, settled: Callable[[], None]) -> None:
        """See `aquasim.sim.tenants.base.Borrower`."""
        assert donor not in self.busy, "told again before it settled"
        assert size >= 0
        self.busy.add(donor)
        self.log.append((self.env.ns, donor, size))
        self.used[donor] = max(self.told.get(donor, 0), size)
        self.told[donor] = size
        self.env.at(self.env.ns + next(self.delays), lambda _: self._settle(donor, size, settled))

    def _settle(self, donor: int, size: int, settled: Callable[[], None]) -> None:
        self.busy.discard(donor)
        self.used[donor] = size
        settled()


class Lender:
    """A lender's engine: counts what it offers and gets back, and polls ten times a second."""

    def __init__(self, env: Clock, market: Market, gpu: int) -> None:
        self.env = env
        self.gpu = gpu
        self.tables = RunTables()
        self.offered = self.back = self.asked = 0
        self.recalled = False
        self.loan: Loan = market.lender(gpu, self._regained, self.tables)
        self._tick(None)

    @property
    def lent(self) -> int:
        """Bytes that are not its own now."""
        return self.offered - self.back

    def offer(self, size: int) -> None:
        """Lend more, unless it wants its memory back."""
        if not self.recalled:
            self.offered += size
            self.loan.offer(size)

    def recall(self) -> None:
        """Want everything back, once."""
        if self.lent and not self.recalled:
            self.recalled = True
            self.asked += self.lent
            self.loan.recall()

    def _regained(self, size: int) -> None:
        self.back += size
        assert self.recalled, "came back unasked"
        assert self.lent >= 0, "more came back than was lent"
        self.recalled = self.lent > 0

    def _tick(self, _: object) -> None:
        self.env.at(self.env.ns + SECOND // 10, self._tick)
        self.loan.poll()


def totals(*tables: RunTables) -> Counter[str]:
    """Bytes of each lease event in records."""
    sums: Counter[str] = Counter()
    for index, each in enumerate(tables):
        run = Run([(f"e{index}", each)], {})
        columns, names = run.columns("leases"), run.labels["event"]
        for event, size in zip(columns["event"].tolist(), columns["bytes"].tolist(), strict=True):
            sums[names[event]] += size
    return sums
