"""Sends the file of orders: over HTTP, several at once, and each until it is answered.

A request whose answer was lost is sent again as it was: same order id, same order. What is no answer but a request for
patience (503 with Retry-After) is honoured. The driver knows nothing of how the app works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from tools.demo.histories import Sent
from tools.demo.orderfiles import Kind, Line

CONCURRENCY = 16
PATIENCE = 120.0
"""Seconds after which an order that nobody answers is given up."""
PAUSE = 0.1
"""Seconds before a request without an answer is sent again."""
LONGEST_PAUSE = 5.0

TIMEOUT = httpx.Timeout(15.0, connect=3.0)


class Topics(Protocol):
    """Where wrong events are put."""

    async def put_event(self, topic: str, data: bytes, *, event_id: str) -> int:
        """Store an event on a topic; its sequence. An id that was seen before is not stored again."""
        ...


class Open:
    """A request on its way: whether its answer was lost is known when `done` is set."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.lost = False


@dataclass
class Progress:
    """How far the sending is; others look at it while it goes on."""

    total: int
    settled: int = 0
    """Lines that have their answer."""
    unanswered: int = 0
    """Requests whose answer was lost so far."""
    open: set[Open] = field(default_factory=set)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def fraction(self) -> float:
        return self.settled / self.total if self.total else 1.0

    def settle(self) -> None:
        """One more line has its answer."""
        self.settled += 1
        self._moved.set()

    async def reached(self, fraction: float) -> None:
        """Return once that part of the lines is settled."""
        while self.fraction < min(fraction, 1.0):
            self._moved.clear()
            await self._moved.wait()


class Driver:
    """Sends lines, and remembers what became of each."""

    def __init__(self, client: httpx.AsyncClient, topics: Topics, lines: Sequence[Line]) -> None:
        self._client = client
        self._topics = topics
        self._waiting = iter(lines)
        self._sent: list[Sent] = []
        self.progress = Progress(len(lines))

    async def run(self, *, concurrency: int = CONCURRENCY) -> list[Sent]:
        """Send everything; the outcomes by line."""
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._work())
        return sorted(self._sent, key=lambda sent: sent.line.number)

    def open_requests(self) -> list[Open]:
        """The requests that are on their way now."""
        return list(self.progress.open)

    @staticmethod
    async def lost_among(requests: Sequence[Open]) -> int:
        """How many of these requests got no answer. Returns when that is known."""
        for request in requests:
            await request.done.wait()
        return sum(request.lost for request in requests)

    async def _work(self) -> None:
        for line in self._waiting:
            sent = await (self._put(line) if line.kind is Kind.WRONG_EVENT else self._post(line))
            self._sent.append(sent)
            self.progress.settle()

    async def _put(self, line: Line) -> Sent:
        sequence = await self._topics.put_event(line.topic or "", line.text.encode(), event_id=f"line-{line.number}")
        return Sent(line, sequence=sequence)

    async def _post(self, line: Line) -> Sent:
        deadline = _now() + PATIENCE
        tries = unanswered = 0
        while _now() < deadline:
            tries += 1
            answer = await self._try(line)
            if isinstance(answer, httpx.Response) and answer.status_code < 500:
                return Sent(line, answer.status_code, None, tries, unanswered, answer.text[:120])
            unanswered += _is_lost(answer)
            await asyncio.sleep(pause(answer, tries))
        said = f"HTTP {answer.status_code}" if isinstance(answer, httpx.Response) else type(answer).__name__
        return Sent(line, None, None, tries, unanswered, said)

    async def _try(self, line: Line) -> httpx.Response | httpx.TransportError:
        request = Open()
        self.progress.open.add(request)
        try:
            return await self._client.post(
                "/orders", content=line.text.encode(), headers={"Content-Type": "application/json"}
            )
        except httpx.TransportError as error:
            request.lost = _is_lost(error)
            self.progress.unanswered += request.lost
            return error
        finally:
            self.progress.open.discard(request)
            request.done.set()


def _is_lost(answer: httpx.Response | httpx.TransportError) -> bool:
    """Whether a request left and its answer never came. One that found nobody to talk to never left."""
    never_left = isinstance(answer, httpx.ConnectError | httpx.ConnectTimeout)
    return isinstance(answer, httpx.TransportError) and not never_left


_now = time.monotonic


def pause(answer: httpx.Response | httpx.TransportError, tries: int) -> float:
    """Seconds until the next try: what the server asks for, else a little longer each time."""
    if isinstance(answer, httpx.Response):
        wanted = answer.headers.get("Retry-After", "")
        if wanted.replace(".", "", 1).isdigit():
            return min(float(wanted), LONGEST_PAUSE)
    return min(PAUSE * tries, 1.0)
