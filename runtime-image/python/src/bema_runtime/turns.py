"""When a run of an ordered Step may execute: as many at once as the Step says, and again in its place after a while.

A run that waits stays in hand, so that its partition waits with it. Once the process stops nobody waits any longer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Turns:
    """The places of one Step in this process. Holders are any hashable token, one for each run."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._holders: set[Hashable] = set()
        self._waiting: deque[tuple[Hashable, asyncio.Future[bool]]] = deque()
        self._stopping = asyncio.Event()

    async def enter(self, holder: Hashable) -> bool:
        """Wait for a place, the longest waiting first; False when the process stops before."""
        if self._stopping.is_set():
            return False
        if holder in self._holders:
            return True
        if len(self._holders) < self._places:
            self._holders.add(holder)
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((holder, turn))
        return await turn

    def leave(self, holder: Hashable) -> None:
        """Give a place back, to whoever is next."""
        self._holders.discard(holder)
        while self._waiting and len(self._holders) < self._places:
            following, turn = self._waiting.popleft()
            if not turn.done():
                self._holders.add(following)
                turn.set_result(True)

    async def pause(self, holder: Hashable, seconds: float) -> bool:
        """Wait for so long without a place, then for a place; False when the process stops before."""
        self.leave(holder)
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return await self.enter(holder)
        return False

    def stop(self) -> None:
        """Nobody gets a place any more."""
        self._stopping.set()
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)
