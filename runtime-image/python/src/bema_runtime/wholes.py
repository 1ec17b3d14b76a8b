"""Whether all of a commit was stored: a server whose store becomes full may stop in the middle of a batch, with one
replica, and gives no answer. The run has its marker then, and lacks effects."""

from __future__ import annotations

from collections.abc import Sequence

from bema.contract import envelopes
from bema.ports import admin
from bema.ports.jetstream import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, SCHEDULER, JetStream, Outgoing, Stored

Section = Sequence[Outgoing]
"""A run's messages in a batch: they follow each other, its marker first."""
Key = tuple[str, str | None]


async def missing(js: JetStream, stream: str, marker: Stored, section: Section) -> set[Key]:
    """Which of a run's messages the server has not stored of the batch that its marker came with. Looks at what was
    stored after the marker: a batch lies there in one piece, and nothing before its end is anybody else's."""
    batch = marker.headers.get(BATCH_ID)
    last = marker.sequence + len(section) - 1
    sequence = marker.sequence + 1
    while sequence <= last:
        found = await js.get_next(stream, ">", start=sequence)
        if found is None:
            end = await admin.last_sequence(js, stream)
            return _from(section, end - marker.sequence + 1)
        if _is_of(found, batch):
            if BATCH_COMMIT in found.headers:
                return set()
            sequence = found.sequence + 1
            continue
        return _from(section, found.sequence - _place(found) - marker.sequence + 1)
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
