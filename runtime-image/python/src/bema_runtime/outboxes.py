"""The events and timers that one execution asks for, buffered."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import orjson

from bema.contract import envelopes, errors, names, retries
from bema.contract.bindings import Limits
from bema.contract.effects import MAX_HEADER_BYTES, CancelTimer, EmitEvent, RescheduleTimer, TimerEffect
from bema_runtime import payloads

Check = Callable[[Any], None]
"""Raises `InputInvalid` for data that is not what a topic's schema says."""


@dataclass(slots=True)
class Room:
    """How much one execution may still ask for."""

    step: str
    limits: Limits
    effects: int = 0
    bytes: int = 0

    def take(self, effects: int, size: int) -> None:
        """Take some, or give it back. Raises `TooManyEffects`, and takes nothing."""
        if self.effects + effects > self.limits.effects:
            raise errors.TooManyEffects(
                f"{self.step}: expected at most {self.limits.effects} effects in one run, found one more; "
                "split the work over several events"
            )
        if self.bytes + size > self.limits.commit_bytes:
            raise errors.TooManyEffects(
                f"{self.step}: expected at most {self.limits.commit_bytes} bytes of effects in one run, "
                f"found {self.bytes + size}; split the work over several events"
            )
        self.effects += effects
        self.bytes += size


class Emission(NamedTuple):
    """What `ctx.emit` was given beside topic and data."""

    key: str | None = None
    id: str | None = None
    delay: float | datetime.timedelta | None = None
    at: float | datetime.datetime | None = None
    headers: Mapping[str, str] | None = None


PLAIN = Emission()

_FIRST = datetime.datetime.min.replace(tzinfo=datetime.UTC).timestamp()
"""The first time that a datetime can hold."""


class Outbox:
    """Not for several threads at once: its owner holds a lock."""

    def __init__(self, *, run: str, step: str, room: Room, topics: Mapping[str, Check | None]) -> None:
        self._run = run
        self._step = step
        self._room = room
        self._topics = topics
        self._emits: dict[int, EmitEvent] = {}
        self._timers: dict[str, TimerEffect] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._last = 0

    def effects(self) -> list[EmitEvent | TimerEffect]:
        """Timers first: what is taken back makes room for what is sent with its id. No two of them write one subject,
        but for a timer that the run moves and a duplicate of it."""
        return [*self._timers.values(), *self._emits.values()]

    def check(self, topic: str, data: Any, how: Emission) -> bytes:
        """The data as JSON. Raises `EffectRefused` or `NameInvalid` for what cannot be an event."""
        if topic not in self._topics:
            declared = ", ".join(sorted(self._topics)) or "none"
            raise errors.UndeclaredTopic(
                f"{self._step} emits {topic!r}, which its config does not declare; declared are {declared}"
            )
        headers = how.headers or {}
        envelopes.check_headers(headers)
        if how.key is not None or headers:
            _check_headers(topic, how.key, headers)
        if how.id is not None:
            _check_id(how.id)
        body = payloads.dumps(data, what=f"event {topic}", limit=self._room.limits.payload_bytes)
        check = self._topics[topic]
        if check is not None:
            try:
                check(orjson.loads(body))
            except payloads.InputInvalid as error:
                raise errors.PayloadInvalid(f"event {topic}: not what its schema says: {error}") from error
        return body

    def emit(self, topic: str, body: bytes, how: Emission) -> str:
        """Buffer an event; its id. One whose id the run has used before is dropped: on this topic, or, of those for
        later, on any."""
        at = None
        if how.delay is not None or how.at is not None:
            at = moment(f"event {topic}", delay=how.delay, at=how.at)
        if how.id is not None and ((topic, how.id) in self._ids or (at is not None and self._own(how.id) is not None)):
            return how.id
        self._room.take(_weight(how.id), len(body))
        self._last += 1
        number = self._last
        replaces = how.id is not None and isinstance(self._timers.get(how.id), CancelTimer)
        headers = dict(how.headers) if how.headers else {}
        self._emits[number] = EmitEvent(topic, body, number, how.key, headers, how.id, at, replaces)
        if how.id is None:
            return names.emitted_event(self._run, number)
        self._ids[topic, how.id] = number
        return how.id

    def cancel(self, id: str) -> None:
        """Take back an event that is to be sent later: one of this run's at once, another one at commit."""
        _check_id(id)
        own = self._own(id)
        if own is None or own.id is not None:
            # Another one of this id may wait already: then this run's own would have been dropped
            self._time(id, CancelTimer(id))
        if own is not None:
            del self._emits[own.number]
            self._ids.pop((own.topic, id), None)
            self._room.take(-_weight(own.id), -len(own.data))

    def reschedule(self, id: str, at: float) -> None:
        _check_id(id)
        own = self._own(id)
        if own is not None:
            self._emits[own.number] = own._replace(at=at)
        if (own is None or own.id is not None) and not isinstance(self._timers.get(id), CancelTimer):
            self._time(id, RescheduleTimer(id, at))

    def _own(self, id: str) -> EmitEvent | None:
        """This run's own event for later, by its id."""
        for emit in self._emits.values():
            if emit.at is not None and id == (emit.id or names.emitted_event(self._run, emit.number)):
                return emit
        return None

    def _time(self, id: str, effect: TimerEffect) -> None:
        if id not in self._timers:
            self._room.take(2, 0)
        self._timers[id] = effect


