"""Dead letters of an app: listed, read, edited, redriven, discarded. For the command line and for services.

A dead letter leaves by one message on its own subject: a tombstone that expects the letter's revision. A redrive puts
it into one atomic batch with the message that starts the new run, so of all who redrive, discard or edit a letter at
once exactly one succeeds. A refusal proves nothing, and nor does silence: after either the stream's leader is asked
whose tombstone it is, or whether the letter is still there and the batch is to be sent again.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from bema.contract import envelopes, errors, letters, names
from bema.contract.effects import MAX_PAYLOAD_BYTES
from bema.contract.letters import DeadLetter, Filter, Summary
from bema.ports import admin, listings
from bema.ports.jetstream import MAX_HEADERS, ROLLUP, TTL, JetStream, Outgoing, Stored
from bema.ports.listings import Head

PATIENCE = 30.0
"""Seconds for which a change is tried. Well below a tombstone's life: until then it can be told whose it is."""

_TOMBSTONE_TTL = "60s"
_EVERYTHING = Filter()

Sent = TypeVar("Sent")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an app's dead letters are."""

    stream: str
    root: str

    @classmethod
    def of(cls, namespace: str, installation: str = "") -> Place:
        return cls(names.stream(namespace, installation), names.root(namespace, installation))


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the dead letters, the oldest first."""

    items: list[Summary]
    cursor: int | None
    """What `after` has to be for the next page; None when this is the last."""


async def page(js: JetStream, place: Place, wanted: Filter = _EVERYTHING, *, limit: int = 100, after: int = 0) -> Page:
    """Up to `limit` dead letters whose revision is above `after`."""
    items: list[Summary] = []
    async for summary in scan(js, place, wanted, after=after):
        if len(items) == limit:
            return Page(items, items[-1].sequence)
        items.append(summary)
    return Page(items, None)


async def count(js: JetStream, place: Place, wanted: Filter = _EVERYTHING, *, through: int | None = None) -> int:
    """How many there are, as far as revision `through`."""
    found = 0
    async for _ in scan(js, place, wanted, through=through):
        found += 1
    return found


async def scan(
    js: JetStream, place: Place, wanted: Filter = _EVERYTHING, *, after: int = 0, through: int | None = None
) -> AsyncIterator[Summary]:
    """All dead letters whose revision is above `after`, as far as `through`: those that join later are left out
    with it. It may lag behind writes."""
    subjects = names.dead_letter_filter(place.root, wanted.step or "*")
    while True:
        heads = await listings.heads(js, place.stream, subjects, after=after, since=wanted.since)
        for head in heads:
            if through is not None and head.sequence > through:
                return
            if envelopes.DELETED not in head.headers and wanted.matches(summary := _summary(place, head)):
                yield summary
        if len(heads) < listings.BATCH:
            return
        after = heads[-1].sequence


def _summary(place: Place, head: Head) -> Summary:
    step, run = names.dead_letter_of(place.root, head.subject)
    return letters.summary(step, run, head.headers, sequence=head.sequence, stored=head.time, size=head.size)


async def find(js: JetStream, place: Place, run: str, *, step: str | None = None) -> DeadLetter | None:
    """The dead letter of a run as the leader has it, or None. Run ids tell Steps apart: `step` saves nothing."""
    stored = await js.get_last(place.stream, names.dead_letter(place.root, step or "*", run))
    if stored is None or envelopes.DELETED in stored.headers:
        return None
    step, run = names.dead_letter_of(place.root, stored.subject)
    return letters.dead_letter(
        step, run, stored.headers, sequence=stored.sequence, stored=stored.time, data=stored.data
    )


async def edit(
    js: JetStream, place: Place, letter: DeadLetter, data: bytes, *, now: str, patience: float = PATIENCE
) -> int:
    """Replace a letter's data; its new revision. `now` is the time, RFC 3339.

    Raises `PayloadInvalid` or `PayloadTooLarge`, `DeadLetterMoved` when it is not what it was any more, or
    `BrokerUnavailable`.
    """
    letters.check_data(data)
    headers = letters.edited(letter, now)
    message = Outgoing(_subject(place, letter), data, {**headers, ROLLUP: "sub"}, expected=letter.sequence)

    async def send() -> int:
        return await js.publish(message)

    def is_ours(stored: Stored) -> bool:
        return stored.data == data and stored.headers.get(envelopes.EDITED) == now

    done = await _until_known(js, place, letter, send, is_ours, patience)
    return done if isinstance(done, int) else done.sequence


async def discard(js: JetStream, place: Place, letter: Summary, *, patience: float = PATIENCE) -> None:
    """Remove a letter for good. Raises `DeadLetterMoved` when it is not what it was, or `BrokerUnavailable`."""
    token = secrets.token_hex(8)
    message = _tombstone(place, letter, token)

    async def send() -> int:
        return await js.publish(message)

    await _until_known(js, place, letter, send, lambda stored: _token(stored) == token, patience)


async def redrive(
    js: JetStream, place: Place, letter: DeadLetter, *, data: bytes | None = None, patience: float = PATIENCE
) -> str:
    """Send a letter's event again, with `data` in place of its own where given, as a run of its own; that run's id.

    Raises `NotRedrivable`, `PayloadInvalid` or `PayloadTooLarge` when it could not help; `DeadLetterMoved` when the
    letter is not what it was any more; or `BrokerUnavailable`.
    """
    body = await redrivable(js, place, letter, data=data)
    token = secrets.token_hex(8)

    async def send() -> str:
        run = await next_run(js, place, letter)
        await js.publish_batch(
            [
                Outgoing(names.retry(place.root, letter.step, run), body, letters.redriven(letter, run), expected=0),
                _tombstone(place, letter, token, run),
            ]
        )
        return run

    done = await _until_known(js, place, letter, send, lambda stored: _token(stored) == token, patience)
    return done if isinstance(done, str) else done.headers[envelopes.RUN]


def _subject(place: Place, letter: Summary) -> str:
    return names.dead_letter(place.root, letter.step, letter.run)


def _tombstone(place: Place, letter: Summary, token: str, run: str | None = None) -> Outgoing:
    """`token` says whose it is, `run` what the letter was redriven as."""
    headers = {envelopes.DELETED: token, ROLLUP: "sub", TTL: _TOMBSTONE_TTL}
    if run is not None:
        headers[envelopes.RUN] = run
    return Outgoing(_subject(place, letter), b"", headers, expected=letter.sequence)


def _token(stored: Stored) -> str | None:
    return stored.headers.get(envelopes.DELETED)


async def redrivable(js: JetStream, place: Place, letter: DeadLetter, *, data: bytes | None = None) -> bytes:
    """The data with which a redrive would run. Raises `NotRedrivable`, `PayloadInvalid` or `PayloadTooLarge`."""
    letters.check_kind(letter)
    if not await _is_heard(js, place, letter.step):
        raise errors.NotRedrivable(
            f"run {letter.run}: expected a consumer of Step {letter.step!r}, found none, so nobody would hear it; "
            "start the Step, or discard the dead letter"
        )
    if data is not None:
        letters.check_data(data)
        return data
    return letter.data if letter.omitted is None else await _original(js, place, letter, letter.omitted)


async def _is_heard(js: JetStream, place: Place, step: str) -> bool:
    """Whether attempts in a Step's name are heard: by itself, or by one that has taken over its place."""
    if await admin.consumer_exists(js, place.stream, names.durable(step)):
        return True
    wanted = names.retry_filter(place.root, step)
    return any(wanted in state.filters for state in (await admin.consumer_states(js, place.stream)).values())


