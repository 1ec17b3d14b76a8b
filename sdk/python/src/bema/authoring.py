"""What step files import: the types of handlers and their context, and helpers that write config.

Nothing here does anything by itself. A Step file is plain Python: a `config`, a `handler`, no registration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar

from bema.contract import operations
from bema.contract.errors import HttpError, NonRetryable, RetryAfter, RevisionConflict
from bema.contract.triggers import Kind

__all__ = [
    "BatchItem",
    "Context",
    "HttpError",
    "NonRetryable",
    "Request",
    "Response",
    "RetryAfter",
    "RevisionConflict",
    "State",
    "StateChange",
    "StateItem",
    "StatePage",
    "StepConfig",
    "SyncContext",
    "SyncState",
    "SyncTimers",
    "Timers",
    "TriggerInfo",
    "api",
    "cron",
    "event",
    "operations",
    "state",
]

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Request(Generic[Body]):
    """What an api handler receives. `Request[Order]` validates the body as an `Order`."""

    body: Body
    """The JSON body, validated; None when there is none."""
    method: str
    path: str
    path_params: Mapping[str, str]
    query_params: Mapping[str, str]
    """Query parameters as text, the last of each name."""
    query: Any
    """The query, validated: a model where the config names one, else a dict."""
    query_list: Sequence[tuple[str, str]]
    """Query parameters as they arrived, repeated names among them."""
    headers: Mapping[str, str]
    """Header names in lower case."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer with all that HTTP has. `body` is JSON-ready, a model, text or bytes."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TriggerInfo:
    """Which of a Step's triggers fired."""

    kind: Kind
    index: int
    """Its place in the Step's list."""
    topic: str | None = None
    """The topic, of an event."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """Who an item of a batch is. Its data is at the same place of the handler's list."""

    run_id: str
    """Of the item alone: the same for every attempt, whatever else is in the batch."""
    attempt: int
    topic: str
    event_id: str
    key: str | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What the handler of a state trigger gets: one write to the group that it watches."""

    group: str
    key: str
    type: Literal["created", "updated", "deleted"]
    old: Any
    """The value before; None when there was none."""
    new: Any
    """The value now; None when it was removed."""
    revision: int
    """Which write of the key it is, see `if_revision`; 0 when it comes from a dead letter that was redriven."""
    old_left_out: bool = False
    """Whether there was a value before that is not told, because both together are too large."""


@dataclass(frozen=True, slots=True)
class StateItem:
    """An entry of a state group."""

    key: str
    value: Any
    revision: int = 0
    """Which write of the key is stored, whatever the run itself has asked for since; 0 for none. See `if_revision`."""


class StatePage(list[StateItem]):
    """Entries of a group. `cursor` is what to pass for the ones that follow; None after the last."""

    def __init__(self, items: Iterable[StateItem] = (), *, cursor: str | None = None) -> None:
        super().__init__(items)
        self.cursor = cursor


class State(Protocol):
    """The state that all Steps of an app share: `(group, key)` → JSON.

    Writes take effect when the run commits, together with its emits, or not at all. A key that a run read and then
    wrote is guarded: when somebody changed it meanwhile, the handler runs again on fresh data.
    """

    async def get(self, group: str, key: str, default: Any = None) -> Any:
        """The value, the run's own writes included; `default` when there is none. A null that was stored is a value:
        then it is None, whatever the default."""
        ...

    async def item(self, group: str, key: str) -> StateItem | None:
        """The value with its revision; None when there is none. A read, as `get`."""
        ...

    async def set(
        self, group: str, key: str, value: Any, *, ttl: float | None = None, if_revision: int | None = None
    ) -> None:
        """Write a value: JSON, or a pydantic model.

        `ttl`: seconds from the commit on after which it goes away by itself, silently; 1 or more. A later `set` without
        it makes the value stay, an `update` keeps the time. `if_revision`: the revision that must be there, 0 for none;
        raises `RevisionConflict` at once when it is not.
        """
        ...

    async def delete(self, group: str, key: str) -> None:
        """Remove a key. Nothing there is no error."""
        ...

    async def update(self, group: str, key: str, *changes: operations.Operation) -> None:
        """Change a value without reading it: applied to whatever it is at commit, so it never conflicts. Where nothing
        is and the changes leave nothing, no key is made."""
        ...

    async def increment(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> None:
        """Add to a number, without reading it. A missing one counts as 0."""
        ...

    async def append(self, group: str, key: str, value: Any, path: operations.Path = "") -> None:
        """Put a value at the end of a list, without reading it. A missing one counts as empty."""
        ...

    async def increment_and_get(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> Any:
        """Add to a number and return it. A guarded read: under contention the handler may run again."""
        ...

    async def list(
        self, group: str, *, prefix: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> StatePage:
        """Up to `limit` entries, in the order of their last writes, the run's own writes included. `cursor`: that of
        the page before. Not guarded, and may lag behind others; an entry that is written meanwhile may come again."""
        ...

    async def groups(self) -> Sequence[str]:
        """The groups that hold something, in order, the run's own writes laid over. Not guarded, and may lag behind
        others."""
        ...

    async def clear(self, group: str) -> int:
        """Remove every key of a group; how many. Each is an effect: a group of more than 500 is refused."""
        ...


class SyncState(Protocol):
    """`State` for handlers that are plain functions: the same, blocking."""

    def get(self, group: str, key: str, default: Any = None) -> Any: ...

    def item(self, group: str, key: str) -> StateItem | None: ...

    def set(
        self, group: str, key: str, value: Any, *, ttl: float | None = None, if_revision: int | None = None
    ) -> None: ...

    def delete(self, group: str, key: str) -> None: ...

    def update(self, group: str, key: str, *changes: operations.Operation) -> None: ...

    def increment(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> None: ...

    def increment_and_get(self, group: str, key: str, by: float = 1, path: operations.Path = "") -> Any: ...

    def append(self, group: str, key: str, value: Any, path: operations.Path = "") -> None: ...

    def list(
        self, group: str, *, prefix: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> StatePage: ...

    def groups(self) -> Sequence[str]: ...

    def clear(self, group: str) -> int: ...


class Timers(Protocol):
    """Events that are to be sent later (`emit` with `delay` or `at`), by the id that `emit` returned.

    Both take effect when the run commits. A timer that is not there, or has fired, is no error: then nothing happens.
    """

    async def cancel(self, id: str) -> None:
        """Take the event back. Its id may be used again."""
        ...

    async def reschedule(
        self, id: str, *, delay: float | timedelta | None = None, at: float | datetime | None = None
    ) -> None:
        """Send the event at another time: `delay` seconds from now, or at a Unix time or an aware datetime."""
        ...


class SyncTimers(Protocol):
    """`Timers` for handlers that are plain functions."""

    def cancel(self, id: str) -> None: ...

    def reschedule(
        self, id: str, *, delay: float | timedelta | None = None, at: float | datetime | None = None
    ) -> None: ...


class _Common(Protocol):
    @property
    def app(self) -> str: ...

    @property
    def step(self) -> str: ...

    @property
    def run_id(self) -> str:
        """The same for every attempt: the idempotency key for the outside world. With a batch that is each item's own,
        in `items`: this one is of the batch as it was put together now."""
        ...

    @property
    def attempt(self) -> int:
        """1 on the first execution; one more after each failure."""
        ...

    @property
    def trace_id(self) -> str:
        """W3C trace id, 32 hex digits: the same in every Step that one outside trigger caused."""
        ...

    @property
    def trigger(self) -> TriggerInfo: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The event's own headers, or the request's."""
        ...

    @property
    def deadline(self) -> float:
        """Unix time at which the attempt times out."""
        ...

    @property
    def scheduled_at(self) -> float | None:
        """Unix time of the tick, in a cron run."""
        ...

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger with app, step, run, attempt and trace bound to it."""
        ...

    @property
    def items(self) -> Sequence[BatchItem]:
        """Of a batch: who the items of the handler's list are. Empty without a batch."""
        ...

    def fail(self, item: int, error: BaseException | str) -> None:
        """Of a batch: the item at this place of the list has failed, alone. It is tried again by the retry policy, or
        becomes a dead letter (`NonRetryable`, `RetryAfter` and the like count); what the handler asked for is committed
        with the other items."""
        ...