def _weight(id: str | None) -> int:
    """An emit with an id is two messages: the event, and the proof that the id was used."""
    return 1 if id is None else 2


def _check_id(id: str) -> None:
    if not isinstance(id, str) or not id:
        raise errors.NameInvalid(f"event id: expected a text that is not empty, found {id!r}")
    names.encode(id, what="event id")


def _check_headers(topic: str, key: str | None, headers: Mapping[str, str]) -> None:
    if key is not None and not isinstance(key, str):
        raise errors.NameInvalid(f"event {topic}: key: expected a text, found {key!r}")
    size = sum(len(name) + len(value) for name, value in headers.items())
    size += len(envelopes.quoted(key or "", what="key"))
    if size > MAX_HEADER_BYTES:
        raise errors.PayloadTooLarge(
            f"event {topic}: expected at most {MAX_HEADER_BYTES} bytes of headers and key, found {size}; "
            "put other data into the event"
        )


def moment(
    what: str, *, delay: float | datetime.timedelta | None = None, at: float | datetime.datetime | None = None
) -> float | None:
    """When something is to happen, as a Unix time; None for at once. Raises `TimeInvalid`. Whether a time has passed is
    the broker's to say: the clock here may be wrong."""
    if (delay is None) == (at is None):
        found = "both" if at is not None else "neither"
        raise errors.TimeInvalid(f"{what}: expected one of delay= and at=, found {found}")
    now = time.time()
    due = now + _seconds(what, delay) if delay is not None else _unix(what, at)
    seconds = due - now
    if due < _FIRST:
        raise errors.TimeInvalid(f"{what}: at: expected a time since the year 1, found {at!r}")
    if seconds > retries.LONGEST:
        days = retries.LONGEST / 86_400
        raise errors.TimeInvalid(f"{what}: expected a time within {days:g} days, found one in {seconds / 86_400:g}")
    # What was before 1970 has passed by any clock
    return None if seconds == 0 else max(0.0, due)


def _seconds(what: str, delay: float | datetime.timedelta) -> float:
    seconds = delay.total_seconds() if isinstance(delay, datetime.timedelta) else delay
    if not _is_finite(seconds) or seconds < 0:
        raise errors.TimeInvalid(f"{what}: delay: expected seconds from 0 on, or a timedelta, found {delay!r}")
    return seconds


def _unix(what: str, at: float | datetime.datetime | None) -> float:
    if isinstance(at, datetime.datetime) and at.tzinfo is not None:
        return at.timestamp()
    if not isinstance(at, datetime.datetime) and _is_finite(at):
        return float(at)
    raise errors.TimeInvalid(f"{what}: at: expected a Unix time or a datetime with a time zone, found {at!r}")


def _is_finite(number: Any) -> TypeGuard[float]:
    """Whether it is a number that a float can hold."""
    try:
        return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:
        return False
