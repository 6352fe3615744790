"""A long prompt whose KV cache does not fit beside the weights: FlexGen's offloading, one sequence after another."""

from dataclasses import dataclass

from aquasim.hardware.cost import StepCost
from aquasim.hardware.offload import Relay, SplitCache, mlp_share, pipelined
from aquasim.hardware.profile import Profile
from aquasim.models import Model
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.fabric import Done, Port
from aquasim.sim.tenants.holdings import HOST, Holdings
from aquasim.sim.topology import Server

ROUND_S = 50e-6
"""Per round of FlexGen's loop, the GPU idle: one device-wide synchronise, the Python of a round, first launches.

Chosen: 5 ms per token at two rounds a layer, of the 30 to 50 ms that OPT-30B computes.
"""
MOST_SHARE = 0.95
"""Most of the HBM bandwidth that transfers are taken to get, as in the paging of serving engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPromptSettings:
    """What to generate and where the remote share of the cache lives. Raises ValueError if a size is off.

    share: of the KV cache, along heads, that is not on the GPU (FlexGen's `--percent 100 0 50 50 100 0`: half).
    pinned: host memory is page-locked. If not, a CPU copies every byte first, `copy_bytes_per_s` of them (0: as
        many as DRAM allows; AQUA's 6x on A100 needs 30e9 or so).
    blocking: nothing is generated while state moves to or from a peer (AQUA's release).
    shadow: a whole copy stays in pinned host memory for good, and tensors move whole both ways, for nobody
        tracks what was written (AQUA's release). If not, only tokens cached so far move.
    split_layers: attention and feed-forward network take turns as layers of their own (FlexGen's default,
        `--sep-layer`), so that loads hide behind the network alone.
    round_s: see `ROUND_S`.
    """

    prompt: int = 8192
    output: int = 128
    batch: int = 1
    share: float = 0.5
    pinned: bool = True
    copy_bytes_per_s: float = 0.0
    blocking: bool = True
    shadow: bool = True
    split_layers: bool = False
    round_s: float = ROUND_S

    def __post_init__(self) -> None:
        for name in ("prompt", "output", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be between 0 and 1")
        if self.copy_bytes_per_s < 0 or self.round_s < 0:
            raise ValueError("copy_bytes_per_s and round_s must not be negative")

    @property
    def tokens(self) -> int:
        """Tokens of one sequence that the cache has room for."""
        return self.prompt + self.output


class LongPrompt:
    """Generates `output` tokens after a long prompt, again and again, for `duration_ns`.

    Every token is a row of `work`, with the bytes read for it from peers and from the host; the first of a
    sequence comes with the prefill, which reads nothing and writes the remote share of the prompt. Loads from
    peers and from the host run beside each other, on streams of their own. No iteration begins after
    `duration_ns`; the last one ends.

    Raises ValueError if weights and the local share do not fit the GPU, or the prompt not the model.
    """

    def __init__(
        self,
        name: str,
        env: Clock,
        server: Server,
        profile: Profile,
        gpu: int,
        model: Model,
        settings: LongPromptSettings,
        tables: RunTables,
        duration_ns: int,
    ) -> None:
        self.name = name
        self.tables = tables
        self.gpu = gpu
        self.settings = settings
        self.cache = SplitCache.of(model, settings.batch, settings.share)
        _check_room(profile, model, settings, self.cache)
        self._env = env
        self._fabric = server.fabric
        self._hbm_read = profile.hbm_read
        self._model = model
        self._cost = StepCost(profile, model, 1, settings.batch * settings.prompt)
        rounds = model.layers * (2 if settings.split_layers else 1)
        self._behind = 1 - 1 / model.layers
        self._idle_ns = round(rounds * settings.round_s * 1e9)
        self._relay = None if settings.pinned else Relay.of(profile, settings.copy_bytes_per_s)
        self.holdings = Holdings(
            env, server, gpu, self.cache, settings.tokens, settings.shadow, self._relay, tables
        )
        self.holdings.landed = self._moved
        self._duration = duration_ns
        self._token = 0
        """The next token of the sequence under way."""
        self._begun = self._loading = self._peer = self._host = 0
        self._compute = self._bound = self._tail = 0
        self._running = False
        self._over = False

    # --- from outside ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin now."""
        self._env.at(self._env.ns, self._boundary)

    @property
    def done(self) -> bool:
        """Whether the time is up and the last iteration has ended."""
        return self._over

    @property
    def remote_bytes(self) -> int:
        """Bytes of the remote share: what peers can hold of it at most."""
        return self.cache.bytes(self.cache.remote, self.settings.tokens)

    def use_peer(self, donor: int, size: int, settled: Done) -> None:
        """Let GPU `donor` hold at most `size` bytes of the remote share, from the next token's start on.

        What fits is a share of every layer, in whole columns, and the rest stays with the host: each layer then
        loads over both links at once, where whole layers would leave one of them idle.
        """
        self.holdings.grant(donor, size, settled)
        if self._over:
            self.holdings.drop()

    # --- iterations ------------------------------------------------------------------------------------------

    def _boundary(self, _: object = None) -> None:
        """Between two tokens: let moves end and begin, then go on, or wait for them."""
        self._running = False
        cached = self.settings.prompt + self._token - 1 if self._token else 0
        self.holdings.settle()
        if self._env.ns >= self._duration:
            self._over = True
            self.holdings.drop()
        elif not self.holdings.begin_moves(cached) or not self.settings.blocking:
            self._begin(cached)

    def _moved(self) -> None:
        """A move's last byte is in place: take it up now where no iteration reads the old one."""
        if not self._running and not self.holdings.moving:
            self._boundary()

    def _begin(self, cached: int) -> None:
        """Start an iteration: its loads and stores now, its compute priced with the HBM share then in force."""
        env, settings, hbm = self._env, self.settings, self._fabric.hbm
        self._running = True
        self._begun = env.ns
        busy, moving = self._price(cached)
        taken = min(MOST_SHARE, hbm.get(self.gpu, 0.0) / self._hbm_read)
        extra = int(moving * taken / (1 - taken))
        self._bound = moving + extra
        self._compute = busy + extra + self._idle_ns
        exposed = 1 / self._model.layers
        if settings.split_layers:
            mlp = mlp_share(self._model, settings.batch * cached)
            exposed = 1 - mlp + mlp / self._model.layers
        self._tail = int(self._compute * exposed)
        self._peer = self._host = 0
        self._loading = 1
        for place, columns in self.holdings.places():
            if cached:
                self._read(place, columns, cached)
            self._write(place, columns, cached)
        for place, columns in self.holdings.arriving():
            self._write(place, columns, cached)
        self._arrived()

    def _price(self, cached: int) -> tuple[int, int]:
        """Return ns of an iteration's kernels, and how many of them at most are bound by HBM."""
        settings, cost = self.settings, self._cost
        batch, prompt = settings.batch, settings.prompt
        if cached:
            busy = cost.decode(batch, batch * cached)[0]
            return busy, min(busy, cost.memory_ns(batch, batch * cached, batch))
        busy = cost.step([(prompt, 0)] * batch, 0, 0)
        return busy, min(busy, cost.memory_ns(batch, 0, batch * prompt))

    def _read(self, place: int, columns: int, cached: int) -> None:
        """Start loading the cached prefix from one place."""
        size = self.cache.bytes(columns, cached)
        rate, path = self.holdings.inbound(place, columns, cached)
        self._send(path, size, rate)
        if place != HOST:
            self._peer += size
            return
        self._host += size
        if self._relay is not None:  # a layer's compute is launched after the next one's CPU copies
            self._compute += round(size * self._behind / self._relay.rate * 1e9)

    def _write(self, place: int, columns: int, cached: int) -> None:
        """Start storing the new token's K and V, or the prompt's, in one place."""
        written = 1 if cached else self.settings.prompt
        rate, path = self.holdings.outbound(place, columns, written)
        self._send(path, self.cache.bytes(columns, written), rate)

    def _send(self, path: tuple[Port, ...], size: int, rate: float) -> None:
        self._loading += 1
        self._fabric.start(path, size, rate, self._arrived)

    def _arrived(self) -> None:
        """After the last of an iteration's transfers, its end is known.

        Bytes that arrive while it computes take HBM bandwidth from it: all of theirs if it outlasts them, else
        their share of what it moves.
        """
        self._loading -= 1
        if self._loading:
            return
        env, moved = self._env, self._peer + self._host
        elapsed = env.ns - self._begun
        compute = self._compute
        if moved:
            share = min(MOST_SHARE, moved / (elapsed * 1e-9 * self._hbm_read))
            compute += int(min(self._bound * share / (1 - share), moved / self._hbm_read * 1e9))
        end = pipelined(self._begun, env.ns, compute, self._model.layers, self._tail if elapsed else 0)
        env.at(end, self._finish)

    def _finish(self, _: object) -> None:
        self.tables.work(self._begun, self._env.ns, self.settings.batch, self._peer, self._host)
        self._token = (self._token + 1) % self.settings.output
        self._boundary()


def _check_room(profile: Profile, model: Model, settings: LongPromptSettings, cache: SplitCache) -> None:
    """Weights, the local share of the cache and two layers' buffers must fit. Positions may run beyond the model's.

    (The weights are dummies.)
    """
    local = cache.bytes(cache.columns - cache.remote, settings.tokens)
    buffers = 2 * cache.bytes(cache.columns, settings.tokens) // model.layers
    needed = model.weight_bytes() + local + buffers
    if needed > profile.memory_bytes:
        raise ValueError(
            f"{model.name} with {settings.tokens} tokens and share {settings.share} needs {needed / 1e9:.1f} GB,"
            f" {profile.title} has {profile.memory_bytes / 1e9:.1f} GB; raise share"
        )
