"""Commits: all that a run wants to make true at once, its marker, and how a run that failed goes on. Pure."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

import orjson

from bema.contract import envelopes, names
from bema.contract.effects import (
    CancelTimer,
    DeleteState,
    Effect,
    EmitEvent,
    RescheduleTimer,
    SetState,
    StateEffect,
    UpdateState,
)
from bema.contract.triggers import Kind
from bema.ports.jetstream import SCHEDULE, SCHEDULE_TARGET, TTL, Outgoing
from bema_runtime.runs import Run

DELETED = envelopes.DELETED
_MARKER_TTL = {Kind.API: "10m", Kind.CRON: "168h"}
"""How long a marker is kept; one of an event is kept until every subscriber's floor has passed it."""

MAX_CHANGE_BYTES = 16 * 1024
"""More than a change of the state says beside the values, which may be as large as a payload."""

MAX_HISTORY_BYTES = 64 * 1024
"""More than the headers of a retry or a dead letter ever have."""

_MAX_EVENT_HEADERS = 32 * 1024
_MOST = 2000
"""Characters of one text in a run's history."""

TOMBSTONE_TTL = "60s"
"""How long a deletion stays as a message: it only has to replace the value."""


class RunOutcome(StrEnum):
    """How a run ended, as its marker says."""

    OK = "ok"
    DEAD = "dead"


@dataclass(slots=True)
class Commit:
    """All that a run wants to make true at once."""

    run: Run
    outcome: RunOutcome
    effects: Sequence[Effect] = ()
    extra: Sequence[Outgoing] = ()
    """More messages: a dead letter."""
    duplicates: set[int] = field(default_factory=set)
    """Emits, by number, whose id was used before: they are not sent."""
    revisions: dict[str, int] = field(default_factory=dict)
    """Subjects that must be new, where what is left of an older one was found: its sequence."""
    sent: dict[str, list[Outgoing]] = field(default_factory=dict)
    """Its messages in batches that were not confirmed, by the batch's id."""
    refusals: int = 0
    """How often the server has refused it, and nothing explained why."""
    subjects: set[str] = field(init=False)
    """What no other run of the same batch may touch: the marker, the state that is written, timers and ids."""
    needs: set[str] = field(init=False)
    """Subjects whose last message is needed to make the batch."""
    blind: set[str] = field(init=False)
    """Keys of the state that it changes without having read them: runs of one batch may share those."""
    size: int = field(init=False)
    """Payload bytes, roughly: to bound a batch."""
    messages: int = field(init=False)
    """Messages, at most."""

    def __post_init__(self) -> None:
        members = self.run.members
        self.subjects, self.needs, self.blind = {marker_subject(run) for run in members}, set(), set()
        self.messages = len(members) + len(self.effects) * 2 + len(self.extra)
        self.size = sum([len(message.data) for message in self.extra])
        for effect in self.effects:
            if isinstance(effect, EmitEvent):
                self.size += len(effect.data)
                if effect.id is None and effect.at is None:
                    continue
            self._take(effect)
        self.needs |= self.blind
        self.subjects |= self.needs

    def _take(self, effect: Effect) -> None:
        root = self.run.binding.root
        match effect:
            case EmitEvent(replaces=replaces):
                taken = emit_subjects(self.run, effect)
                (self.needs if replaces else self.subjects).update(taken)
            case CancelTimer() | RescheduleTimer():
                self.needs.add(names.timer(root, effect.id))
            case SetState(value=value):
                self.subjects.add(state_subject(root, effect))
                self.size += len(value)
            case DeleteState():
                self.subjects.add(state_subject(root, effect))
            case UpdateState():
                self.blind.add(state_subject(root, effect))
            case _:
                assert_never(effect)

    def written(self, groups: frozenset[str]) -> list[str]:
        """The subjects of the keys that it writes in some groups of the state."""
        root = self.run.binding.root
        return [
            state_subject(root, effect)
            for effect in self.effects
            if isinstance(effect, SetState | DeleteState | UpdateState) and effect.group in groups
        ]


def marker_subject(run: Run) -> str:
    binding = run.unit.binding
    return names.end(binding.root, run.step, run.kind, run.id)


def state_subject(root: str, effect: StateEffect) -> str:
    return names.state(root, effect.group, effect.key)


def emit_subjects(run: Run, effect: EmitEvent) -> list[str]:
    """What an emit with an id, or for later, takes for itself alone."""
    root = run.binding.root
    found = [] if effect.id is None else [names.dedup(root, effect.topic, effect.id)]
    return found if effect.at is None else [*found, names.timer(root, timer_id(run, effect))]


