"""In padded mode a request's tokens, and the bytes of its pages, are those it has alone."""

import math
import random
from dataclasses import dataclass, field

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_llama import TINY

from aquasim.runtime.engine import KvPool, Prefill, Runner, Sampling, random_weights

BLOCKS, SIZE, PADDED = 60, 4, 16
WEIGHTS = random_weights(TINY, 3)


@dataclass
class Request:
    """A prompt in chunks, and how far it has come."""

    id: int
    prompt: list[int]
    chunks: list[int]
    output: int
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    blocks: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether every token is there."""
        return len(self.tokens) == self.output


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Draw prompts, the sizes of their chunks, output lengths and ways of sampling."""
    drawn = []
    for id in range(draw(st.integers(1, 4))):
        prompt = draw(st.lists(st.integers(0, 96), min_size=1, max_size=22))
        chunks, left = [], len(prompt)
        while left:
            chunks.append(draw(st.integers(1, left)))
            left -= chunks[-1]
        temperature = draw(st.sampled_from((0.0, 1.0)))
        sampling = Sampling(temperature=temperature, seed=draw(st.integers(0, 99)))
        drawn.append(Request(id, prompt, chunks, draw(st.integers(1, 10)), sampling))
    return drawn


class Engine:
    """A runner, and blocks that are handed out at random."""

    def __init__(self, rng: random.Random) -> None:
        self.pool = KvPool.of(TINY, BLOCKS, SIZE, fill=math.nan)
        self.runner = Runner(TINY, WEIGHTS, self.pool, padded=PADDED, max_seqs=4)
        self.rng = rng
        self.free = list(range(BLOCKS))

    def take(self) -> int:
        """Return any free block."""
        return self.free.pop(self.rng.randrange(len(self.free)))

    def reserve(self, request: Request, tokens: int) -> None:
        """Give blocks for so many tokens, to the batch too where the request is in it."""
        while len(request.blocks) * SIZE < tokens:
            request.blocks.append(self.take())
            if request.id in self.runner.batch:
                self.runner.batch.grow(request.id, request.blocks[-1])

    def chunk(self, request: Request) -> Prefill:
        """Return the next chunk of a prompt."""
        size = request.chunks.pop(0)
        self.reserve(request, request.computed + size)
        start, request.computed = request.computed, request.computed + size
        tokens, blocks = request.prompt[start : request.computed], list(request.blocks)
        return Prefill(request.id, tokens, start, blocks, not request.chunks, request.sampling)

    def join(self, request: Request) -> None:
        """Let it decode."""
        self.reserve(request, request.computed + 1)
        self.runner.batch.join(
            request.id, request.tokens[-1], request.computed, request.blocks, request.sampling
        )

    def move(self, request: Request) -> None:
        """Bring its pages to other blocks, as paging out and in does; poison the old ones."""
        old, request.blocks = request.blocks, []
        self.reserve(request, len(old) * SIZE)
        self.pool.data[request.blocks] = self.pool.data[old].clone()
        self.pool.data[old] = math.nan
        self.free += old

    def step(self, chunks: list[Request], decode: bool) -> None:
        """Run a step and note what came."""
        batch = self.runner.batch
        everyone = {request.id: request for request in chunks}
        if decode:
            for id in batch.ids:
                request = self.requests[id]
                everyone[id] = request
                self.reserve(request, request.computed + 1)
                request.computed += 1
        for id, token in self.runner.step([self.chunk(request) for request in chunks], decode).items():
            everyone[id].tokens.append(token)
        for request in everyone.values():
            if request.done and request.id in batch:
                batch.leave(request.id)

    def run(self, requests: list[Request]) -> None:
        """Let chance decide who prefills, joins, leaves and moves, until all are done."""
        self.requests = {request.id: request for request in requests}
        rng, batch = self.rng, self.runner.batch
        while not all(request.done for request in requests):
            for request in requests:
                if request.id in batch and rng.random() < 0.2:
                    batch.leave(request.id)
                if request.id not in batch and rng.random() < 0.3:
                    self.move(request)
                ready = request.tokens and not request.done and request.id not in batch
                if ready and rng.random() < 0.7:
                    self.join(request)
            self.step([r for r in requests if r.chunks and rng.random() < 0.5], rng.random() < 0.8)

    def pages(self, request: Request) -> torch.Tensor:
        """Return the bits of a request's keys and values, token by token."""
        positions = torch.arange(request.computed)
        blocks = torch.tensor(request.blocks)[positions // SIZE]
        return self.pool.data[blocks, :, :, positions % SIZE].view(torch.int32)


@settings(max_examples=60, deadline=None)
@given(drawn=requests(), rng=st.randoms(use_true_random=False))
def test_a_request_is_the_same_alone_and_in_company(drawn: list[Request], rng: random.Random) -> None:
    """Any others in the batch, any block numbers, any leaving, moving and joining: the same tokens and bytes."""
    together = Engine(rng)
    together.run([Request(r.id, r.prompt, list(r.chunks), r.output, r.sampling) for r in drawn])
    for request in drawn:
        alone = Engine(random.Random(0))
        alone.requests = {request.id: request}
        while not request.done:
            if request.tokens and request.id not in alone.runner.batch:
                alone.join(request)
            alone.step([request] if request.chunks else [], True)
        other = together.requests[request.id]
        assert other.tokens == request.tokens
        assert torch.equal(together.pages(other), alone.pages(request))
