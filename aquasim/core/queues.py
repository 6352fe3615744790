"""Waiting queues: the order of admission. Containers of requests, best first; `len` and truth are cheap."""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from aquasim.core.request import Request


class Queue(Protocol):
    """Requests that wait, best first."""

    def push(self, request: Request) -> None:
        """Add a newcomer."""
        ...

    def push_front(self, request: Request) -> None:
        """Put a preempted request back."""
        ...

    def peek(self) -> Request | None:
        """Return the next request without taking it, or None."""
        ...

    def take(self) -> Request:
        """Take the request that `peek` showed."""
        ...

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...


class Fifo(deque[Request]):
    """First come, first served; preempted requests to the front."""

    push = deque.append
    push_front = deque.appendleft
    take = deque.popleft

    def peek(self) -> Request | None:
        """Return the oldest request."""
        return self[0] if self else None


class Ranked:
    """Least key first; ties by arrival, then number."""

    __slots__ = ("_items", "_key")

    def __init__(self, key: Callable[[Request], int]) -> None:
        self._key = key
        self._items: list[tuple[int, int, int, Request]] = []

    def push(self, request: Request) -> None:
        """Add by key."""
        heapq.heappush(self._items, (self._key(request), request.arrival, request.id, request))

    push_front = push

    def peek(self) -> Request | None:
        """Return the request of least key."""
        return self._items[0][3] if self._items else None

    def take(self) -> Request:
        """Take the request of least key."""
        return heapq.heappop(self._items)[3]

    def remove(self, request: Request) -> None:
        """Take a request out."""
        self._items = [item for item in self._items if item[3] is not request]
        heapq.heapify(self._items)

    def rebuild(self) -> None:
        """Order anew after keys have changed."""
        requests = list(self)
        self._items = []
        for request in requests:
            self.push(request)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Request]:
        return (item[3] for item in sorted(self._items))