async def _original(js: JetStream, place: Place, letter: DeadLetter, sequence: int) -> bytes:
    """The data that was too large for the dead letter, from the event itself."""
    found = await js.get(place.stream, sequence) if sequence else None
    if found is None or envelopes.attribute(found.headers, envelopes.ID) != letter.event:
        raise errors.NotRedrivable(
            f"run {letter.run}: its data was too large to be kept: expected event {letter.event!r} still to be in the "
            "stream, found none; give other data"
        )
    largest = min(MAX_PAYLOAD_BYTES, js.connection.max_payload - MAX_HEADERS)
    if len(found.data) > largest:
        raise errors.NotRedrivable(
            f"run {letter.run}: expected at most {largest:,} bytes of data, found {len(found.data):,}, so it would "
            "fail again; give other data"
        )
    return found.data


async def next_run(js: JetStream, place: Place, letter: Summary) -> str:
    """The run that a redrive starts. Its number is the next that left no trace: a run with an old marker, of an
    event that came again after its marker's time, would count as ended before it began."""
    number = names.redrives_of(letter.run) + 1
    while True:
        run = names.redrive(letter.run, number)
        traces = (
            names.end(place.root, letter.step, letter.kind, run),
            names.retry_timer(place.root, letter.step, run),
            names.retry(place.root, letter.step, run),
            names.dead_letter(place.root, letter.step, run),
        )
        found = await asyncio.gather(*(js.get_last(place.stream, subject) for subject in traces))
        if not any(found):
            return run
        number += 1


async def _until_known(
    js: JetStream,
    place: Place,
    letter: Summary,
    send: Callable[[], Awaitable[Sent]],
    is_ours: Callable[[Stored], bool],
    patience: float,
) -> Sent | Stored:
    """Send until it is known that it happened: what `send` gave, or the message that proves it."""
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            return await send()
        except errors.BrokerError as error:
            stored = await _ask_leader(js, place, letter, error, deadline)
            if stored.sequence != letter.sequence:
                if is_ours(stored):
                    return stored
                raise _moved(letter, stored) from error
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(random.uniform(0.01, 0.1))


async def _ask_leader(
    js: JetStream, place: Place, letter: Summary, error: errors.BrokerError, deadline: float
) -> Stored:
    """What is on the letter's subject now."""
    while True:
        try:
            stored = await js.get_last(place.stream, _subject(place, letter))
        except errors.BrokerError as unanswered:
            if asyncio.get_running_loop().time() > deadline:
                raise errors.BrokerUnavailable(
                    f"run {letter.run}: whether its dead letter was changed is unknown: {error}; look at it again, "
                    "and repeat what has not happened"
                ) from unanswered
            await asyncio.sleep(random.uniform(0.05, 0.2))
            continue
        if stored is None:
            raise errors.DeadLetterMoved(
                f"expected the dead letter of run {letter.run}, found none any more"
            ) from error
        return stored


def _moved(letter: Summary, stored: Stored) -> errors.DeadLetterMoved:
    if envelopes.DELETED not in stored.headers:
        what = "changed"
    elif envelopes.RUN in stored.headers:
        what = f"redriven as run {stored.headers[envelopes.RUN]}"
    else:
        what = "discarded"
    return errors.DeadLetterMoved(f"the dead letter of run {letter.run} was {what} by somebody else meanwhile")
