"""The context that a handler gets: effects go to a buffer, questions to the engine. One for async, one for plain
functions; both are what `bema.authoring` promises."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import orjson

from bema import authoring
from bema.contract import errors, names, operations
from bema.contract.frames import Call, Invoke, Peer
from bema_runtime.buffers import Buffer
from bema_runtime.logs import BoundLogger

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

    async def get(self, group: str, key: str, default: Any = None) -> Any:
        names.state("", group, key)
        value = self._buffer.known((group, key))
        if self._buffer.is_unknown(value):
            found = await self._ask("state.get", group=group, key=key)
            value = self._buffer.has_read((group, key), found)
        return default if value is None else orjson.loads(value)

    async def set(self, group: str, key: str, value: Any) -> None:
        self._buffer.set((group, key), value)

    async def delete(self, group: str, key: str) -> None:
        self._buffer.delete((group, key))

    async def update(self, group: str, key: str, *changes: operations.Operation) -> None:
        self._buffer.update((group, key), changes)

    async def increment(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> None:
        self._buffer.update((group, key), (operations.increment(path, by),))

    async def increment_and_get(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> Any:
        change = operations.increment(path, by)
        changed = operations.apply(await self.get(group, key), (change,))
        self._buffer.set((group, key), changed)
        for part in change.path:
            changed = changed[part if isinstance(changed, list) else str(part)]
        return changed

    async def list(self, group: str, *, prefix: str | None = None, limit: int = 100) -> list[authoring.StateItem]:
        stored = await self._ask("state.list", group=group)
        values = self._buffer.overlay(group, stored)
        keys = sorted(key for key in values if prefix is None or key.startswith(prefix))
        return [authoring.StateItem(key, values[key]) for key in keys[:limit]]


class _Base:
    def __init__(self, app: str, invoke: Invoke, buffer: Buffer) -> None:
        self._invoke = invoke
        self._buffer = buffer
        self.app = app
        self._log: BoundLogger | None = None

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

    async def emit(
        self, topic: str, data: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        return self._buffer.emit(topic, data, key=key, headers=headers)

    async def heartbeat(self) -> None:
        self._invoke.deadline = await self._state._ask("heartbeat")


class _SyncState:
    """`authoring.SyncState`: the same, from a thread of the pool."""

    def __init__(self, state: _State, loop: asyncio.AbstractEventLoop) -> None:
        self._state = state
        self._loop = loop

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def get(self, group: str, key: str, default: Any = None) -> Any:
        return self._wait(self._state.get(group, key, default))

    def set(self, group: str, key: str, value: Any) -> None:
        self._state._buffer.set((group, key), value)

    def delete(self, group: str, key: str) -> None:
        self._state._buffer.delete((group, key))

    def update(self, group: str, key: str, *changes: operations.Operation) -> None:
        self._state._buffer.update((group, key), changes)

    def increment(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> None:
        self._state._buffer.update((group, key), (operations.increment(path, by),))

    def increment_and_get(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> Any:
        return self._wait(self._state.increment_and_get(group, key, by, path))

    def list(self, group: str, *, prefix: str | None = None, limit: int = 100) -> list[authoring.StateItem]:
        return self._wait(self._state.list(group, prefix=prefix, limit=limit))


class SyncContext(_Base):
    """`authoring.SyncContext`."""

    def __init__(self, app: str, invoke: Invoke, buffer: Buffer, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(app, invoke, buffer)
        self._inner = _State(buffer, invoke.id, peer)
        self._state = _SyncState(self._inner, loop)

    @property
    def state(self) -> authoring.SyncState:
        return self._state

    def emit(self, topic: str, data: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> str:
        return self._buffer.emit(topic, data, key=key, headers=headers)

    def heartbeat(self) -> None:
        self._invoke.deadline = self._state._wait(self._inner._ask("heartbeat"))
