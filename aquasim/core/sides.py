"""Sub-batches as they are put together, and what the GPU's work leaves the host: times per layer, from tables.

NEO, sections 3.2 and 3.3. Nothing here knows where blocks are: that is `aquasim.core.hosts` and `aquasim.core.lanes`.
"""

from aquasim.core.predictor import Predictor
from aquasim.core.request import Request


class Side:
    """A sub-batch as it is put together, and what its parts take per layer (ns)."""

    __slots__ = (
        "attention",
        "host",
        "host_ns",
        "linear",
        "prefills",
        "sequences",
        "tables",
        "tokens",
        "width",
    )

    def __init__(self, tables: Predictor) -> None:
        self.tables = tables
        self.width = 0
        """Tokens that go through the products."""
        self.sequences = 0
        self.linear = 0.0
        self.attention = 0.0
        """On the GPU."""
        self.prefills: list[Request] = []
        self.host: list[Request] = []
        self.tokens = 0
        """KV tokens of `host`."""
        self.host_ns = 0.0

    @property
    def gpu(self) -> float:
        """Time of the GPU."""
        return self.linear + self.attention

    def widen(self, tokens: int) -> None:
        """Put so many tokens more (or fewer) through the products."""
        self.width += tokens
        self.linear = self.tables.linear.at(self.width)

    def prefill(self, request: Request) -> None:
        """Add a prompt."""
        self.prefills.append(request)
        self.sequences += 1
        self.attention += self.tables.prefill.at(request.total)
        self.widen(request.total)

    def chunk(self, request: Request, count: int) -> None:
        """Add a part of a prompt; only its last one makes a token."""
        end = request.computed + count
        self.sequences += end == request.total
        self.attention += self.tables.prefill.at(end) - self.tables.prefill.at(request.computed)
        self.widen(count)

    def drop(self) -> None:
        """Take the last prompt out."""
        request = self.prefills.pop()
        self.sequences -= 1
        self.attention -= self.tables.prefill.at(request.total)
        self.widen(-request.total)

    def decode(self, count: int, tokens: int) -> None:
        """Add decodes on the GPU."""
        self.sequences += count
        self.attention += self.tables.gpu_decode.at(tokens)
        self.widen(count)

    def push(self, request: Request) -> None:
        """Add a decode on the host."""
        self.host.append(request)
        self._change(1, request.total)

    def pop(self) -> None:
        """Take the last decode on the host out."""
        self._change(-1, -self.host.pop().total)

    def _change(self, count: int, tokens: int) -> None:
        self.sequences += count
        self.tokens += tokens
        self.host_ns = self.tables.host_decode.at(len(self.host), self.tokens)
        self.widen(count)


def remains(pair: list[Side]) -> tuple[float, float]:
    """Time per layer that the GPU's work leaves the host in each sub-batch; negative where it does not hide it."""
    first, second = pair
    launch = first.tables.launch_ns
    return (
        second.linear + first.attention - first.host_ns - launch,
        first.linear + second.attention - second.host_ns - launch,
    )


def hides(pair: list[Side], request: Request) -> bool:
    """Say whether an iteration hides a decode on the host as long as a prompt."""
    pair[1].push(request)
    hidden = min(remains(pair)) >= 0
    pair[1].pop()
    return hidden


def spare_prompts(pair: list[Side], staged: int, flat: int) -> int:
    """Drop the newest prompts bound for the host that nothing needs to hide behind; return how many."""
    first, dropped = pair[0], 0
    while dropped < staged and first.width - first.prefills[-1].total >= flat:
        request = first.prefills[-1]
        first.drop()
        if min(remains(pair)) < 0:
            first.prefill(request)
            break
        dropped += 1
    return dropped
