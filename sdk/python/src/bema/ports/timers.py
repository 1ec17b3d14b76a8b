"""Timers that should have fired: the server forgets to look again at those that fell due while its store was full.

What was read of a timer is remembered by its sequence, so that a look costs what is new, not all there is.
"""

from __future__ import annotations

import datetime
import heapq
import logging
from typing import NamedTuple

from bema.contract import errors, names
from bema.ports.jetstream import BATCH_PREFIX, EXPECTED_PREFIX, SCHEDULE, WRONG_SEQUENCE, JetStream, Outgoing

log = logging.getLogger(__name__)

_NOT_AGAIN = (BATCH_PREFIX, EXPECTED_PREFIX)
"""Headers that were about the message's first publish."""


class _Set(NamedTuple):
    """A timer that is set."""

    due: float
    sequence: int
    subject: str


class Timers:
    """The timers of one app that have yet to fire."""

    def __init__(self, js: JetStream, stream: str, *, overdue: float) -> None:
        self._js = js
        self._stream = stream
        self._overdue = overdue
        self._seen = 0
        self._set: list[_Set] = []

    async def fire(self, now: float) -> int:
        """Publish again, on the same subject, what is overdue; how many those were."""
        await self._read_new()
        fired = 0
        while self._set and self._set[0].due < now - self._overdue:
            fired += await self._publish_again(self._set[0])
            heapq.heappop(self._set)
        return fired

    async def _read_new(self) -> None:
        root = names.root_of_stream(self._stream)
        async for stored in self._js.scan(self._stream, names.timers(root), start=self._seen + 1):
            self._seen = stored.sequence
            due = due_of(stored.headers.get(SCHEDULE, ""))
            if due is not None:
                heapq.heappush(self._set, _Set(due, stored.sequence, stored.subject))

    async def _publish_again(self, late: _Set) -> bool:
        """Expects the timer to be its subject's last message still: one that fired meanwhile is gone, one that was
        set anew has another sequence."""
        stored = await self._js.get_last(self._stream, late.subject)
        if stored is None or stored.sequence != late.sequence:
            return False
        headers = {name: value for name, value in stored.headers.items() if not name.startswith(_NOT_AGAIN)}
        try:
            await self._js.publish(Outgoing(late.subject, stored.data, headers, expected=late.sequence))
        except errors.BrokerRefused as refused:
            if refused.code not in WRONG_SEQUENCE:
                raise
            return False
        log.warning("A timer was overdue and is set again: %s", late.subject)
        return True


def due_of(schedule: str) -> float | None:
    """The Unix time of an `@at` schedule; None for any other."""
    kind, _, time = schedule.partition(" ")
    if kind != "@at":
        return None
    try:
        return datetime.datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None
