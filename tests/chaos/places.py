"""A place where a bank runs, as seen from outside: what is begun, what has ended, what is still on its way."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

from tests.chaos import banks
from tests.chaos.contents import Contents, Reader
from tests.chaos.histories import Recorder
from tests.chaos.witnesses import Begun, Witnesses
from tests.support import waits

PATIENCE = 90.0
"""Seconds that anything may take on a busy machine."""


class Place(ABC):
    """What all worlds have in common."""

    reader: Reader

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backlog = 0
        self.swept: Counter[str] = Counter()
        """What the janitor did with timers, where a world has one that tells."""
        self.witnesses = Witnesses(folder / "witnesses.jsonl")
        self.recorder = Recorder(folder / "history.jsonl")
        plan = {"accounts": [f"a{n}" for n in range(banks.ACCOUNTS)], "opening": banks.OPENING, "fee": banks.FEE}
        self.recorder.add("plan", "driver", **plan)

    @property
    @abstractmethod
    def urls(self) -> list[str]:
        """Where its brokers are now."""

    @abstractmethod
    async def contents(self) -> Contents:
        """All that the broker holds."""

    @abstractmethod
    def explain(self) -> str:
        """The ends of all logs."""

    async def busy(self, pid: int | None = None) -> None:
        """Until a handler was begun just now, in a process or in any."""
        await waits.until(
            lambda: time.monotonic() - self.witnesses.latest(pid) < 0.15,
            "a handler to begin",
            timeout=PATIENCE,
            explain=self.explain,
        )

    async def watch(self) -> None:
        """Know how many events are on their way, as far as the broker answers."""
        while True:
            found = await self.reader.waiting()
            if found is not None:
                self.backlog = sum(found.values())
            await asyncio.sleep(0.2)

    async def hits(self, at: float, *, pid: int | None = None, since: float | None = None) -> set[tuple[str, str]]:
        """The runs that were in hand at a moment: begun before it, and ended after it. With `since`, all that were
        begun between. Waits until each has ended; one that does not is hit, and the checker's business."""
        wall = time.time() - time.monotonic()
        struck, deadline = set(), time.monotonic() + PATIENCE
        for begun in self.witnesses.before(at, pid, since=since):
            ended = await self._end(begun, deadline)
            if since is not None or ended is None or ended > at + wall:
                struck.add(begun.place)
        return struck

    async def _end(self, begun: Begun, deadline: float) -> float | None:
        """When a run ended, once it has; None when it does not before a deadline that all of a fault's runs share."""
        while True:
            ended = await self.reader.stored_at(f"end.{begun.step}.event.{begun.run}")
            if ended is not None or time.monotonic() > deadline:
                return ended
            await asyncio.sleep(0.02)

    async def wait_idle(self) -> None:
        """Until nothing is on its way; as long as the number changes, there is hope."""
        last, since = -1, time.monotonic()
        while True:
            found = await self.reader.waiting()
            left = None if found is None else sum(found.values())
            if left == 0:
                return
            if left != last:
                last, since = left if left is not None else last, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                return
            await asyncio.sleep(0.1)
