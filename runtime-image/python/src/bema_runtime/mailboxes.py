"""A hand-over to an event loop in another thread that costs once per burst, not once per item."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Put items from any thread; `deliver` gets them in lists on the loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[T] = deque()
        self._scheduled = False

    def put(self, item: T) -> None:
        self._items.append(item)
        self._wake()

    def put_all(self, items: list[T]) -> None:
        self._items.extend(items)
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        # Lowered before the count is taken: an item put after that schedules a flush of its own.
        self._scheduled = False
        items = [self._items.popleft() for _ in range(len(self._items))]
        if items:
            self._deliver(items)