class Context(_Common, Protocol):
    """What a handler that is `async def` gets beside its input."""

    @property
    def state(self) -> State: ...

    @property
    def timers(self) -> Timers: ...

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
        """Send an event when the run commits; its id. `topic` must be among the Step's `emits`.

        `key`: events of one key stay in order. `id`: of all emits with it on a topic within a day, in whatever run,
        only the first is sent; the others are dropped, and nothing else of their runs. `delay` (seconds, or a
        timedelta) or `at` (Unix time, or an aware datetime): not before that time, within 366 days; `timers` can still
        change it.
        """
        ...

    async def match(self, branches: Mapping[str, Callable[[Any], Any]]) -> Any:
        """Call the branch for what fired, with the handler's input, and return its result. Branches are named after a
        topic, a kind of trigger (`api`, `event`, `cron`, `state`) or `default`; the most telling name wins."""
        ...

    async def heartbeat(self) -> None:
        """The attempt is still at work: its timeout starts anew."""
        ...


class SyncContext(_Common, Protocol):
    """What a handler that is a plain function gets beside its input."""

    @property
    def state(self) -> SyncState: ...

    @property
    def timers(self) -> SyncTimers: ...

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
    ) -> str: ...

    def match(self, branches: Mapping[str, Callable[[Any], Any]]) -> Any: ...

    def heartbeat(self) -> None: ...


