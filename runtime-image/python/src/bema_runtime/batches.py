"""The messages of a commit. Pure: what a run asked for, as the batch that makes it true.

The marker comes first and expects that there is none: whoever commits a run second is refused whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard, assert_never

import orjson

from bema.contract import envelopes, errors, names, operations
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
from bema.ports.clocks import Moment
from bema.ports.jetstream import ROLLUP, SCHEDULE, SCHEDULE_TARGET, TTL, Outgoing, Stored
from bema_runtime import changes, commits, lifetimes, payloads, traces
from bema_runtime.commits import DELETED, TOMBSTONE_TTL, Commit
from bema_runtime.runs import Run

_SERVERS = "nats-"
"""Header names that the server gave a stored message begin with this."""

Found = Mapping[str, Stored]

MAX_MESSAGES = 1000
"""Messages that the server takes in one batch."""


def together(
    group: Sequence[Commit], found: Found, *, now: Moment, watched: frozenset[str] = frozenset()
) -> list[Outgoing]:
    """The batch of several commits. A key that more than one of them changes blindly is written once: each change is
    applied to what the one before made of it, and the revision that was found guards them all."""
    blind = [subject for commit in group for subject in commit.blind]
    if len(set(blind)) == len(blind):
        return [message for commit in group for message in messages(commit, found, now=now, watched=watched)]
    seen = dict(found)
    batch: list[Outgoing] = []
    places: dict[str, int] = {}
    for commit in group:
        for message in messages(commit, seen, now=now, watched=watched):
            subject = message.subject
            if subject in places:
                batch[places[subject]] = message
            else:
                if subject in commit.blind:
                    places[subject] = len(batch)
                batch.append(message)
            if subject in commit.blind:
                seen[subject] = _changed(message)
    return batch


def _changed(message: Outgoing) -> Stored:
    """What a key holds for the next change: the new value, with its end, and the revision that guards them all."""
    return Stored(message.subject, message.expected or 0, "", message.data, message.headers)


def messages(commit: Commit, found: Found, *, now: Moment, watched: frozenset[str] = frozenset()) -> list[Outgoing]:
    """The batch as of now. `found` holds the last message of each subject in `commit.needs`, and of the keys in the
    `watched` groups, whose changes are told. Raises `EffectRefused` for a change that does not fit what was found."""
    batch = [commits.marker(run, commit.outcome, now.here) for run in commit.run.members]
    changed = 0
    for effect in commit.effects:
        if isinstance(effect, EmitEvent) and effect.id is None and effect.at is None:
            batch.append(_event(commit.run, effect, now))
        elif watched and isinstance(effect, SetState | DeleteState | UpdateState) and effect.group in watched:
            changed += 1
            batch.extend(_told(commit, effect, found, now, changed))
        else:
            batch.extend(_messages(commit, effect, found, now))
    batch.extend(commit.extra)
    if len(batch) > MAX_MESSAGES:
        raise errors.TooManyEffects(
            f"expected at most {MAX_MESSAGES} messages in one commit, found {len(batch)}; a write to a watched group "
            "is two of them; split the work over several events"
        )
    return batch


def _told(commit: Commit, effect: StateEffect, found: Found, now: Moment, number: int) -> Iterator[Outgoing]:
    """A write to a watched group, guarded by what was there, and right after it what has changed: nothing, where
    nothing was there to be deleted."""
    before = found.get(commits.state_subject(commit.run.binding.root, effect))
    for written in _messages(commit, effect, found, now):
        if written.expected is None:
            written.expected = before.sequence if before is not None else 0
        yield written
        old = before.data if lifetimes.is_there(before, now.broker) else None
        if old is not None or not isinstance(effect, DeleteState):
            yield changes.message(commit.run, number, effect, old, written, now=now.here)


def _messages(commit: Commit, effect: Effect, found: Found, now: Moment) -> Iterator[Outgoing]:
    run = commit.run
    root = run.binding.root
    match effect:
        case EmitEvent():
            if effect.number not in commit.duplicates and not _waits_already(run, effect, found):
                yield from _special(commit, effect, found, now)
        case SetState(group=group, key=key, value=value, ttl=ttl, expires=expires):
            lifetime = lifetimes.fresh(ttl) if expires is None else lifetimes.kept(expires, now=now.broker)
            yield _value(commits.state_subject(root, effect), value, run.reads.get((group, key)), lifetime)
        case DeleteState(group=group, key=key):
            yield tombstone(commits.state_subject(root, effect), run.reads.get((group, key)))
        case UpdateState():
            yield from _updated(run, effect, found.get(commits.state_subject(root, effect)), now)
        case CancelTimer(id=id):
            timer = found.get(names.timer(root, id))
            if _is_pending(timer):
                yield from _cancelled(commit, id, timer)
        case RescheduleTimer(id=id, at=at):
            timer = found.get(names.timer(root, id))
            if _is_pending(timer):
                yield _rescheduled(timer, at)
        case _:
            assert_never(effect)


def _value(subject: str, value: bytes, expected: int | None, lifetime: Mapping[str, str]) -> Outgoing:
    return Outgoing(subject, value, {ROLLUP: "sub", **lifetime}, expected)


def tombstone(subject: str, expected: int | None) -> Outgoing:
    """The removal of what a subject holds. It goes away by itself: it only has to replace."""
    return Outgoing(subject, b"", {ROLLUP: "sub", DELETED: "1", TTL: TOMBSTONE_TTL}, expected)


def _updated(run: Run, effect: UpdateState, stored: Stored | None, now: Moment) -> Iterator[Outgoing]:
    """A blind change: applied to what was found, and guarded by it. What was to go away still does. Nothing is written
    where nothing was and nothing is."""
    there = stored if lifetimes.is_there(stored, now.broker) else None
    before: Any = orjson.loads(there.data) if there is not None else None
    after = operations.apply(before, effect.operations)
    if there is None and operations.is_nothing(after, effect.operations):
        return
    what, limit = f"state {effect.group}/{effect.key}", run.binding.limits.payload_bytes
    value = payloads.dumps(after, what=what, limit=limit)
    revision = stored.sequence if stored is not None else 0
    lifetime = lifetimes.kept(lifetimes.end(there) if there is not None else None, now=now.broker)
    yield _value(commits.state_subject(run.binding.root, effect), value, revision, lifetime)


def _event(run: Run, effect: EmitEvent, now: Moment) -> Outgoing:
    binding = run.binding
    event = envelopes.Event(
        id=effect.id or names.emitted_event(run.id, effect.number),
        topic=effect.topic,
        source=envelopes.source(binding.app, binding.step),
        time=commits.timestamp(now.here),
        data=effect.data,
        key=effect.key,
        trace_parent=traces.parent(run.trace_id, run.span_id),
        headers=effect.headers,
    )
    partition = names.partition(effect.key, binding.partitions)
    headers = envelopes.encode(event)
    if run.depth:
        headers[envelopes.DEPTH] = str(run.depth)
    return Outgoing(names.event(binding.root, effect.topic, partition), effect.data, headers)


def _special(commit: Commit, effect: EmitEvent, found: Found, now: Moment) -> Iterator[Outgoing]:
    """An event with an id of the user's, or one for later, or both."""
    run = commit.run
    root = run.binding.root
    message = _event(run, effect, now)
    emitted = names.emitted_event(run.id, effect.number)
    if effect.id is not None:
        message.headers[envelopes.EMITTED] = emitted
        subject = names.dedup(root, effect.topic, effect.id)
        window = run.binding.limits.dedup_seconds + math.ceil(max(0.0, (effect.at or now.broker) - now.broker))
        headers = {ROLLUP: "sub", TTL: f"{window}s"}
        yield Outgoing(subject, emitted.encode(), headers, _expected(commit, effect, subject, found))
    if effect.at is None:
        yield message
        return
    schedule = {SCHEDULE: f"@at {commits.timestamp(effect.at)}", SCHEDULE_TARGET: message.subject, ROLLUP: "sub"}
    message.headers |= schedule
    timer = names.timer(root, commits.timer_id(run, effect))
    # Nobody else can mean a timer without an id of the user's
    expected = None if effect.id is None else _expected(commit, effect, timer, found)
    yield Outgoing(timer, message.data, message.headers, expected)


