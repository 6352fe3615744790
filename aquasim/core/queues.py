"""Waiting queues: the order of admission."""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from aquasim.core.request import Request, State


class Queue(Protocol):
    """Requests that wait, best first. Aborted ones are dropped when they come up."""

    def push(self, request: Request) -> None:
        """Add a newcomer."""
        ...

    def push_front(self, request: Request) -> None:
        """Put a preempted request back."""
        ...

    def peek(self) -> Request | None:
        """Return the next request without taking it, or None."""
        ...

    def pop(self) -> Request:
        """Take the request that `peek` showed."""
        ...

    def discard(self, request: Request) -> None:
        """Forget a request that is GONE."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...


class Fifo:
    """First come, first served; preempted requests to the front."""

    __slots__ = ("_gone", "_items")

    def __init__(self) -> None:
        self._items: deque[Request] = deque()
        self._gone = 0

    def push(self, request: Request) -> None:
        """Add to the back."""
        self._items.append(request)

    def push_front(self, request: Request) -> None:
        """Add to the front."""
        self._items.appendleft(request)

    def peek(self) -> Request | None:
        """Return the oldest live request."""
        items = self._items
        while items:
            if items[0].state is not State.GONE:
                return items[0]
            items.popleft()
            self._gone -= 1
        return None

    def pop(self) -> Request:
        """Take the head."""
        return self._items.popleft()

    def discard(self, request: Request) -> None:
        """Count a gone request out; it is dropped when it comes up."""
        self._gone += 1

    def __len__(self) -> int:
        return len(self._items) - self._gone

    def __iter__(self) -> Iterator[Request]:
        return (request for request in self._items if request.state is not State.GONE)


class Ranked:
    """Least key first; ties by arrival, then number."""

    __slots__ = ("_gone", "_items", "_key")

    def __init__(self, key: Callable[[Request], int]) -> None:
        self._key = key
        self._items: list[tuple[int, int, int, Request]] = []
        self._gone = 0

    def push(self, request: Request) -> None:
        """Add by key."""
        heapq.heappush(self._items, (self._key(request), request.arrival, request.id, request))

    push_front = push

    def peek(self) -> Request | None:
        """Return the live request of least key."""
        while self._items:
            request = self._items[0][3]
            if request.state is not State.GONE:
                return request
            heapq.heappop(self._items)
            self._gone -= 1
        return None

    def pop(self) -> Request:
        """Take the request of least key."""
        return heapq.heappop(self._items)[3]

    def discard(self, request: Request) -> None:
        """Count a gone request out; it is dropped when it comes up."""
        self._gone += 1

    def rebuild(self) -> None:
        """Order anew after keys have changed."""
        requests = list(self)
        self._items, self._gone = [], 0
        for request in requests:
            self.push(request)

    def __len__(self) -> int:
        return len(self._items) - self._gone

    def __iter__(self) -> Iterator[Request]:
        return (item[3] for item in sorted(self._items[:]) if item[3].state is not State.GONE)
