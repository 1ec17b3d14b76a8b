"""The janitor of `bema dev`: what the operator does on a cluster, for the one app that runs here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from bema.contract import errors, retentions
from bema.contract.retentions import Level
from bema.ports import admin, subscriptions
from bema.ports.janitors import Janitor, Report
from bema.ports.jetstream import JetStream
from bema_cli import events
from bema_cli.events import Event

GONE_SECONDS = 3600.0
"""How long the consumer of a Step is kept whose file is gone: a Step that comes back goes on where it was."""


class Cleaner:
    """Sweeps an app, and says what a person should know."""

    def __init__(
        self,
        js: JetStream,
        janitor: Janitor,
        stream: str,
        *,
        steps: Callable[[], Collection[str] | None],
        silent: Callable[[], Collection[str]] = tuple,
        lock: asyncio.Lock | None = None,
    ) -> None:
        self._js = js
        self._janitor = janitor
        self._stream = stream
        self._steps = steps
        """Names of the Steps that are there; None when nobody knows."""
        self._silent = silent
        """Names of those that hear no events."""
        self._lock = lock or asyncio.Lock()
        """Held by whoever makes or removes consumers."""
        self._gone: dict[str, float] = {}

    async def run(self, say: Callable[[Event], None]) -> None:
        """Sweep for ever."""
        while True:
            try:
                report = await self._janitor.sweep()
                for note in [*_of_level(report), *await self.remove_orphans(time.monotonic())]:
                    say(note)
                await self.let_go()
            except errors.BrokerError:
                # The broker starts again, which was said, or there is no stream yet.
                pass
            await asyncio.sleep(retentions.SWEEP_SECONDS)

    async def let_go(self) -> None:
        """Remove the consumers of Steps that hear no events any more, as far as nothing waits in them or for them."""
        async with self._lock:
            if not await admin.stream_exists(self._js, self._stream):
                return
            for step in sorted(self._silent()):
                await subscriptions.let_go(self._js, self._stream, step)

    async def remove_orphans(self, now: float) -> list[events.Note]:
        """Remove the consumers of Steps that have been gone for long: they hold the events of their topics."""
        async with self._lock:
            return await self._remove_orphans(now)

    async def _remove_orphans(self, now: float) -> list[events.Note]:
        steps = self._steps()
        if steps is None:
            return []
        states = await admin.consumer_states(self._js, self._stream)
        orphans = {durable: state for durable, state in states.items() if admin.step_of(state) not in {None, *steps}}
        self._gone = {durable: self._gone.get(durable, now) for durable in orphans}
        notes = []
        for durable in [each for each, since in self._gone.items() if now - since >= GONE_SECONDS]:
            await subscriptions.remove(self._js, self._stream, durable)
            held = orphans[durable].backlog
            notes.append(events.Note(f"removed the consumer of {durable}, which is gone; it still held {held} events"))
        return notes


def _of_level(report: Report) -> list[events.Note]:
    if report.quota.level is report.before:
        return []
    match report.quota.level:
        case Level.NORMAL:
            return [events.Note(f"the app's storage has room again: {report.quota}")]
        case Level.HIGH:
            text = "api and cron Steps may add no events until some were handled"
        case Level.FULL:
            text = "Steps take no events; delete dead letters or state, or start anew without .bema/nats"
    return [events.Note(f"the app's storage is nearly full: {report.quota}; {text}", "warning")]
