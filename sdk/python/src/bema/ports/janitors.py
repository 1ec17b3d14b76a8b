"""The janitor of one app: records floors, purges what nobody needs any more, tells everybody how full the storage is,
and sees to timers that are there though their time is over. Run by the operator and by `bema dev`; what to do is
decided in `bema.contract`.

    look → record the floors → purge what is old → nearly full: purge what is settled, too → tell the level → timers

Floors are recorded before anything is purged by them, as long as the server has room: a consumer that is lost begins
behind its recorded floor.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bema.contract import errors, floors, names, retentions
from bema.contract.floors import Subscriber
from bema.contract.retentions import Cuts, Level, Purge, Quota, Retentions
from bema.ports import admin
from bema.ports.admin import StreamState
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing
from bema.ports.ledgers import Ledger
from bema.ports.timers import Timers

log = logging.getLogger(__name__)

_AT_ONCE = 50
"""Questions to the server in one go."""

_TELL_SECONDS = 24 * 3600.0
"""How often the quota is told although nothing has changed: a stream without a word for longer has no janitor."""


@dataclass(slots=True)
class Report:
    """What a sweep did."""

    purged: Counter[str] = field(default_factory=Counter)
    """Messages by what they were."""
    timers: int = 0
    """Timers that were overdue and set again."""
    leftovers: int = 0
    """Timers that had fired and were still there: removed."""
    quota: Quota = field(default_factory=Quota)
    before: Level = Level.NORMAL
    """The level that was told before."""


class Janitor:
    """Looks after one app's stream. Only for its owner: nothing here asks whose it is."""

    def __init__(self, js: JetStream, stream: str, kept: Retentions, *, clock: Callable[[], float] = time.time) -> None:
        self._js = js
        self._stream = stream
        self._root = names.root_of_stream(stream)
        self._kept = kept
        self._clock = clock
        self._created = ""
        self._forget()

    def keep(self, kept: Retentions) -> None:
        """Go by these from the next sweep on. How long markers and lost consumers are kept stays."""
        self._kept = kept

    def _forget(self) -> None:
        self._ledger = Ledger(self._js, self._stream, self._kept)
        self._timers = Timers(self._js, self._stream, overdue=self._kept.overdue)
        self._quota: Quota | None = None

    async def sweep(self) -> Report:
        """Do once all there is to do. Raises `BrokerError`; what was done until then is done."""
        state = await admin.stream_state(self._js, self._stream)
        if state.created != self._created:
            await self._begin(state)
        now = self._clock()
        await self._ledger.look(state, now)
        report = Report(before=self._quota.level if self._quota else Level.NORMAL)
        await self._purge(state, now, report, pressed=report.before is not Level.NORMAL)
        state = await admin.stream_state(self._js, self._stream)
        if report.before is Level.NORMAL and self._level(state, report) is not Level.NORMAL:
            await self._purge(state, now, report, pressed=True)
            state = await admin.stream_state(self._js, self._stream)
        report.quota = Quota(self._level(state, report), state.bytes, self._kept.storage_bytes, now)
        await self._tell(report.quota)
        late = await self._timers.settle(now)
        report.timers, report.leftovers = late.again, late.leftovers
        return report

    def _level(self, state: StreamState, report: Report) -> Level:
        return retentions.level_of(state.bytes, self._kept.storage_bytes, before=report.before)

    async def _begin(self, state: StreamState) -> None:
        """Another stream than before, or the first: read what was recorded."""
        self._forget()
        await self._ledger.load()
        stored = await self._js.get_last(self._stream, names.quota(self._root))
        if stored is not None:
            try:
                self._quota = retentions.read_quota(stored.data)
            except ValueError as error:
                log.warning("The quota on %s is told anew: %s", stored.subject, error)
        self._created = state.created

    # Purging

    async def _purge(self, state: StreamState, now: float, report: Report, *, pressed: bool) -> None:
        """`pressed`: what is settled goes, however young it is."""
        subscribers = self._ledger.subscribers
        cuts = await self._cuts(state, now, pressed=pressed)
        purges = retentions.of_topics(await self._patterns(subscribers), subscribers, cuts)
        steps = self._ledger.of_steps(now - self._kept.markers)
        for step, (floor, settled) in sorted(steps.items()):
            purges += retentions.of_step(self._root, step, floor=floor, settled=settled)
        lowest = min((settled for _, settled in steps.values()), default=None)
        purges += retentions.of_nobody(self._root, settled=lowest, cuts=cuts)
        purges.append(retentions.of_dead_letters(self._root, cuts))
        for start in range(0, len(purges), _AT_ONCE):
            part = purges[start : start + _AT_ONCE]
            firsts = await asyncio.gather(*(self._first(purge) for purge in part))
            for purge, first in zip(part, firsts, strict=True):
                report.purged[purge.what] += await self._remove(purge, first)

    async def _cuts(self, state: StreamState, now: float, *, pressed: bool) -> Cuts:
        kept = self._kept
        events = await self._first_since(state, now - kept.events)
        return Cuts(
            events=state.last + 1 if pressed else events,
            unheard=await self._first_since(state, now - min(kept.unheard, kept.events)) if pressed else events,
            dead_letters=await self._first_since(state, now - kept.dead_letters),
        )

    async def _first_since(self, state: StreamState, when: float) -> int:
        """The first sequence that was stored at a time or later, at most one beyond the last that we know of."""
        text = datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat()
        found = await self._js.get_since(self._stream, text)
        return min(found.sequence, state.last + 1) if found else state.last + 1

    async def _patterns(self, subscribers: Sequence[Subscriber]) -> list[str]:
        """What is purged in one go: each topic in all of its partitions, and other events by who hears them."""
        patterns = set()
        for subject in await self._js.subjects(self._stream, names.events(self._root)):
            try:
                patterns.add(names.event_filter(self._root, names.topic_of(self._root, subject)))
            except errors.NameInvalid:
                # Nobody but a foreign client writes such a subject.
                patterns.add(subject)
        others = (names.changes(self._root), names.ticks(self._root), names.retries(self._root))
        heard = [own for each in subscribers for own in each.filters]
        patterns.update(own for own in heard if any(floors.within(own, other) for other in others))
        return [*sorted(patterns), *others]

    async def _first(self, purge: Purge) -> int | None:
        """The lowest sequence of what there is to remove, or None."""
        found = await self._js.get_next(self._stream, purge.pattern)
        return found.sequence if found and found.sequence < purge.below else None

    async def _remove(self, purge: Purge, first: int | None) -> int:
        """Purge in parts: between two, publishes have their turn. The sequences that a part spans bound what it
        holds."""
        removed = 0
        while first is not None:
            below = min(purge.below, first + retentions.MAX_PURGE)
            removed += await self._js.purge(self._stream, purge.pattern, below=below)
            first = await self._first(purge) if below < purge.below else None
        return removed

    # Telling

    async def _tell(self, quota: Quota) -> None:
        told = self._quota
        if (
            told is None
            or (told.level, told.storage, round(told.share, 2)) != (quota.level, quota.storage, round(quota.share, 2))
            or quota.time - told.time >= _TELL_SECONDS
        ):
            await self._ledger.write([Outgoing(names.quota(self._root), quota.to_json(), {ROLLUP: "sub"})])
            # Whoever listens has heard it, even if the server had no room to keep it.
            self._quota = quota
