"""Runs that were delivered again and again without an end: one of them may end the process that executes it.

They are executed one at a time, and how often each was is noted in the stream before: when the process ends again, that
one alone is to blame.
"""

from __future__ import annotations

import asyncio
import random

from bema.contract import errors, names
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing
from bema_runtime.commits import TTL
from bema_runtime.runs import Run

_KEPT = "86400s"
"""How long it is noted how often a run was executed."""


class Suspects:
    """Belongs to the engine's thread."""

    def __init__(self, js: JetStream, stream: str) -> None:
        self._js = js
        self._stream = stream
        self._turn = asyncio.Lock()
        self._current: Run | None = None

    async def enter(self, run: Run) -> int:
        """Wait for the run's turn, and note it; how often it had one before, here or elsewhere."""
        await self._turn.acquire()
        self._current = run
        try:
            return await self._note(names.suspect(run.binding.root, run.step, run.id))
        except BaseException:
            self.left(run)
            raise

    async def _note(self, subject: str) -> int:
        while True:
            try:
                stored = await self._js.get_last(self._stream, subject)
                times = int(stored.data) if stored is not None else 0
                await self._js.publish(Outgoing(subject, b"%d" % (times + 1), {ROLLUP: "sub", TTL: _KEPT}))
                return times
            except errors.BrokerError:
                await asyncio.sleep(random.uniform(0.05, 0.5))

    def left(self, run: Run) -> None:
        """The run's handler has ended, or will not be executed."""
        if run is self._current:
            self._current = None
            self._turn.release()
