"""The context that a handler gets: effects go to a buffer, questions to the engine. One for async, one for plain
functions; both are what `bema.authoring` promises."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import orjson

from bema import authoring
from bema.contract import errors, frames, names, operations
from bema.contract.frames import Call, Invoke, Peer
from bema_runtime import outboxes
from bema_runtime.buffers import Buffer, Entry
from bema_runtime.handfuls import Batch
from bema_runtime.logs import BoundLogger
from bema_runtime.outboxes import Emission
from bema_runtime.reads import Page

T = TypeVar("T")

_numbers = itertools.count(1)
_logger = logging.getLogger("handler")


class _State:
    """`authoring.State`."""

    def __init__(self, buffer: Buffer, invocation: int, peer: Peer) -> None:
        self._buffer = buffer
        self._invocation = invocation
        self._peer = peer

    async def _ask(self, method: str, **params: Any) -> Any:
        self._buffer.check_open()
        reply = await self._peer.call(Call(next(_numbers), self._invocation, method, params))
        self._buffer.check_open()
        if reply.error is not None:
            raise errors.BrokerUnavailable(f"{method}: {reply.error}")
        return reply.result

    async def _read(self, group: str, key: str) -> Entry:
        """What the broker holds; from now on the commit is guarded by it."""
        found = self._buffer.read((group, key))
        if found is None:
            found = Entry(*await self._ask("state.get", group=group, key=key))
            self._buffer.has_read((group, key), found)
        return found

    async def get(self, group: str, key: str, default: Any = None) -> Any:
        names.state("", group, key)
        value = self._buffer.known((group, key))
        if self._buffer.is_unknown(value):
            found = Entry(*await self._ask("state.get", group=group, key=key))
            value = self._buffer.has_read((group, key), found)
        return default if value is None else orjson.loads(value)

    async def item(self, group: str, key: str) -> authoring.StateItem | None:
        names.state("", group, key)
        found = await self._read(group, key)
        value = self._buffer.known((group, key))
        return None if value is None else authoring.StateItem(key, orjson.loads(value), _revision(found))

    async def set(
        self, group: str, key: str, value: Any, *, ttl: float | None = None, if_revision: int | None = None
    ) -> None:
        if if_revision is not None:
            await self._expect(group, key, if_revision)
        self._buffer.set((group, key), value, ttl=ttl)

    async def _expect(self, group: str, key: str, revision: int) -> None:
        names.state("", group, key)
        if isinstance(revision, bool) or not isinstance(revision, int):
            raise errors.PayloadInvalid(f"state {group}/{key}: if_revision: expected a revision, found {revision!r}")
        entry = await self._read(group, key)
        found = _revision(entry)
        if found != revision:
            raise errors.RevisionConflict(
                f"state {group}/{key}: expected revision {revision}, found {found or 'nothing'}",
                expected=revision,
                found=found,
            )

    async def delete(self, group: str, key: str) -> None:
        self._buffer.delete((group, key))

    async def update(self, group: str, key: str, *changes: operations.Operation) -> None:
        self._buffer.update((group, key), changes)

    async def increment(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> None:
        self._buffer.update((group, key), (operations.increment(path, by),))

    async def append(self, group: str, key: str, value: Any, path: operations.Path = "") -> None:
        self._buffer.update((group, key), (operations.append(value, path),))

    async def increment_and_get(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> Any:
        change = operations.increment(path, by)
        await self.get(group, key)
        self._buffer.update((group, key), (change,))
        changed = await self.get(group, key)
        for part in change.path:
            changed = changed[part if isinstance(changed, list) else str(part)]
        return changed

    async def list(
        self, group: str, *, prefix: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> authoring.StatePage:
        own, gone = self._buffer.own_keys(group)
        params = {"group": group, "prefix": prefix, "limit": limit, "cursor": cursor, "own": own, "gone": gone}
        Page.of(params)
        names.encode(group, what="group")
        found, following = await self._ask("state.list", **params)
        entries = {key: Entry(*entry) for key, entry in found}
        values = self._buffer.overlay(group, entries)
        items = [authoring.StateItem(key, values[key], entries[key].revision) for key in entries if key in values]
        return authoring.StatePage(items, cursor=following)

    async def groups(self) -> Sequence[str]:
        own, gone = self._buffer.own_groups()
        found: Sequence[str] = await self._ask("state.groups", own=own, gone=gone)
        return found

    async def clear(self, group: str) -> int:
        count, cursor = 0, None
        while True:
            page = await self.list(group, limit=1000, cursor=cursor)
            for item in page:
                self._buffer.delete((group, item.key))
            count += len(page)
            cursor = page.cursor
            if cursor is None:
                return count


def _revision(entry: Entry) -> int:
    """What `if_revision` has to name: what was removed leaves a message for a while, and is nothing."""
    return 0 if entry.value is None else entry.revision


class _Timers:
    """`authoring.Timers`."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    async def cancel(self, id: str) -> None:
        self._buffer.cancel(id)

    async def reschedule(
        self, id: str, *, delay: float | timedelta | None = None, at: float | datetime | None = None
    ) -> None:
        reschedule(self._buffer, id, delay, at)


