"""Where the remote columns of a split KV cache are: peers' memory as far as granted, host memory otherwise."""

from collections.abc import Callable, Iterator

from aquasim.hardware.links import LinkKind
from aquasim.hardware.offload import Relay, SplitCache
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.fabric import Done, Port
from aquasim.sim.topology import Server

HOST = -1
"""The place of columns that no peer holds."""

Route = tuple[LinkKind, tuple[Port, ...]]


class Holdings:
    """Columns by place, what each peer was granted, and moves between them over the peers' host links.

    A move begins in `begin_moves` and ends on the fabric; the columns are read from their old place until
    `settle` takes it up, at an iteration boundary, and what is written meanwhile goes to both. `landed` is
    called when one has ended.
    """

    def __init__(
        self,
        env: Clock,
        server: Server,
        gpu: int,
        cache: SplitCache,
        tokens: int,
        shadow: bool,
        relay: Relay | None,
        tables: RunTables,
    ) -> None:
        self.landed: Callable[[], None] = lambda: None
        self.moving: dict[int, int] = {}
        """Columns that each donor will hold, of those whose move is under way."""
        self._env = env
        self._server = server
        self._gpu = gpu
        self._cache = cache
        self._tokens = tokens
        self._shadow = shadow
        self._relay = relay
        self._tables = tables
        self._remote = cache.remote
        self._held: dict[int, int] = {}
        self._granted: dict[int, int] = {}
        self._settled: dict[int, Done] = {}
        self._ended: dict[int, int] = {}
        """Columns that donors hold once the moves that ended are taken up."""
        self._routes: dict[int, tuple[Route, Route]] = {HOST: (server.from_host(gpu), server.to_host(gpu))}
        self._note()

    # --- where columns are -----------------------------------------------------------------------------------

    @property
    def on_peers(self) -> int:
        """Columns that peers hold."""
        return sum(self._held.values())

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (donor or `HOST`, columns) of every place that holds any."""
        left = self._remote
        for donor, columns in self._held.items():
            left -= columns
            yield donor, columns
        if left:
            yield HOST, left

    def arriving(self) -> Iterator[tuple[int, int]]:
        """Yield (place, columns) of what is on its way there."""
        for donor, columns in self.moving.items():
            more = columns - self._held.get(donor, 0)
            yield (donor, more) if more > 0 else (HOST, -more)

    def inbound(self, place: int, columns: int, tokens: int) -> tuple[float, tuple[Port, ...]]:
        """Return rate cap and path of reading `tokens` tokens' K and V, layer by layer, from a place."""
        link, path = self._routes[place][0]
        return self._rate(place, link, columns, tokens), path

    def outbound(self, place: int, columns: int, tokens: int) -> tuple[float, tuple[Port, ...]]:
        """Return rate cap and path of writing `tokens` tokens' K and V, layer by layer, to a place."""
        link, path = self._routes[place][1]
        return self._rate(place, link, columns, tokens), path

    def _rate(self, place: int, link: LinkKind, columns: int, tokens: int) -> float:
        size = self._cache.copy_bytes(columns, tokens)
        if place == HOST and self._relay is not None:
            return self._relay.link_rate(link, size)
        return link.rate(size)

    # --- moves -----------------------------------------------------------------------------------------------

    def grant(self, donor: int, size: int, settled: Done) -> None:
        """Note that `donor` lends `size` bytes from the next boundary on."""
        assert donor not in self._settled, f"GPU {donor}: a second grant before the first one settled"
        assert self._server.topology.connected(self._gpu, donor), (
            f"GPU {donor} has no peer link to GPU {self._gpu}"
        )
        self._granted[donor] = size
        self._settled[donor] = settled
        if donor not in self._routes:
            server, gpu = self._server, self._gpu
            self._routes[donor] = server.between(donor, gpu), server.between(gpu, donor)

    def begin_moves(self, cached: int) -> bool:
        """Start every move that the grants ask for, with `cached` tokens in the cache; say whether any is under way.

        Grants that ask for none settle. Columns that one donor no longer holds may later go to another with room.
        """
        for donor in list(self._granted):
            if donor not in self.moving:
                self._move(donor, cached)
        return bool(self.moving)

    def _move(self, donor: int, cached: int) -> None:
        held = self._held.get(donor, 0)
        fits = self._fitting(donor)
        tokens = self._tokens if self._shadow else cached
        if fits != held and tokens:
            columns = abs(fits - held)
            link, path = (self._server.from_host if fits > held else self._server.to_host)(donor)
            size, rate = self._cache.bytes(columns, tokens), self._rate(HOST, link, columns, tokens)
            self.moving[donor] = fits
            self._server.fabric.start(path, size, rate, lambda: self._ends(donor, fits))
            return
        self._hold(donor, fits)
        settled = self._settled.pop(donor, None)
        if settled is not None:
            settled()

    def _fitting(self, donor: int) -> int:
        """Return the columns that a donor is to hold: what it lends room for and no other holds or awaits."""
        taken = {
            d: max(n, self.moving.get(d, 0)) for d, n in (self.moving | self._held).items() if d != donor
        }
        room = self._granted[donor] // self._cache.bytes(1, self._tokens)
        return max(0, min(room, self._remote - sum(taken.values())))

    def _ends(self, donor: int, columns: int) -> None:
        del self.moving[donor]
        self._ended[donor] = columns
        self.landed()

    def settle(self) -> None:
        """Take up the moves that have ended."""
        ended, self._ended = self._ended, {}
        for donor, columns in ended.items():
            self._hold(donor, min(columns, self._remote))

    def _hold(self, donor: int, columns: int) -> None:
        if columns == self._held.get(donor, 0):
            return
        self._held[donor] = columns
        if not columns:
            del self._held[donor]
        self._note()

    def drop(self) -> None:
        """Give everything up: the cache is no longer needed, and every grant settles (after moves under way)."""
        if self._remote:
            self._remote = 0
            self._held.clear()
            self._note()
        self.begin_moves(0)

    def _note(self) -> None:
        """Record how much memory the remote share takes on peers and on the host."""
        column = self._cache.bytes(1, self._tokens)
        peers = self.on_peers
        host = self._remote - (0 if self._shadow else peers)
        self._tables.memory(self._env.ns, "peer", peers * column)
        self._tables.memory(self._env.ns, "host", host * column)
