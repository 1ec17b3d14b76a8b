"""Queues for hot keys: once a key has conflicted, runs of this process that read it wait for each other.

Without them eight blind contenders for one key use up their ten tries in a quarter of all runs. A lane is a courtesy,
not a lock: the guard at commit is what keeps state right, so a run that waits too long simply goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

HOT_SECONDS = 5.0
PATIENCE = 1.0
MANY = 1000

Key = tuple[str, str]


@dataclass(slots=True)
class _Lane:
    hot_until: float
    holder: Hashable | None = None
    waiting: deque[tuple[Hashable, asyncio.Future[None]]] = field(default_factory=deque)


class Lanes:
    """The hot keys of a process. Holders are any hashable token, one for each run."""

    def __init__(self) -> None:
        self._lanes: dict[Key, _Lane] = {}
        self._held: dict[Hashable, list[Key]] = {}

    def heat(self, key: Key) -> None:
        """A run conflicted on `key`: from now on, and for a while after the last conflict, there is a lane for it."""
        until = asyncio.get_running_loop().time() + HOT_SECONDS
        lane = self._lanes.get(key)
        if lane is None:
            self._cool(until - HOT_SECONDS)
            self._lanes[key] = _Lane(until)
        else:
            lane.hot_until = until

    def _cool(self, now: float) -> None:
        """Forget lanes that nobody came back to."""
        if len(self._lanes) > MANY:
            idle = [key for key, lane in self._lanes.items() if lane.holder is None and lane.hot_until < now]
            for key in idle:
                del self._lanes[key]

    def is_hot(self, key: Key) -> bool:
        return key in self._lanes

    async def enter_all(self, keys: Iterable[Key], holder: Hashable) -> None:
        """Wait for the turn of `holder` on each key that is hot. For a run that is executed again: what it will read
        is known, so that it can queue in order, which the handler's own order of reading need not be."""
        for key in sorted(keys):
            await self.enter(key, holder)

    async def enter(self, key: Key, holder: Hashable) -> None:
        """Wait for the turn of `holder`, at most `PATIENCE` seconds. Nobody waits for a key below one that it holds:
        two runs that read two keys in opposite order would wait for each other."""
        lane = self._lanes.get(key)
        if lane is None or lane.holder == holder:
            return
        if lane.holder is None:
            self._give(key, lane, holder)
            return
        if any(held > key for held in self._held.get(holder, ())):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (holder, turn)
        lane.waiting.append(entry)
        try:
            await asyncio.wait_for(turn, PATIENCE)
        except TimeoutError:
            if entry in lane.waiting:
                lane.waiting.remove(entry)

    def _give(self, key: Key, lane: _Lane, holder: Hashable) -> None:
        lane.holder = holder
        self._held.setdefault(holder, []).append(key)

    def leave(self, holder: Hashable) -> None:
        """Let the next runs have what `holder` had."""
        for key in self._held.pop(holder, ()):
            lane = self._lanes[key]
            lane.holder = None
            while lane.waiting and lane.holder is None:
                following, turn = lane.waiting.popleft()
                if not turn.done():
                    self._give(key, lane, following)
                    turn.set_result(None)
            if lane.holder is None and lane.hot_until < asyncio.get_running_loop().time():
                del self._lanes[key]