class _SyncTimers:
    """`authoring.SyncTimers`."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def cancel(self, id: str) -> None:
        self._buffer.cancel(id)

    def reschedule(
        self, id: str, *, delay: float | timedelta | None = None, at: float | datetime | None = None
    ) -> None:
        reschedule(self._buffer, id, delay, at)


def reschedule(buffer: Buffer, id: str, delay: float | timedelta | None, at: float | datetime | None) -> None:
    buffer.reschedule(id, outboxes.moment(f"timer {id}", delay=delay, at=at) or time.time())


class _Base:
    def __init__(self, app: str, invoke: Invoke, buffer: Buffer) -> None:
        self._invoke = invoke
        self._buffer = buffer
        self.app = app
        self._log: BoundLogger | None = None
        self._input: Any = None
        self.batch: Batch | None = None

    @property
    def items(self) -> Sequence[authoring.BatchItem]:
        return self.batch.items if self.batch is not None else ()

    def fail(self, item: int, error: BaseException | str) -> None:
        if self.batch is None:
            raise errors.BatchInvalid(
                f"{self.step}: expected ctx.fail in the handler of a batch, found no batch here; raise instead"
            )
        self._buffer.check_open()
        self.batch.fail(item, error)

    @property
    def has_asked(self) -> bool:
        """Whether any effect was asked for."""
        return bool(self._buffer.effects())

    def given(self, value: Any) -> None:
        """The input that the handler gets beside this context."""
        self._input = value

    def _branch(self, branches: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
        """The most telling name that fits what fired: the topic, then the trigger's kind, then `default`."""
        invoke = self._invoke
        wanted = [name for name in (invoke.topic, invoke.kind.value, "default") if name is not None]
        for name in wanted:
            if name in branches:
                return branches[name]
        expected, found = " or ".join(map(repr, wanted)), ", ".join(map(repr, branches)) or "none"
        raise errors.StepInvalid(f"{invoke.step}: ctx.match: expected a branch {expected}, found {found}")

    @property
    def step(self) -> str:
        return self._invoke.step

    @property
    def run_id(self) -> str:
        return self._invoke.run

    @property
    def attempt(self) -> int:
        return self._invoke.attempt

    @property
    def trace_id(self) -> str:
        return self._invoke.trace_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._invoke.headers

    @property
    def deadline(self) -> float:
        return self._invoke.deadline

    @property
    def scheduled_at(self) -> float | None:
        return self._invoke.scheduled_at

    @property
    def trigger(self) -> authoring.TriggerInfo:
        invoke = self._invoke
        return authoring.TriggerInfo(invoke.kind, invoke.trigger, invoke.topic)

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        if self._log is None:
            invoke = self._invoke
            fields = {
                "app": self.app,
                "step": invoke.step,
                "run": invoke.run,
                "attempt": invoke.attempt,
                "trace": invoke.trace_id,
            }
            self._log = BoundLogger(_logger, fields)
        return self._log


