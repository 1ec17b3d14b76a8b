"""The ledger of an app: the floors of its consumers, recorded in the app's own stream."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from bema.contract import errors, floors, names
from bema.contract.floors import Identity, Record, Subscriber
from bema.contract.retentions import Retentions
from bema.ports import admin
from bema.ports.admin import ConsumerState, StreamState
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing

log = logging.getLogger(__name__)

_AT_ONCE = 500
"""Messages of one batch; the server takes 1,000."""


class Ledger:
    """What is known of the consumers of one stream."""

    def __init__(self, js: JetStream, stream: str, kept: Retentions) -> None:
        self._js = js
        self._stream = stream
        self._root = names.root_of_stream(stream)
        self._kept = kept
        self._records: dict[str, Record] = {}
        self._unsaved: set[str] = set()
        self._missing: dict[str, float] = {}
        """Consumers that are recorded and not there, and since when."""
        self._foreign: list[Subscriber] = []
        """Consumers that were made for no Step."""
        self._last = 0
        self._own = (0, 0)
        """Sequences before and at the end of what was written here in one go: of no interest to any consumer."""

    async def load(self) -> None:
        """Read what was recorded before."""
        prefix = names.floor(self._root, "")
        async for stored in self._js.scan(self._stream, names.floors(self._root)):
            try:
                self._records[stored.subject.removeprefix(prefix)] = floors.read(stored.data)
            except ValueError as error:
                log.warning("The record on %s is made anew: %s", stored.subject, error)

    async def look(self, state: StreamState, now: float) -> None:
        """Look at the consumers and record what is new. `state` must have been read before."""
        last = self._settled_last(state)
        consumers = await admin.consumer_states(self._js, self._stream)
        self._foreign = [
            Subscriber(found.filters, admin.floor_of(found, last))
            for found in consumers.values()
            if admin.step_of(found) is None
        ]
        for durable, found in consumers.items():
            self._note(durable, found, last=last, now=now)
        await self._save()
        await self._look_for_missing(consumers, now)

    async def _save(self) -> None:
        records = [
            Outgoing(names.floor(self._root, durable), self._records[durable].to_json(), {ROLLUP: "sub"})
            for durable in sorted(self._unsaved)
        ]
        if await self.write(records):
            self._unsaved.clear()

    def _settled_last(self, state: StreamState) -> int:
        """The last sequence that tells of an idle consumer's floor. What was written here does not count, or every
        look would be a reason for the next one to write. With copies, it is that of the look before: the server that
        answers for a consumer may not have the newest messages yet, and so believe that none is left for it."""
        before, after = self._own
        last = before if state.last == after else state.last
        settled = last if state.replicas == 1 else self._last
        self._last = last
        return settled

    def _note(self, durable: str, found: ConsumerState, *, last: int, now: float) -> None:
        step = admin.step_of(found)
        if step is None:
            return
        who = Identity(step, found.metadata.get(names.METADATA_STEP_UID, ""), found.created)
        filters, floor = tuple(sorted(found.filters)), admin.floor_of(found, last)
        known = self._records.get(durable)
        if known is None:
            self._records[durable] = Record(who, filters, now, floor)
        else:
            self._records[durable] = known.seen(who, filters, now=now, floor=floor, span=self._kept.markers)
        if self._records[durable] is not known:
            self._unsaved.add(durable)

    async def _look_for_missing(self, consumers: Mapping[str, ConsumerState], now: float) -> None:
        """A consumer that is gone holds what it has not settled for a while: it may be made again."""
        missing = [durable for durable in self._records if durable not in consumers]
        self._missing = {durable: self._missing.get(durable, now) for durable in missing}
        for durable in missing:
            if now - self._missing[durable] >= self._kept.lost:
                await self._js.purge(self._stream, names.floor(self._root, durable), below=None)
                del self._records[durable], self._missing[durable]
                self._unsaved.discard(durable)
                log.info("The consumer %s/%s is gone for good; it holds nothing any more", self._stream, durable)

    @property
    def subscribers(self) -> list[Subscriber]:
        """Everybody who may still ask for something."""
        return [*(Subscriber(each.filters, each.floor) for each in self._records.values()), *self._foreign]

    def of_steps(self, time: float) -> dict[str, tuple[int, int]]:
        """By Step, its floor now and its floor at a time. One with several consumers is as far as the slowest."""
        found: dict[str, tuple[int, int]] = {}
        for record in self._records.values():
            floor, settled = record.floor, min(record.as_of(time), record.floor)
            before = found.get(record.of.step, (floor, settled))
            found[record.of.step] = (min(floor, before[0]), min(settled, before[1]))
        return found

    async def write(self, messages: Sequence[Outgoing]) -> bool:
        """Store messages of the janitor's own. False when the server has no room: that must not keep the janitor from
        making some."""
        for start in range(0, len(messages), _AT_ONCE):
            part = messages[start : start + _AT_ONCE]
            try:
                after = await self._js.publish_batch(part)
            except errors.BrokerRefused as refused:
                log.warning("Could not record what is known of %s: %s", self._stream, refused)
                return False
            before, end = self._own
            self._own = (before if end == after - len(part) else after - len(part), after)
        return True
