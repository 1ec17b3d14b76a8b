"""The effects of one execution, buffered: writes coalesced to one per key, reads that see the run's own writes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import orjson

from bema.contract import envelopes, errors, names, operations
from bema.contract.bindings import Limits
from bema.contract.effects import (
    MAX_HEADER_BYTES,
    DeleteState,
    Effect,
    EmitEvent,
    SetState,
    StateEffect,
    UpdateState,
)
from bema_runtime import payloads

Key = tuple[str, str]
_UNKNOWN: Any = object()


_NO_LOCK: AbstractContextManager[Any] = contextlib.nullcontext()


class Buffer:
    """What one execution of a handler has read and asked for. Closed when the handler returns."""

    def __init__(
        self,
        *,
        run: str,
        step: str,
        limits: Limits,
        topics: Mapping[str, Callable[[Any], None] | None],
        shared: bool = True,
    ) -> None:
        """`shared`: whether several threads may use it, as a plain handler's own threads may."""
        self._run = run
        self._step = step
        self._limits = limits
        self._topics = topics
        self._read: dict[Key, bytes | None] = {}
        self._writes: dict[Key, StateEffect] = {}
        self._emits: list[EmitEvent] = []
        self._sizes: dict[Key, int] = {}
        self._bytes = 0
        self._lock: AbstractContextManager[Any] = threading.RLock() if shared else _NO_LOCK
        self.closed: str | None = None
        """Why no more effects are taken."""

    def effects(self) -> Sequence[Effect]:
        with self._lock:
            return [*self._writes.values(), *self._emits]

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
        return self._read.get(key, _UNKNOWN)

    @staticmethod
    def is_unknown(value: Any) -> bool:
        return value is _UNKNOWN

    def has_read(self, key: Key, value: bytes | None) -> bytes | None:
        """Take in what the broker holds; the value as the run sees it. A blind change becomes a guarded one."""
        self._read[key] = value
        update = self._writes.get(key)
        if isinstance(update, UpdateState):
            changed = operations.apply(orjson.loads(value) if value is not None else None, update.operations)
            self.set(key, changed)
        return self.known(key)

    def set(self, key: Key, value: Any) -> None:
        what = f"state {key[0]}/{key[1]}"
        names.state("", *key)
        data = payloads.dumps(value, what=what, limit=self._limits.payload_bytes)
        self._write(SetState(*key, data), len(data))

    def delete(self, key: Key) -> None:
        names.state("", *key)
        self._write(DeleteState(*key), 0)

    def update(self, key: Key, changes: Sequence[operations.Operation]) -> None:
        """Blind where the run has not read the key; else applied here, to what it read."""
        names.state("", *key)
        what = f"state {key[0]}/{key[1]}"
        size = sum(len(payloads.dumps(change.value, what=what, limit=self._limits.payload_bytes)) for change in changes)
        with self._lock:
            known = self.known(key)
            if not self.is_unknown(known):
                self.set(key, operations.apply(orjson.loads(known) if known is not None else None, changes))
                return
            before = self._writes.get(key)
            earlier = before.operations if isinstance(before, UpdateState) else ()
            self._write(UpdateState(*key, (*earlier, *changes)), self._sizes.get(key, 0) + size)

    def _write(self, effect: StateEffect, size: int) -> None:
        key = effect.group, effect.key
        with self._lock:
            self.check_open()
            self._count(size - self._sizes.get(key, 0), 0 if key in self._writes else 1)
            self._sizes[key] = size
            self._writes[key] = effect

    def emit(self, topic: str, data: Any, *, key: str | None, headers: Mapping[str, str] | None) -> str:
        """Buffer an event; its id."""
        self.check_open()
        if topic not in self._topics:
            declared = ", ".join(sorted(self._topics)) or "none"
            raise errors.UndeclaredTopic(
                f"{self._step} emits {topic!r}, which its config does not declare; declared are {declared}"
            )
        envelopes.check_headers(headers or {})
        if key is not None or headers:
            self._check_headers(topic, key, headers or {})
        body = payloads.dumps(data, what=f"event {topic}", limit=self._limits.payload_bytes)
        self._check_schema(topic, body)
        with self._lock:
            self.check_open()
            self._count(len(body), 1)
            number = len(self._emits) + 1
            self._emits.append(EmitEvent(topic, body, number, key, dict(headers or {})))
        return names.emitted_event(self._run, number)

    def _check_headers(self, topic: str, key: str | None, headers: Mapping[str, str]) -> None:
        if key is not None and not isinstance(key, str):
            raise errors.NameInvalid(f"event {topic}: key: expected a text, found {key!r}")
        size = sum(len(name) + len(value) for name, value in headers.items())
        size += len(envelopes.quoted(key or "", what="key"))
        if size > MAX_HEADER_BYTES:
            raise errors.PayloadTooLarge(
                f"event {topic}: expected at most {MAX_HEADER_BYTES} bytes of headers and key, found {size}; "
                "put other data into the event"
            )

    def _check_schema(self, topic: str, body: bytes) -> None:
        check = self._topics[topic]
        if check is None:
            return
        try:
            check(orjson.loads(body))
        except payloads.InputInvalid as error:
            raise errors.PayloadInvalid(f"event {topic}: not what its schema says: {error}") from error

    def _count(self, size: int, more: int) -> None:
        total = self._bytes + size
        count = len(self._writes) + len(self._emits) + more
        if count > self._limits.effects:
            raise errors.TooManyEffects(
                f"{self._step}: expected at most {self._limits.effects} effects in one run, found one more; "
                "split the work over several events"
            )
        if total > self._limits.commit_bytes:
            raise errors.TooManyEffects(
                f"{self._step}: expected at most {self._limits.commit_bytes} bytes of effects in one run, "
                f"found {total}; split the work over several events"
            )
        self._bytes = total

    def overlay(self, group: str, stored: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
        """A group's entries with the run's own writes laid over."""
        values: dict[str, Any] = {key: orjson.loads(value) for key, value in stored}
        with self._lock:
            writes = list(self._writes.items())
        for (other, key), effect in writes:
            if other != group:
                continue
            match effect:
                case SetState(value=value):
                    values[key] = orjson.loads(value)
                case DeleteState():
                    values.pop(key, None)
                case UpdateState(operations=changes):
                    values[key] = operations.apply(values.get(key), changes)
        return values
