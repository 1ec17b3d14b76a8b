"""The effects of one execution, buffered: writes coalesced to one per key, reads that see the run's own writes."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import orjson

from bema.contract import errors, names, operations, retries
from bema.contract.bindings import Limits
from bema.contract.effects import DeleteState, Effect, SetState, StateEffect, UpdateState
from bema.contract.operations import Operator
from bema_runtime import payloads
from bema_runtime.outboxes import PLAIN, Check, Emission, Outbox, Room

Key = tuple[str, str]
_UNKNOWN: Any = object()
_NO_LOCK: AbstractContextManager[Any] = contextlib.nullcontext()
_ATOMS = frozenset({bool, int, float, str, type(None)})


class Entry(NamedTuple):
    """A key of the state as the broker holds it."""

    value: bytes | None
    """JSON; None for nothing."""
    revision: int = 0
    expires: float | None = None
    """Unix time by the broker's clock at which it goes away by itself."""


class Buffer:
    """What one execution of a handler has read and asked for. Closed when the handler returns."""

    def __init__(
        self,
        *,
        run: str,
        step: str,
        limits: Limits,
        topics: Mapping[str, Check | None],
        shared: bool = True,
    ) -> None:
        """`shared`: whether several threads may use it, as a plain handler's own threads may."""
        self._step = step
        self._limits = limits
        self._room = Room(step, limits)
        self._outbox = Outbox(run=run, step=step, room=self._room, topics=topics)
        self._read: dict[Key, Entry] = {}
        self._writes: dict[Key, StateEffect] = {}
        self._sizes: dict[Key, int] = {}
        self._lock: AbstractContextManager[Any] = threading.RLock() if shared else _NO_LOCK
        self.closed: str | None = None
        """Why no more effects are taken."""

    def effects(self) -> Sequence[Effect]:
        with self._lock:
            return [*self._writes.values(), *self._outbox.effects()]

    def check_open(self) -> None:
        if self.closed is not None:
            raise errors.RunEnded(f"{self._step}: {self.closed}; nothing more can be asked of this context")

    def known(self, key: Key) -> bytes | None:
        """The value as the run sees it, when it can tell without asking the broker; else `UNKNOWN`."""
        match self._writes.get(key):
            case SetState(value=value):
                return value
            case DeleteState():
                return None
            case UpdateState():
                return _UNKNOWN  # type: ignore[no-any-return]
        found = self._read.get(key)
        return _UNKNOWN if found is None else found.value

    @staticmethod
    def is_unknown(value: Any) -> bool:
        return value is _UNKNOWN

    def read(self, key: Key) -> Entry | None:
        """What the broker held when the run read the key; None when it has not."""
        return self._read.get(key)

    def has_read(self, key: Key, entry: Entry) -> bytes | None:
        """Take in what the broker holds; the value as the run sees it. A blind change becomes a guarded one."""
        self._read[key] = entry
        update = self._writes.get(key)
        if isinstance(update, UpdateState):
            self._change(key, entry.value, update.operations)
        return self.known(key)

    def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """Write a value that goes away after `ttl` seconds; without them, one that stays."""
        names.state("", *key)
        what = f"state {key[0]}/{key[1]}"
        lifetime = None if ttl is None else _lifetime(what, ttl)
        data = payloads.dumps(value, what=what, limit=self._limits.payload_bytes)
        self._write(SetState(*key, data, lifetime), len(data))

    def delete(self, key: Key) -> None:
        names.state("", *key)
        self._write(DeleteState(*key), 0)

    def update(self, key: Key, changes: Sequence[operations.Operation]) -> None:
        """Blind where the run has not read the key; else applied here, to what it read."""
        self.check_open()
        names.state("", *key)
        if not changes:
            return
        what = f"state {key[0]}/{key[1]}"
        plain, size = [], 0
        for change in changes:
            data = payloads.dumps(change.value, what=what, limit=self._limits.payload_bytes)
            plain.append(_as_of_now(change, data))
            size += len(data)
        with self._lock:
            known = self.known(key)
            if not self.is_unknown(known):
                self._change(key, known, plain)
                return
            before = self._writes.get(key)
            earlier = before.operations if isinstance(before, UpdateState) else ()
            self._write(UpdateState(*key, (*earlier, *plain)), self._sizes.get(key, 0) + size)

    def _change(self, key: Key, value: bytes | None, changes: Sequence[operations.Operation]) -> None:
        """A changed value keeps the time after which, or at which, it goes away."""
        changed = operations.apply(orjson.loads(value) if value is not None else None, changes)
        if value is None and operations.is_nothing(changed, changes):
            self._drop_update(key)
            return
        what = f"state {key[0]}/{key[1]}"
        data = payloads.dumps(changed, what=what, limit=self._limits.payload_bytes)
        match self._writes.get(key), self._read.get(key):
            case SetState(ttl=ttl, expires=expires), _:
                self._write(SetState(*key, data, ttl, expires), len(data))
            case None | UpdateState(), Entry(value=bytes(), expires=expires):
                self._write(SetState(*key, data, expires=expires), len(data))
            case _:
                self._write(SetState(*key, data), len(data))

    def _drop_update(self, key: Key) -> None:
        """A blind change has turned out to change nothing."""
        with self._lock:
            if isinstance(self._writes.get(key), UpdateState):
                del self._writes[key]
                self._room.take(-1, -self._sizes.pop(key))

    def _write(self, effect: StateEffect, size: int) -> None:
        key = effect.group, effect.key
        with self._lock:
            self.check_open()
            self._room.take(0 if key in self._writes else 1, size - self._sizes.get(key, 0))
            self._sizes[key] = size
            self._writes[key] = effect

    def emit(self, topic: str, data: Any, how: Emission = PLAIN) -> str:
        """Buffer an event; its id."""
        self.check_open()
        body = self._outbox.check(topic, data, how)
        with self._lock:
            self.check_open()
            return self._outbox.emit(topic, body, how)

    def cancel(self, id: str) -> None:
        """Take back an event that is to be sent later."""
        with self._lock:
            self.check_open()
            self._outbox.cancel(id)

    def reschedule(self, id: str, at: float) -> None:
        """Send an event that is to be sent later at another Unix time."""
        with self._lock:
            self.check_open()
            self._outbox.reschedule(id, at)

    def own_keys(self, group: str) -> tuple[list[str], list[str]]:
        """The keys of a group that the run itself has written, and those that it has removed."""
        with self._lock:
            own = [effect for effect in self._writes.values() if effect.group == group]
        gone = [effect.key for effect in own if isinstance(effect, DeleteState)]
        # Removed ones keep their place: a page's cursor is one
        return [effect.key for effect in own], gone

    def own_groups(self) -> tuple[list[str], dict[str, list[str]]]:
        """The groups that the run itself has written to, and the keys that it has removed, by group."""
        with self._lock:
            writes = list(self._writes.values())
        own = {effect.group for effect in writes if _makes(effect)}
        gone: dict[str, list[str]] = {}
        for effect in writes:
            if isinstance(effect, DeleteState):
                gone.setdefault(effect.group, []).append(effect.key)
        return sorted(own), gone

    def overlay(self, group: str, stored: Mapping[str, Entry]) -> dict[str, Any]:
        """Entries of a group with the run's own writes laid over; new keys come last."""
        values: dict[str, Any] = {
            key: orjson.loads(entry.value) for key, entry in stored.items() if entry.value is not None
        }
        with self._lock:
            writes = [effect for effect in self._writes.values() if effect.group == group and effect.key in stored]
        for effect in writes:
            match effect:
                case SetState(key=key, value=value):
                    values[key] = orjson.loads(value)
                case DeleteState(key=key):
                    values.pop(key, None)
                case UpdateState(key=key, operations=changes):
                    changed = operations.apply(values.get(key), changes)
                    if key in values or not operations.is_nothing(changed, changes):
                        values[key] = changed
        return values


def _makes(effect: StateEffect) -> bool:
    """Whether there is a value after it, whatever was there before."""
    match effect:
        case UpdateState(operations=changes):
            return any(change.operator is not Operator.REMOVE for change in changes)
        case _:
            return isinstance(effect, SetState)


def _as_of_now(change: operations.Operation, data: bytes) -> operations.Operation:
    """A change with its value as plain JSON: what the handler does to the value afterwards, and how a type of its own
    is written, is no part of it any more."""
    if type(change.value) in _ATOMS:
        return change
    return operations.Operation(change.operator, change.path, orjson.loads(data))


def _lifetime(what: str, ttl: float) -> float:
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not math.isfinite(ttl) or ttl < 1:
        raise errors.TimeInvalid(f"{what}: ttl: expected 1 second or more, found {ttl!r}")
    if ttl > retries.LONGEST * 10:
        raise errors.TimeInvalid(f"{what}: ttl: expected at most {retries.LONGEST * 10:g} seconds, found {ttl:g}")
    return ttl