def _waits_already(run: Run, effect: EmitEvent, found: Found) -> bool:
    """Whether another event for later has its id: one that the run moves, so that it was looked at."""
    if effect.at is None or effect.replaces:
        return False
    return _is_pending(found.get(names.timer(run.binding.root, commits.timer_id(run, effect))))


def _expected(commit: Commit, effect: EmitEvent, subject: str, found: Found) -> int:
    """The sequence of what may be left on a subject that has to be new; 0 for nothing. A run that has cancelled a timer
    may use its id again, also where the timer has fired meanwhile."""
    if effect.replaces:
        there = found.get(subject)
        return there.sequence if there is not None else 0
    return commit.revisions.get(subject, 0)


def _mark_of(root: str, id: str, timer: Stored) -> str | None:
    """Where it is remembered that a timer's id was used; None for an id that is nobody's."""
    if envelopes.EMITTED not in timer.headers:
        return None
    return names.dedup(root, envelopes.attribute(timer.headers, envelopes.TYPE) or "", id)


def _is_pending(timer: Stored | None) -> TypeGuard[Stored]:
    return timer is not None and SCHEDULE in timer.headers


def _cancelled(commit: Commit, id: str, timer: Stored) -> Iterator[Outgoing]:
    """The timer goes, and its id may be used again: at once, where the run itself does."""
    reused = {
        subject
        for effect in commit.effects
        if isinstance(effect, EmitEvent) and effect.id == id and effect.number not in commit.duplicates
        for subject in commits.emit_subjects(commit.run, effect)
    }
    if timer.subject not in reused:
        yield tombstone(timer.subject, timer.sequence)
    mark = _mark_of(commit.run.binding.root, id, timer)
    if mark is not None and mark not in reused:
        yield tombstone(mark, None)


def _rescheduled(timer: Stored, at: float) -> Outgoing:
    kept = {name: value for name, value in timer.headers.items() if not name.lower().startswith(_SERVERS)}
    target = timer.headers[SCHEDULE_TARGET]
    headers = {**kept, SCHEDULE: f"@at {commits.timestamp(at)}", SCHEDULE_TARGET: target, ROLLUP: "sub"}
    return Outgoing(timer.subject, timer.data, headers, timer.sequence)
