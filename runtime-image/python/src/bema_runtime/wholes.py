"""Whether all of a commit was stored: a server whose store becomes full may stop in the middle of a batch, with one
replica, and gives no answer. The run has its marker then, and lacks effects."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from bema.contract import envelopes, errors
from bema.ports import admin
from bema.ports.jetstream import (
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    SCHEDULER,
    JetStream,
    Outgoing,
    Stored,
    is_wrong_sequence,
    new_batch_id,
)
from bema_runtime.commits import Commit

log = logging.getLogger(__name__)

MOST_REFUSALS = 20
"""Tries to store the rest of a commit, one after the other, that the server refuses for what others have changed."""

Section = Sequence[Outgoing]
"""A run's messages in a batch: they follow each other, its marker first."""
Key = tuple[str, str | None]


class Rest:
    """What the server has left out of a commit, some of whose runs have their markers (`ended`). One commit's."""

    def __init__(self, js: JetStream, stream: str, commit: Commit, ended: Iterable[Stored]) -> None:
        self._js = js
        self._stream = stream
        self._commit = commit
        self._marker = min(ended, key=lambda stored: stored.sequence)
        self._missing: set[Key] | None = None
        """None while nobody has looked."""
        self._sent: tuple[str, Section] | None = None
        """The last try to store that: the batch's id, and what is in it."""
        self._refusals = 0

    async def store(self, prepare: Callable[[], Awaitable[Section]]) -> None:
        """Try once to store what is missing, of what the commit is as of now. Raises `BrokerError`: try again then.
        What others have changed meanwhile is given up after a while."""
        missing = await self._look()
        if not missing:
            return
        if self._sent is None:
            text = "The server has stored a part of a commit only; storing the rest"
            log.critical(text, extra=self._commit.run.log_fields)
        elif self._refusals == MOST_REFUSALS:
            text = "The rest of a commit cannot be stored: somebody has changed what it is for"
            log.critical(text, extra=self._commit.run.log_fields)
            return
        rest = [message for message in await prepare() if key(message) in missing]
        id = new_batch_id()
        self._sent = id, rest
        try:
            await self._js.publish_batch(rest, id=id, always=True)
        except errors.BrokerError as error:
            # Nothing but a refusal for a sequence counts: a full store takes its time
            self._refusals = self._refusals + 1 if is_wrong_sequence(error) else 0
            raise

    async def _look(self) -> set[Key]:
        """What is missing of the commit; after a try to store that, what is missing of it."""
        if self._missing is None:
            section = self._commit.sent.get(self._marker.headers.get(BATCH_ID, ""), ())
            # Not all markers need have been there when they were looked for
            subjects = [message.subject for message in section]
            first = subjects.index(self._marker.subject) if section else 0
            self._missing = await missing(self._js, self._stream, self._marker, section, place=first)
        if self._sent is not None:
            id, rest = self._sent
            begun = await self._js.get_last(self._stream, rest[0].subject)
            if begun is not None and begun.headers.get(BATCH_ID) == id:
                self._missing = await missing(self._js, self._stream, begun, rest, place=_place(begun) - 1)
        return self._missing


async def missing(js: JetStream, stream: str, stored: Stored, section: Section, *, place: int = 0) -> set[Key]:
    """Which messages of a section the server has not stored, where `stored` is the one at `place` in it. Looks at what
    was stored after that: a batch lies there in one piece, and nothing before its end is anybody else's."""
    batch = stored.headers.get(BATCH_ID)
    begin = stored.sequence - place
    last = begin + len(section) - 1
    sequence = stored.sequence + 1
    while sequence <= last:
        found = await js.get_next(stream, ">", start=sequence)
        if found is None:
            end = await admin.last_sequence(js, stream)
            return _from(section, end - begin + 1)
        if _is_of(found, batch):
            if BATCH_COMMIT in found.headers:
                return set()
            sequence = found.sequence + 1
            continue
        return _from(section, found.sequence - _place(found) - begin + 1)
    return set()


def key(message: Outgoing) -> Key:
    """What tells a message from the others of its run."""
    return message.subject, message.headers.get(envelopes.ID)


def _is_of(found: Stored, batch: str | None) -> bool:
    """What a timer sends carries the batch that has set it."""
    return found.headers.get(BATCH_ID) == batch and SCHEDULER not in found.headers


def _place(found: Stored) -> int:
    """Its place in its own batch, from 1: so many messages before are of that one, be they gone."""
    return 1 if SCHEDULER in found.headers else int(found.headers.get(BATCH_SEQUENCE, 1))


def _from(section: Section, stored: int) -> set[Key]:
    return {key(message) for message in section[max(1, stored) :]}