class AsyncContext(_Base):
    """`authoring.Context`."""

    def __init__(self, app: str, invoke: Invoke, buffer: Buffer, peer: Peer) -> None:
        super().__init__(app, invoke, buffer)
        self._state = _State(buffer, invoke.id, peer)

    @property
    def state(self) -> authoring.State:
        return self._state

    @property
    def timers(self) -> authoring.Timers:
        return _Timers(self._buffer)

    async def emit(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        id: str | None = None,
        delay: float | timedelta | None = None,
        at: float | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        return self._buffer.emit(topic, data, Emission(key, id, delay, at, headers))

    async def heartbeat(self) -> None:
        self._invoke.deadline = await self._state._ask(frames.HEARTBEAT)

    async def match(self, branches: Mapping[str, Callable[[Any], Any]]) -> Any:
        result = self._branch(branches)(self._input)
        return await result if inspect.isawaitable(result) else result


class _SyncState:
    """`authoring.SyncState`: the same, from a thread of the pool. What only fills the buffer needs no loop."""

    def __init__(self, state: _State, loop: asyncio.AbstractEventLoop) -> None:
        self._state = state
        self._loop = loop

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def get(self, group: str, key: str, default: Any = None) -> Any:
        return self._wait(self._state.get(group, key, default))

    def item(self, group: str, key: str) -> authoring.StateItem | None:
        return self._wait(self._state.item(group, key))

    def set(
        self, group: str, key: str, value: Any, *, ttl: float | None = None, if_revision: int | None = None
    ) -> None:
        if if_revision is None:
            self._state._buffer.set((group, key), value, ttl=ttl)
        else:
            self._wait(self._state.set(group, key, value, ttl=ttl, if_revision=if_revision))

    def delete(self, group: str, key: str) -> None:
        self._state._buffer.delete((group, key))

    def update(self, group: str, key: str, *changes: operations.Operation) -> None:
        self._state._buffer.update((group, key), changes)

    def increment(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> None:
        self._state._buffer.update((group, key), (operations.increment(path, by),))

    def append(self, group: str, key: str, value: Any, path: operations.Path = "") -> None:
        self._state._buffer.update((group, key), (operations.append(value, path),))

    def increment_and_get(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> Any:
        return self._wait(self._state.increment_and_get(group, key, by, path))

    def list(
        self, group: str, *, prefix: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> authoring.StatePage:
        return self._wait(self._state.list(group, prefix=prefix, limit=limit, cursor=cursor))

    def groups(self) -> Sequence[str]:
        return self._wait(self._state.groups())

    def clear(self, group: str) -> int:
        return self._wait(self._state.clear(group))


class SyncContext(_Base):
    """`authoring.SyncContext`."""

    def __init__(self, app: str, invoke: Invoke, buffer: Buffer, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(app, invoke, buffer)
        self._inner = _State(buffer, invoke.id, peer)
        self._state = _SyncState(self._inner, loop)

    @property
    def state(self) -> authoring.SyncState:
        return self._state

    @property
    def timers(self) -> authoring.SyncTimers:
        return _SyncTimers(self._buffer)

    def emit(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        id: str | None = None,
        delay: float | timedelta | None = None,
        at: float | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        return self._buffer.emit(topic, data, Emission(key, id, delay, at, headers))

    def heartbeat(self) -> None:
        self._invoke.deadline = self._state._wait(self._inner._ask(frames.HEARTBEAT))

    def match(self, branches: Mapping[str, Callable[[Any], Any]]) -> Any:
        result = self._branch(branches)(self._input)
        if inspect.iscoroutine(result):
            result.close()
            raise errors.NonRetryable(
                f"{self.step}: ctx.match: expected a plain function beside a plain handler, found an `async def`"
            )
        return result
