"""Timers that are there though their time is over. Two things leave such a timer behind:

- The server forgets to look again at those that fell due while its store was full. They have not fired: they are set
  again.
- A server that was killed may bring back timers that it had sent and removed. They have fired, and are removed.

What the server has sent says which timer sent it. Where that is gone already, or a server that lags does not have it, a
timer that had fired is set again: what it sends comes twice, under one id.

What was read of a timer is remembered by its sequence, so that a look costs what is new, not all there is; all timers
are read when the server may have brought some back.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from bema.contract import errors, names
from bema.ports.jetstream import (
    BATCH_PREFIX,
    EXPECTED_PREFIX,
    SCHEDULE,
    SCHEDULE_TARGET,
    SCHEDULER,
    JetStream,
    Outgoing,
    is_wrong_sequence,
)

log = logging.getLogger(__name__)

_NOT_AGAIN = (BATCH_PREFIX, EXPECTED_PREFIX)
"""Headers that were about the message's first publish."""

WHOLE = 20
"""One look of so many reads all timers: a server of several may have been killed without a word of it here."""

_AT_ONCE = 50
"""Questions to the server in one go."""

_CLOCKS = 60.0
"""How far apart the clocks of two servers may be that sent a timer, and stored what it sent."""


class Late(NamedTuple):
    """What became of the timers that were overdue."""

    again: int = 0
    """Set again: they had not fired."""
    leftovers: int = 0
    """Removed: they had fired."""


class _Set(NamedTuple):
    """A timer that is set."""

    due: float
    sequence: int
    subject: str
    target: str
    """The subject that it sends to."""


class Timers:
    """The timers of one app that have yet to fire."""

    def __init__(self, js: JetStream, stream: str, *, overdue: float) -> None:
        self._js = js
        self._stream = stream
        self._root = names.root_of_stream(stream)
        self._overdue = overdue
        self._seen = 0
        self._set: dict[int, _Set] = {}
        self._looks = 0
        self._losses = -1
        """How often the connection had been lost when all timers were read."""

    async def settle(self, now: float) -> Late:
        """Set again what is overdue and has not fired, remove what is overdue and has. Raises `BrokerError`; what was
        done until then is done."""
        await self._read()
        late = await self._still_there([timer for timer in self._set.values() if timer.due < now - self._overdue])
        by_place = defaultdict(list)
        for timer in late:
            by_place[self._place(timer.target)].append(timer)
        again = leftovers = 0
        for place, timers in by_place.items():
            sent = await self._sent(place, timers)
            for timer in timers:
                if sent.get(timer.subject, 0) > timer.sequence or await self._has_ended(timer):
                    leftovers += await self._remove(timer)
                else:
                    again += await self._publish_again(timer)
                del self._set[timer.sequence]
        return Late(again, leftovers)

    # Reading

    async def _read(self) -> None:
        """What is new since the last look; from time to time, and after each loss of the connection, all there is."""
        losses = self._js.connection.losses
        whole = losses != self._losses or self._looks % WHOLE == 0
        self._looks += 1
        if whole:
            self._seen, self._set, self._losses = 0, {}, -1
        async for stored in self._js.scan(self._stream, names.timers(self._root), start=self._seen + 1):
            self._seen = stored.sequence
            due = due_of(stored.headers.get(SCHEDULE, ""))
            if due is not None:
                target = sys.intern(stored.headers.get(SCHEDULE_TARGET, ""))
                self._set[stored.sequence] = _Set(due, stored.sequence, stored.subject, target)
        if whole:
            self._losses = losses

    def _place(self, target: str) -> str:
        """What is read to find out what was sent to a target: for retries all of the Step's, in one go."""
        run = self._run_of(target)
        return target if run is None else names.retry_filter(self._root, run[0])

    def _run_of(self, target: str) -> tuple[str, str] | None:
        """Step and run of a retry; None for anything else."""
        try:
            return names.retry_of(self._root, target)
        except errors.NameInvalid:
            return None

    async def _still_there(self, timers: Sequence[_Set]) -> list[_Set]:
        """Nearly all have fired and are gone: those are forgotten."""
        found = []
        for start in range(0, len(timers), _AT_ONCE):
            part = timers[start : start + _AT_ONCE]
            stored = await asyncio.gather(*(self._js.get(self._stream, timer.sequence) for timer in part))
            for timer, message in zip(part, stored, strict=True):
                if message is None:
                    del self._set[timer.sequence]
                else:
                    found.append(timer)
        return found

    # Finding out what has fired

    async def _sent(self, place: str, timers: Sequence[_Set]) -> dict[str, int]:
        """Where the last message is that each of these timers' subjects has sent. A timer has sent what comes after it
        in the stream: before it comes what an earlier one of its id has sent."""
        earliest = max(0.0, min(timer.due for timer in timers) - _CLOCKS)
        since = datetime.datetime.fromtimestamp(earliest, datetime.UTC)
        first = await self._js.get_since(self._stream, since.isoformat())
        if first is None:
            return {}
        start = max(first.sequence, min(timer.sequence for timer in timers) + 1)
        subjects = {timer.subject for timer in timers}
        found: dict[str, int] = {}
        async for stored in self._js.scan(self._stream, place, start=start):
            scheduler = stored.headers.get(SCHEDULER)
            if scheduler in subjects:
                found[scheduler] = stored.sequence
        return found

    async def _has_ended(self, timer: _Set) -> bool:
        """Whether a timer is of a run's next attempt, and the run has ended: what it sent may be removed by then."""
        run = self._run_of(timer.target)
        return run is not None and bool(
            await self._js.get_next(self._stream, names.end(self._root, run[0], "*", run[1]))
        )

    # Acting

    async def _remove(self, timer: _Set) -> bool:
        """By its sequence: one that was set anew meanwhile has another."""
        if not await self._js.delete(self._stream, timer.sequence):
            return False
        log.info("A timer that had fired was still there and is removed: %s", timer.subject)
        return True

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
            if not is_wrong_sequence(refused):
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
