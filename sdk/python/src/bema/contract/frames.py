"""What passes between a runtime and the code that executes handlers, in-process or in a worker of any language.

    runtime → worker: Invoke, Reply, Chunk (request body), Cancel
    worker → runtime: Call, Chunk (response body), End

An `id` names one execution of a handler within the process. Every `Invoke` gets exactly one `End`, also after
`Cancel`. Frames travel in lists, so that a hand-over between threads or processes costs once per burst. `wires` says
what they look like between processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from bema.contract.effects import Effect
from bema.contract.triggers import Kind


class Outcome(StrEnum):
    """How an execution of a handler ended."""

    OK = "ok"
    INVALID = "invalid"
    """The input is not what the Step's schema says; the handler did not run."""
    SKIPPED = "skipped"
    """The trigger's condition says that this is not for the Step; the handler did not run."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    """The runtime asked for it: a timeout, a drain."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The HTTP side of an invocation."""

    method: str
    path: str
    path_params: Mapping[str, str]
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What an api Step answers."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Item:
    """One event of a batch."""

    run: str
    attempt: int
    data: bytes
    topic: str
    event_id: str
    key: str | None
    headers: Mapping[str, str]
    trace_id: str


@dataclass(slots=True)
class Invoke:
    """Run the handler of `step` once."""

    id: int
    step: str
    kind: Kind
    run: str
    attempt: int
    data: bytes
    """The event's data or the request's body, JSON as it arrived."""
    trigger: int
    """Which of the Step's triggers fired, by its place in the list."""
    topic: str | None
    event_id: str | None
    headers: Mapping[str, str]
    trace_id: str
    span_id: str
    deadline: float
    """Unix time after which the attempt is cancelled."""
    scheduled_at: float | None = None
    """Unix time of a cron tick."""
    request: HttpRequest | None = None
    revision: int = 0
    """Of a change to the state: which write of its key it was; 0 where that is not known any more."""
    items: Sequence[Item] = ()
    """The events of a batch; `data` is empty then."""


HEARTBEAT = "heartbeat"
"""The method of a `Call` that gives an attempt its time anew; its result is the new deadline."""


@dataclass(frozen=True, slots=True)
class Call:
    """A handler asks the runtime for something: `state.get`, `state.list`, `state.groups`, `heartbeat`."""

    id: int
    invocation: int
    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a `Call`: a result, or an error's text."""

    id: int
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a body, in either direction. An empty one ends it."""

    invocation: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop an execution."""

    invocation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed."""

    type: str
    message: str
    traceback: str = ""
    retryable: bool = True
    retry_after: float | None = None
    http_status: int | None = None
    http_headers: Mapping[str, str] = field(default_factory=dict)
    details: Sequence[Mapping[str, Any]] = ()
    """For an input that is not valid: field, expected and found, one entry each."""


@dataclass(frozen=True, slots=True)
class ItemEnd:
    """How one event of a batch ended, where that is not how the batch did."""

    outcome: Outcome
    failure: Failure | None = None


@dataclass(slots=True)
class End:
    """An execution is over."""

    invocation: int
    outcome: Outcome
    effects: Sequence[Effect] = ()
    response: HttpResponse | None = None
    failure: Failure | None = None
    items: Mapping[int, ItemEnd] = field(default_factory=dict)
    """Of a batch: the items that did not share its outcome, by their place."""


class Peer(Protocol):
    """The runtime, as an invoker sees it. Both methods may be called from the invoker's thread."""

    async def call(self, call: Call) -> Reply:
        """Answer a handler's question. Never raises: an error is part of the reply."""
        ...

    def ended(self, ends: Sequence[End]) -> None:
        """Take the results of a burst of executions."""
        ...


class Invoker(Protocol):
    """Executes handlers, in whatever language. Called from the runtime's engine thread."""

    async def start(self, peer: Peer) -> None:
        """Load the handlers and be ready. Raises `StepInvalid` when a handler cannot be loaded."""
        ...

    def invoke(self, invocations: Sequence[Invoke]) -> None:
        """Start a burst of executions; returns at once."""
        ...

    def cancel(self, cancel: Cancel) -> None:
        """Ask one execution to stop; its `End` comes as always, if the handler lets it."""
        ...

    def close(self) -> None:
        """Let go of threads or processes."""
        ...
