"""Runs an executor in a thread of its own; requests come from an event loop, tokens go back to it."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from aquasim.core import Scheduler
from aquasim.records.tables import Outcome
from aquasim.runtime.executor import Executor
from aquasim.runtime.serve.metrics import Metrics

NAP_S = 50e-6
"""Between two looks at a step that is computed."""
IDLE_S = 0.02
"""Between two looks at leases while nobody is here."""
CLEAR_EVERY = 1 << 20
"""Bytes of step records after which they are dropped: a server keeps counters, not records."""


class Stream:
    """One request's tokens, for one event loop: `async for token, last in stream`. Ends early if it fails."""

    def __init__(self, id: int, prompt: int) -> None:
        self.id = id
        self.prompt = prompt
        self.outcome: Outcome | None = None
        """How the request ended; None while it goes on, or when the engine died."""
        self.began = time.monotonic()
        self.newest = self.began
        self.made = 0
        self._loop = asyncio.get_running_loop()
        self._tokens: asyncio.Queue[tuple[int, bool] | None] = asyncio.Queue()

    def put(self, item: tuple[int, bool] | None) -> None:
        """Hand something over from the engine's thread; what comes after the loop has closed is lost."""
        try:
            self._loop.call_soon_threadsafe(self._tokens.put_nowait, item)
        except RuntimeError:
            return

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> tuple[int, bool]:
        item = await self._tokens.get()
        if item is None:
            raise StopAsyncIteration
        return item


class Engine:
    """Serves streams from one executor. `close` ends the thread; whoever is still served gets no more tokens."""

    def __init__(self, executor: Executor, metrics: Metrics) -> None:
        self.executor = executor
        self.metrics = metrics
        self.failure: str | None = None
        """Why it serves no longer."""
        self._streams: dict[int, Stream] = {}
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ids = count()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        executor.log = None
        executor.on_gone = self._gone

    @property
    def scheduler(self) -> Scheduler:
        """Who decides; for reading sizes of queues."""
        return self.executor.scheduler

    @property
    def open(self) -> int:
        """Requests that are served now."""
        return len(self._streams)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the step under way."""
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        sampling: Any = None,
        stop: tuple[int, ...] = (),
        priority: int = 0,
    ) -> Stream:
        """Queue a request; call it in the event loop that reads the stream."""
        stream = Stream(next(self._ids), len(prompt))
        self._streams[stream.id] = stream
        self._calls.put(
            lambda: self.executor.submit(
                stream.id, prompt, max_tokens, sampling=sampling, stop=stop, priority=priority,
                on_token=self._token,
            )
        )  # fmt: skip
        return stream

    def abort(self, stream: Stream) -> None:
        """The client is gone, or has enough."""
        if stream.outcome is None:
            self._calls.put(lambda: self.executor.abort(stream.id))

    # --- in the engine's thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_calls():
                if not self.executor.turn() and self.executor.busy:
                    time.sleep(NAP_S)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            for stream in list(self._streams.values()):
                stream.put(None)

    def _take_calls(self) -> bool:
        """Carry out what was asked for, waiting a little if nothing is to be done; False: end."""
        wait = not self.executor.busy
        while True:
            try:
                call = self._calls.get(wait, IDLE_S) if wait else self._calls.get_nowait()
            except queue.Empty:
                return True
            if call is None:
                return False
            call()
            wait = False

    def _token(self, id: int, token: int, last: bool) -> None:
        stream, now = self._streams[id], time.monotonic()
        if stream.made == 0:
            self.metrics.first_token(stream.prompt, now - stream.began)
        else:
            self.metrics.next_token(now - stream.newest)
        stream.made += 1
        stream.newest = now
        stream.put((token, last))

    def _gone(self, id: int, outcome: Outcome) -> None:
        stream = self._streams.pop(id)
        stream.outcome = outcome
        stream.put(None)
        self.metrics.gone(outcome.name.lower(), time.monotonic() - stream.began)
        self._forget_records()

    def _forget_records(self) -> None:
        """Count what was paged, and keep records from growing for ever."""
        tables = self.executor.tables
        self.metrics.paged(tables)
        if len(tables.rows["steps"]) > CLEAR_EVERY:
            for rows in tables.rows.values():
                rows.clear()
            tables.reasons.clear()
            self.metrics.cleared()
