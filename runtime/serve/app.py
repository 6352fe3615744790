"""The HTTP side: routes, server-sent events, disconnects."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from aquasim.records.tables import Outcome
from aquasim.runtime.engine import Sampling
from aquasim.runtime.serve.engine import Engine, Stream
from aquasim.runtime.serve.schema import CompletionRequest, error
from aquasim.runtime.serve.text import Detokenizer, Stops, Tokenizer

WATCH_S = 0.25
"""Between two looks whether a client that waits for a whole answer is still there."""


@dataclass(frozen=True)
class Served:
    """What is served: an engine under a model's name, of so many tokens a sequence and so many open requests."""

    engine: Engine
    tokenizer: Tokenizer
    model: str
    longest: int
    vocab: int
    most_open: int


class RefusedError(Exception):
    """A request that is not served: status, message, parameter."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


def create_app(served: Served) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="aquasim", docs_url=None, redoc_url=None)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, why: RefusedError) -> JSONResponse:
        return JSONResponse(error(why.message, why.param), why.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, why: RequestValidationError) -> JSONResponse:
        first = why.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        text = str(first["msg"]).removeprefix("Value error, ")
        return JSONResponse(error(f"{where}: {text}" if where else text, where or None), 400)

    @app.get("/health")
    async def health() -> Response:
        failure = served.engine.failure
        return JSONResponse({"status": "ok"}) if failure is None else JSONResponse({"status": failure}, 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": served.model, "object": "model", "owned_by": "aquasim", "max_model_len": served.longest}
        return {"object": "list", "data": [card]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(served.engine.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        return await Completion(served, asked).answer(request)

    return app


class Completion:
    """One call of /v1/completions: a choice per prompt."""

    def __init__(self, served: Served, asked: CompletionRequest) -> None:
        self._served, self._asked = served, asked
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()),
            "model": served.model,
        }  # fmt: skip
        self._prompts = [self._tokens(prompt) for prompt in asked.prompts()]

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        """Return a prompt's tokens, checked."""
        served = self._served
        tokens = served.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if len(tokens) + 1 > served.longest:
            raise RefusedError(
                400, f"a prompt of {len(tokens)} tokens; at most {served.longest - 1} are served", "prompt"
            )
        if tokens and max(tokens) >= served.vocab:
            raise RefusedError(
                400, f"token {max(tokens)} of a prompt; the vocabulary has {served.vocab}", "prompt"
            )
        return tokens

    async def answer(self, request: Request) -> Response:
        """Check, queue, and answer whole or as events."""
        served, asked = self._served, self._asked
        if asked.model not in ("", served.model):
            raise RefusedError(404, f"model {asked.model!r} is not served; {served.model!r} is", "model")
        if served.engine.failure is not None:
            raise RefusedError(503, f"the engine has failed: {served.engine.failure}")
        if served.engine.open + len(self._prompts) > served.most_open:
            raise RefusedError(
                429, f"{served.engine.open} requests are open; at most {served.most_open} are served"
            )
        choices = [Choice(served, asked, index, prompt) for index, prompt in enumerate(self._prompts)]
        if asked.stream:
            return StreamingResponse(self._events(choices), media_type="text/event-stream")
        return await self._whole(choices, request)

    async def _whole(self, choices: list["Choice"], request: Request) -> Response:
        work = asyncio.gather(*(choice.text() for choice in choices))
        try:
            while not (await asyncio.wait([work], timeout=WATCH_S))[0]:
                if await request.is_disconnected():
                    return Response(status_code=499)
            texts = work.result()
        finally:
            work.cancel()
            for choice in choices:
                choice.leave()
        found = [choice.part(text) for choice, text in zip(choices, texts, strict=True)]
        return JSONResponse({**self._head, "choices": found, "usage": _usage(choices)})

    async def _events(self, choices: list["Choice"]) -> AsyncIterator[str]:
        """Give server-sent events as pieces come, whichever choice they are of; a client that goes ends them."""
        pieces: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def feed(choice: Choice) -> None:
            async for piece in choice.pieces():
                pieces.put_nowait(choice.part(piece))
            pieces.put_nowait(None)

        tasks = [asyncio.create_task(feed(choice)) for choice in choices]
        try:
            left = len(choices)
            while left:
                piece = await pieces.get()
                if piece is None:
                    left -= 1
                else:
                    yield _event({**self._head, "choices": [piece]})
            if (self._asked.stream_options or {}).get("include_usage"):
                yield _event({**self._head, "choices": [], "usage": _usage(choices)})
            yield "data: [DONE]\n\n"
        finally:
            for task, choice in zip(tasks, choices, strict=True):
                task.cancel()
                choice.leave()


class Choice:
    """One answer: a stream of tokens as text, until it ends or is to stop."""

    def __init__(self, served: Served, asked: CompletionRequest, index: int, prompt: list[int]) -> None:
        self.index = index
        self.prompt = prompt
        self.made = 0
        self.reason: str | None = None
        self._engine = served.engine
        self._ends = () if asked.ignore_eos else served.tokenizer.end
        self._echo = served.tokenizer.decode(prompt) if asked.echo else ""
        self._text, self._stops = Detokenizer(served.tokenizer), Stops(asked.stops)
        sampling = Sampling(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            seed=(asked.seed + index) % 2**64,
        )
        self._stream: Stream = served.engine.submit(
            prompt, asked.max_tokens, sampling, self._ends, asked.priority
        )

    async def pieces(self) -> AsyncIterator[str]:
        """Give pieces of text; the last one, which may be empty, comes with a reason."""
        if self._echo:
            yield self._echo
        async for token, last in self._stream:
            self.made += 1
            ended = token in self._ends
            text = self._stops.push("" if ended else self._text.push(token, last), last)
            if self._stops.found:
                self.leave()
            if self._stops.found or last:
                self.reason = "stop" if ended or self._stops.found else "length"
                yield text
                return
            if text:
                yield text
        self.reason = "error" if self._stream.outcome is not Outcome.ABORTED else "abort"
        yield ""

    async def text(self) -> str:
        """Return the whole text."""
        return "".join([piece async for piece in self.pieces()])

    def part(self, text: str) -> dict[str, Any]:
        """Return a piece as OpenAI's clients read it."""
        return {"index": self.index, "text": text, "logprobs": None, "finish_reason": self.reason}

    def leave(self) -> None:
        """Stop generating, if it goes on."""
        self._engine.abort(self._stream)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _usage(choices: list[Choice]) -> dict[str, int]:
    prompt, made = sum(len(choice.prompt) for choice in choices), sum(choice.made for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
