"""A keyed, de-duplicating work queue: each key is at most once in line and at most once at work.

`Queue` is plain data with the time as a parameter; `Workers` is the loop around it. A key that is added while it is
at work is looked at once more afterwards, so that no news is lost.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bema.clusters.errors import KubeError
from bema_operator.facts import Key

log = logging.getLogger(__name__)

FIRST_BACKOFF = 1.0
LAST_BACKOFF = 300.0
LONGEST_OVERDUE = 30.0
"""How long a second look gives way to news, in seconds."""


@dataclass
class Queue:
    """Keys that wait, keys at work, and keys that come back later. Times are seconds of any one clock."""

    ready: dict[Key, float] = field(default_factory=dict)
    """Keys in line, oldest first, with the time since when."""
    working: dict[Key, float] = field(default_factory=dict)
    """Keys at work, with the time since when."""
    again: set[Key] = field(default_factory=set)
    """Keys that were added while at work."""
    failures: dict[Key, int] = field(default_factory=dict)
    """Failures in a row."""
    _later: list[tuple[float, int, Key]] = field(default_factory=list)
    _due: dict[Key, float] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def add(self, key: Key, now: float) -> None:
        """Put a key in line, now."""
        if key in self.working:
            self.again.add(key)
        else:
            self.ready.setdefault(key, now)

    def add_later(self, key: Key, due: float) -> None:
        """Put a key in line at a time; the earliest of several counts."""
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._numbers), key))

    def take(self, now: float) -> Key | None:
        """The next key to work on, or None when none is due. News come before second looks that are due, unless these
        have been for long."""
        self._promote(now - LONGEST_OVERDUE if self.ready else now)
        if not self.ready:
            return None
        key = next(iter(self.ready))
        del self.ready[key]
        self._due.pop(key, None)
        self.working[key] = now
        return key

    def done(self, key: Key, now: float) -> None:
        """Work on a key has succeeded."""
        self.failures.pop(key, None)
        self._finish(key, now)

    def failed(self, key: Key, now: float) -> float:
        """Work on a key has failed: it comes back after a while, which is returned, in seconds. News about it bring it
        back at once: they may be the repair."""
        count = self.failures.get(key, 0)
        self.failures[key] = count + 1
        wait: float = min(FIRST_BACKOFF * 2.0 ** min(count, 20), LAST_BACKOFF)
        self._finish(key, now)
        self.add_later(key, now + wait)
        return wait

    def forget(self, key: Key) -> None:
        """The key's object is gone."""
        self.failures.pop(key, None)
        self._due.pop(key, None)

    def next_due(self) -> float | None:
        """When the next key that waits for its time is due; None when there is none."""
        while self._later and self._due.get(self._later[0][2]) != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def age(self, now: float) -> float:
        """How long the head of the line has been waiting, or the longest work takes, in seconds."""
        since = [*itertools.islice(self.ready.values(), 1), *self.working.values()]
        return now - min(since, default=now)

    def __len__(self) -> int:
        return len(self.ready)

    def _finish(self, key: Key, now: float) -> None:
        self.working.pop(key, None)
        if key in self.again:
            self.again.discard(key)
            self.ready.setdefault(key, now)

    def _promote(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._later)
            del self._due[key]
            self.add(key, now)


Work = Callable[[Key], Awaitable[float | None]]
"""Looks at one Step; returns after how many seconds to look again, or None."""


class Workers:
    """Works the queue off, several keys at once."""

    def __init__(self, queue: Queue, work: Work, *, count: int, clock: Callable[[], float]) -> None:
        self.queue = queue
        self._work = work
        self._count = count
        self._clock = clock
        self._news = asyncio.Event()

    def add(self, key: Key) -> None:
        self.queue.add(key, self._clock())
        self._news.set()

    def add_later(self, key: Key, seconds: float) -> None:
        self.queue.add_later(key, self._clock() + seconds)
        self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        tasks: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._news.set()

        try:
            while True:
                self._news.clear()
                while len(tasks) < self._count and (key := self.queue.take(self._clock())) is not None:
                    task = asyncio.create_task(self._one(key), name=f"reconcile {key}")
                    tasks.add(task)
                    task.add_done_callback(ended)
                await self._wait(len(tasks) < self._count)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run_until_idle(self) -> None:
        """Work until nothing is due, one key at a time. For tests: what waits for its time goes on waiting."""
        while (key := self.queue.take(self._clock())) is not None:
            await self._one(key)

    async def _wait(self, has_room: bool) -> None:
        """Until there is news, a worker is free, or a key is due."""
        due = self.queue.next_due() if has_room else None
        timeout = None if due is None else max(0.0, due - self._clock())
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return

    async def _one(self, key: Key) -> None:
        try:
            again = await self._work(key)
        except Exception as error:  # the loop's edge: whatever went wrong, the key comes back
            wait = self.queue.failed(key, self._clock())
            level = logging.WARNING if _is_expected(error) else logging.ERROR
            log.log(
                level,
                "Could not reconcile (%s); trying again in %g s",
                str(error) or type(error).__name__,
                wait,
                exc_info=None if _is_expected(error) else error,
                extra=key.bound,
            )
        else:
            self.queue.done(key, self._clock())
            if again is not None:
                self.queue.add_later(key, self._clock() + again)


def _is_expected(error: Exception) -> bool:
    """An API server that does not answer can happen to a healthy operator: no traceback."""
    return isinstance(error, KubeError)