def timer_id(run: Run, effect: EmitEvent) -> str:
    return effect.id or names.emitted_event(run.id, effect.number)


@functools.lru_cache(maxsize=64)
def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def marker(run: Run, outcome: RunOutcome, now: float) -> Outgoing:
    """The proof that a run ended, as JSON: outcome, attempt, and arrival and end in ms since 1970."""
    body = b'{"outcome":"%b","attempt":%d,"started":%d,"ended":%d}' % (
        outcome.encode(),
        run.attempt,
        run.started * 1000,
        now * 1000,
    )
    lifetime = _MARKER_TTL.get(run.kind)
    return Outgoing(marker_subject(run), body, {TTL: lifetime} if lifetime else {}, expected=0)


def retry(run: Run, event: envelopes.Event, *, at: float, attempt: int) -> Outgoing:
    """The schedule of a run's next attempt."""
    binding = run.binding
    headers = _history(run, event, attempt)
    headers[SCHEDULE] = f"@at {timestamp(at)}"
    headers[SCHEDULE_TARGET] = names.retry(binding.root, run.step, run.id)
    return Outgoing(names.retry_timer(binding.root, run.step, run.id), event.data, headers)


def dead_letter(run: Run, event: envelopes.Event, *, reason: str, largest: int) -> Outgoing:
    """The dead letter of a run: the event as it came, why, and what every attempt failed with. Data of more than
    `largest` bytes is left out; a header then says where in the stream it is."""
    binding = run.binding
    headers = _history(run, event, run.attempt)
    headers[envelopes.REASON] = reason
    headers[envelopes.KIND] = run.kind
    data = event.data
    if len(data) > largest:
        headers[envelopes.OMITTED] = str(run.delivery.sequence if run.delivery else 0)
        data = b""
    return Outgoing(names.dead_letter(binding.root, binding.step, run.id), data, headers)


def _history(run: Run, event: envelopes.Event, attempt: int) -> dict[str, str]:
    headers = envelopes.encode(event)
    if sum(len(name) + len(value.encode()) for name, value in headers.items()) > _MAX_EVENT_HEADERS:
        # Only a foreign event has so many
        headers = {name: headers[name][:1000] for name in headers if name not in event.headers}
    headers[envelopes.RUN] = run.id
    headers[envelopes.ATTEMPT] = str(attempt)
    headers[envelopes.ERRORS] = errors_header(run.errors)
    if run.depth:
        headers[envelopes.DEPTH] = str(run.depth)
    if run.kind is Kind.STATE:
        headers[envelopes.KIND] = run.kind
    if run.ancestor is not None:
        headers[envelopes.ANCESTOR] = run.ancestor
    return headers


def errors_header(entries: Iterable[Mapping[str, object]]) -> str:
    """What attempts failed with, the last ones as far as they fit, as JSON in ASCII."""
    kept: list[str] = []
    size = 2
    for entry in reversed(list(entries)):
        text = _ascii(entry, _MOST)
        if not kept and len(text) + 2 > envelopes.MAX_ERRORS_BYTES:
            text = _shortened(entry)
        size += len(text) + 1
        if kept and size > envelopes.MAX_ERRORS_BYTES:
            break
        kept.append(text)
    return "[" + ",".join(reversed(kept)) + "]"


def _shortened(entry: Mapping[str, object]) -> str:
    """An entry that would fill the header by itself: without details, and with texts as short as they have to be."""
    plain = {key: entry[key] for key in ("attempt", "type", "message", "at", "traceback") if key in entry}
    most = _MOST
    while len(text := _ascii(plain, most)) + 2 > envelopes.MAX_ERRORS_BYTES:
        most //= 2
    return text


def _ascii(entry: Mapping[str, object], most: int) -> str:
    """An entry as JSON, of each text at most so many characters: the end of a traceback, the beginning of others."""
    short = {
        key: (value[-most:] if key == "traceback" else value[:most]) if isinstance(value, str) else value
        for key, value in entry.items()
    }
    text = orjson.dumps(short).decode()
    return "".join(c if c < "\x7f" else "".join(_escapes(c)) for c in text)


def _escapes(character: str) -> Iterable[str]:
    data = character.encode("utf-16-be", "surrogatepass")
    return (f"\\u{data[i] << 8 | data[i + 1]:04x}" for i in range(0, len(data), 2))