class StepConfig(TypedDict, total=False):
    """A Step's config, for editors and type checkers. A plain dict with the same keys is as good."""

    name: str
    displayName: str
    description: str
    flows: Sequence[str]
    triggers: Sequence[Mapping[str, Any]]
    emits: Sequence[str | Mapping[str, Any]]
    virtualEmits: Sequence[str]
    virtualSubscribes: Sequence[str]
    retry: Mapping[str, Any]
    timeoutSeconds: float
    concurrency: int
    maxInFlight: int
    scaling: Mapping[str, Any]
    replicas: int
    deliverFrom: str
    suspend: bool
    isolation: str
    pod: Mapping[str, Any]


def event(*topics: str, input: Any = None, **more: Any) -> dict[str, Any]:
    """A trigger: an event on one of `topics`. `input` is a pydantic model or a JSON Schema; `more` are `condition`,
    `ordering` and `batch`."""
    return {"event": {"topics": list(topics), **({} if input is None else {"input": input}), **more}}


def state(group: str, *, key: str | None = None, condition: Any = None) -> dict[str, Any]:
    """A trigger: a write to a group of the state, or to one key of it."""
    more = {name: value for name, value in (("key", key), ("condition", condition)) if value is not None}
    return {"state": {"group": group, **more}}


def api(method: str, path: str, *, body: Any = None, query: Any = None, **more: Any) -> dict[str, Any]:
    """A trigger: an HTTP request. `body` and `query` are pydantic models or JSON Schemas."""
    schemas = {name: value for name, value in (("body", body), ("query", query)) if value is not None}
    return {"api": {"method": method, "path": path, **schemas, **more}}


def cron(schedule: str, *, time_zone: str | None = None, **more: Any) -> dict[str, Any]:
    """A trigger: a time by the clock, in five fields or a name such as `@daily`."""
    zone = {} if time_zone is None else {"timeZone": time_zone}
    return {"cron": {"schedule": schedule, **zone, **more}}
