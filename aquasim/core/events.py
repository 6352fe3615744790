"""What happens (events) and what is to be done (commands): plain immutable tuples, so they compare, hash and pickle.

Named tuples rather than frozen dataclasses: the same guarantees at a quarter of the cost to create, and one of
each is created per decision.
"""

from typing import Literal, NamedTuple

# --- events -----------------------------------------------------------------------------------------------


class Arrived(NamedTuple):
    """A request came in. `prefix` holds one chain hash per leading full block that others may share."""

    request: int
    prompt: int
    max_tokens: int
    priority: int = 0
    prefix: tuple[int, ...] = ()
    output: int | None = None
    """The true output length, only for policies that say they are oracles."""
    adapter: int = -1
    """The LoRA adapter it needs beside the model; -1: none."""


class StepDone(NamedTuple):
    """A step ended after `iterations` of its repeats; `finished` generated their last token in the last one."""

    step: int
    iterations: int
    finished: tuple[int, ...] = ()


class TransferDone(NamedTuple):
    """Every byte of a transfer is in place."""

    transfer: int


class Aborted(NamedTuple):
    """The client gave a request up."""

    request: int


class TierResized(NamedTuple):
    """A tier now has `blocks` (a lease came, grew, or is being reclaimed). Shrinking drains, then `Released`.

    Tier "hbm" is the KV cache itself, which shrinks to lend memory and grows again; both are answered.
    """

    tier: str
    blocks: int


Event = Arrived | StepDone | TransferDone | Aborted | TierResized

# --- commands ---------------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """Prefill `tokens` tokens of a request whose first `start` tokens are computed; `last` samples a token."""

    request: int
    start: int
    tokens: int
    last: bool


class Lanes(NamedTuple):
    """What of an iteration is the host's: NEO's two sub-batches, beside the prefills and decodes of the GPU.

    `first` decode on the host's cores while the GPU is at the products of sub-batch 1, `second` (sub-batch 1, which
    has nothing else) while it is at those of sub-batch 0, each over so many tokens of KV cache. The KV of prompts in
    `staged` leaves for host memory layer by layer.
    """

    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    first_tokens: int = 0
    second_tokens: int = 0
    staged: tuple[int, ...] = ()


class Step(NamedTuple):
    """One iteration, or up to `repeat` identical decode iterations, as a difference to the batch before.

    `batch` sequences decode (0: decoding pauses and the batch stays as it is), whose computed tokens sum to
    `context` before the first iteration. Waits for the transfers in `after`.
    """

    step: int
    batch: int
    context: int
    repeat: int
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    after: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()
    """Who lost its memory since the last step."""
    lanes: Lanes | None = None
    """The host's part in it."""


class Move(NamedTuple):
    """The part of a transfer that belongs to one request, in blocks."""

    request: int
    blocks: int


class Transfer(NamedTuple):
    """Copy KV blocks: `out` (HBM to tier), `in` (tier to HBM) or `migrate` (tier to tier `to`)."""

    transfer: int
    kind: Literal["out", "in", "migrate"]
    tier: str
    blocks: int
    moves: tuple[Move, ...]
    after: tuple[int, ...] = ()
    to: str = ""


class Reject(NamedTuple):
    """A request will not run, and why."""

    request: int
    reason: str


class Released(NamedTuple):
    """A shrinking tier holds no block beyond its new size any more: `blocks` may be taken back."""

    tier: str
    blocks: int


Command = Step | Transfer | Reject | Released
