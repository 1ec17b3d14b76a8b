"""Executes Python handlers: async ones on an event loop in a thread of its own, plain ones in a pool of threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bema import authoring, handlers
from bema.contract import errors, retries, triggers
from bema.contract.bindings import Binding, BoundApi, BoundCron, BoundEvent, BoundState
from bema.contract.frames import Cancel, End, Failure, Invoke, ItemEnd, Outcome, Peer
from bema.contract.triggers import Kind, Method
from bema_runtime import changes, conditions, loops, payloads, responses, texts
from bema_runtime.buffers import Buffer
from bema_runtime.conditions import Condition
from bema_runtime.contexts import AsyncContext, SyncContext
from bema_runtime.handfuls import Batch
from bema_runtime.loops import HandlerLoop
from bema_runtime.mailboxes import Mailbox

log = logging.getLogger(__name__)

MAX_THREADS = 256
EXIT_STUCK = 70
"""Of a process whose handlers cannot be brought to an end."""
Bound = BoundEvent | BoundApi | BoundCron | BoundState
_OWN_FILES = (str(Path(__file__).parent), futures.__path__[0])


@dataclass(frozen=True, slots=True)
class _Entry:
    """A loaded Step: its handler and how its inputs are read."""

    binding: Binding
    handler: handlers.Handler
    function: Callable[..., Any]
    is_async: bool
    decoders: dict[int, payloads.Decode]
    """How to read an event's data or a request's body, by the trigger's place."""
    queries: dict[int, Callable[[Sequence[tuple[str, str]]], Any]]
    topics: dict[str, Callable[[Any], None] | None]
    """Declared topics, each with the check of its schema, if it has one."""
    conditions: dict[int, Condition]
    """When to run, by the trigger's place; always where there is none."""


@dataclass(slots=True)
class _Execution:
    invoke: Invoke
    entry: _Entry
    buffer: Buffer
    task: asyncio.Task[None] | None = None
    begun: bool = False
    cancelled: str | None = None
    has_tasks: bool = False
    left: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def log_fields(self) -> dict[str, object]:
        invoke = self.invoke
        return {
            "app": self.entry.binding.app,
            "step": invoke.step,
            "run": invoke.run,
            "attempt": invoke.attempt,
            "trace": invoke.trace_id,
        }


class PythonInvoker:
    """`frames.Invoker` for handlers in this process."""

    def __init__(self, bindings: Sequence[Binding]) -> None:
        self._bindings = bindings
        self._entries: dict[str, _Entry] = {}
        self._executions: dict[int, _Execution] = {}
        self._serving = HandlerLoop(_give_up)
        self._loop = self._serving.loop
        self._pool = ThreadPoolExecutor(_pool_size(bindings), thread_name_prefix="handler")
        self._begin: Mailbox[Invoke] = Mailbox(self._loop, self._start_all)
        self._ends: list[End] = []
        self._peer: Peer

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the handlers, on which the peer is asked and told."""
        return self._loop

    async def start(self, peer: Peer) -> None:
        """Load every handler. Raises `StepInvalid`."""
        self._peer = peer
        self._entries = {binding.step: _load(binding) for binding in self._bindings}
        self._serving.start()

    def invoke(self, invocations: Sequence[Invoke]) -> None:
        self._begin.put_all(list(invocations))

    def cancel(self, cancel: Cancel) -> None:
        self._loop.call_soon_threadsafe(self._cancel, cancel)

    def close(self) -> None:
        self._serving.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_all(self, invocations: list[Invoke]) -> None:
        for invoke in invocations:
            entry = self._entries[invoke.step]
            buffer = _buffer(entry, invoke)
            execution = _Execution(invoke, entry, buffer)
            self._executions[invoke.id] = execution
            execution.task = asyncio.Task(self._execute(invoke, execution), loop=self._loop)

    def _cancel(self, cancel: Cancel) -> None:
        execution = self._executions.get(cancel.invocation)
        if execution is None or execution.cancelled is not None:
            return
        execution.cancelled = cancel.reason
        execution.buffer.closed = cancel.reason
        # A thread cannot be stopped: a plain function meets the closed buffer at its next effect. A task cancelled
        # before its first step would end without an `End`
        if execution.entry.is_async and execution.task is not None and execution.begun:
            execution.task.cancel()

    async def _execute(self, invoke: Invoke, execution: _Execution) -> None:
        end = End(invoke.id, Outcome.OK)
        execution.begun = True
        loops.own(execution)
        try:
            if execution.cancelled is None:
                await self._run(invoke, execution, end)
        except payloads.InputInvalid as error:
            end.outcome, end.failure = Outcome.INVALID, _invalid(error)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises becomes the end of its attempt
            end.outcome, end.failure = Outcome.FAILED, failure_of(error)
        if execution.cancelled is not None:
            end.outcome, end.failure, end.effects = Outcome.CANCELLED, Failure("Timeout", execution.cancelled), ()
        execution.buffer.closed = execution.buffer.closed or "the handler has ended"
        del self._executions[invoke.id]
        # A task holds its context, and this its owner: a circle would be left to the garbage collector by every run
        execution.task = None
        self._send(end)

    async def _run(self, invoke: Invoke, execution: _Execution, end: End) -> None:
        entry, buffer = execution.entry, execution.buffer
        context = self._context(entry, invoke, buffer)
        if invoke.items:
            batch = await self._batch(entry, invoke, context, end)
            if not batch.values:
                return
            value: Any = batch.values
        else:
            batch = None
            value = _input(entry, invoke)
            context.given(value)
            if not await self._holds(entry, invoke, invoke.data, value):
                end.outcome = Outcome.SKIPPED
                return
        arguments = (value, context)[: entry.handler.takes]
        if entry.is_async:
            result = await entry.function(*arguments)
        else:
            result = await self._in_pool(entry.function, *arguments)
        if execution.has_tasks:
            await loops.check_left(execution)
        if batch is not None:
            end.items = batch.ends(failure_of)
        if result is not None:
            _check_done(result)
        if invoke.kind is Kind.API:
            end.response = responses.encode(result)
        buffer.closed = buffer.closed or "the handler has returned"
        end.effects = buffer.effects()

    def _context(self, entry: _Entry, invoke: Invoke, buffer: Buffer) -> AsyncContext | SyncContext:
        if entry.is_async:
            return AsyncContext(entry.binding.app, invoke, buffer, self._peer)
        return SyncContext(entry.binding.app, invoke, buffer, self._peer, self._loop)

    async def _holds(self, entry: _Entry, invoke: Invoke, data: bytes, value: Any) -> bool:
        """Whether the trigger's condition says that this is for the Step. It gets a context of its own: what it asks
        for by mistake is nobody else's."""
        condition = entry.conditions.get(invoke.trigger)
        if condition is None:
            return True
        context = self._context(entry, invoke, _buffer(entry, invoke))
        context.given(value)
        if entry.is_async:
            holds = await condition.holds(data, value, context)
        else:
            holds = bool(await self._in_pool(condition.holds_now, data, value, context))
        if context.has_asked:
            raise errors.NonRetryable("condition: expected a yes or no, found one that emits or writes")
        return holds

    async def _batch(self, entry: _Entry, invoke: Invoke, context: AsyncContext | SyncContext, end: End) -> Batch:
        """The items of a batch that the handler gets. The others have their end in `end.items` already."""
        batch = Batch()
        decode = entry.decoders[invoke.trigger]
        for place, item in enumerate(invoke.items):
            try:
                value = decode(item.data)
                if await self._holds(entry, invoke, item.data, value):
                    batch.add(place, item, value)
                else:
                    batch.left_out[place] = ItemEnd(Outcome.SKIPPED)
            except payloads.InputInvalid as error:
                batch.left_out[place] = ItemEnd(Outcome.INVALID, _invalid(error))
            except Exception as error:  # noqa: BLE001 - a condition is user code: its item has failed, and no other
                batch.left_out[place] = ItemEnd(Outcome.FAILED, failure_of(error))
        context.given(batch.values)
        context.batch = batch
        end.items = batch.ends(failure_of)
        return batch

    async def _in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.shield(self._loop.run_in_executor(self._pool, _call, function, arguments))

    def _send(self, end: End) -> None:
        """Results of one turn of the loop travel together."""
        if not self._ends:
            self._loop.call_soon(self._flush)
        self._ends.append(end)

    def _flush(self) -> None:
        ends, self._ends = self._ends, []
        self._peer.ended(ends)


def _give_up() -> None:
    """Leave at once, so that the events in hand are delivered to somebody else."""
    os._exit(EXIT_STUCK)


def _call(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:  # no future can carry one: its waiter would wait for ever
        raise RuntimeError("the handler raised StopIteration") from error


def _buffer(entry: _Entry, invoke: Invoke) -> Buffer:
    return Buffer(
        run=invoke.run,
        step=invoke.step,
        limits=entry.binding.limits,
        topics=entry.topics,
        shared=not entry.is_async,
    )


def _check_done(result: Any) -> None:
    """Work that a handler gives back instead of doing it would be lost without a word."""
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()
        raise errors.NonRetryable(
            f"expected a handler that does its work, found one that returns a {type(result).__name__}; "
            "write it as `async def` without `yield`"
        )


def _pool_size(bindings: Sequence[Binding]) -> int:
    return max(1, min(MAX_THREADS, sum(binding.concurrency for binding in bindings)))


def _load(binding: Binding) -> _Entry:
    began = time.monotonic()
    handler = handlers.load_bound(Path(binding.code.folder), binding.code.entrypoint)
    if handler.function is None:
        raise AssertionError("a bound handler has a function")
    log.debug("Loaded %s in %.3f s", handler.file, time.monotonic() - began)
    return _Entry(
        binding=binding,
        handler=handler,
        function=handler.function,
        is_async=handler.is_async,
        decoders=_decoders(binding, handler),
        queries={
            api.trigger: responses.query_reader(_written(handler, api, "query"), api.query) for api in binding.apis
        },
        topics={emit.topic: payloads.checker(emit.schema_) if emit.schema_ else None for emit in binding.emits},
        conditions={
            bound.trigger: conditions.of(
                bound.condition,
                _member(handler, bound).get("condition"),
                where=f"{handler.file}: triggers[{bound.trigger}]",
            )
            for bound in _bounds(binding)
            if bound.condition is not None
        },
    )


def _decoders(binding: Binding, handler: handlers.Handler) -> dict[int, payloads.Decode]:
    decoders: dict[int, payloads.Decode] = {}
    for event in binding.events:
        written = _written(handler, event, "input")
        annotation = handlers.item_type(handler.input_type) if event.batch else handler.input_type
        typed = annotation if handlers.is_typed(annotation) and not handler.takes_request else written
        decoders[event.trigger] = payloads.decoder(typed, event.input)
    for api in binding.apis:
        written = _written(handler, api, "body")
        typed = handler.input_type if handlers.is_typed(handler.input_type) and handler.takes_request else written
        decoders[api.trigger] = payloads.decoder(typed, api.body)
    return decoders


def _bounds(binding: Binding) -> list[Bound]:
    return [*binding.events, *binding.apis, *binding.crons, *binding.states]


def _written(handler: handlers.Handler, bound: Bound, key: str) -> Any:
    """The model that the author put into the config in place of a schema, or None."""
    found = _member(handler, bound).get(key)
    return found if handlers.is_model(found) else None


def _member(handler: handlers.Handler, bound: Bound) -> Mapping[str, Any]:
    """What the config says of a trigger; empty when it does not know it. The Binding is what counts: its triggers may
    have been edited since, so that another place of the config, or none, is meant."""
    for trigger in handler.config.get("triggers") or ():
        member = trigger.get(_KINDS[type(bound)]) if isinstance(trigger, Mapping) else None
        if isinstance(member, Mapping) and _is_same(member, bound):
            return member
    return {}


_KINDS: dict[type[Any], Kind] = {
    BoundEvent: Kind.EVENT,
    BoundApi: Kind.API,
    BoundCron: Kind.CRON,
    BoundState: Kind.STATE,
}


def _is_same(member: Mapping[str, Any], bound: Bound) -> bool:
    match bound:
        case BoundEvent(topics=topics):
            return list(member.get("topics") or ()) == topics
        case BoundState(group=group, key=key):
            return (member.get("group"), member.get("key")) == (group, key)
        case BoundCron(schedule=schedule):
            return bool(member.get("schedule") == schedule)
        case BoundApi(method=method, path=path):
            written = str(member.get("method", Method.GET)), triggers.normal_path(str(member.get("path")))
            return written == (method.value, path)


def _input(entry: _Entry, invoke: Invoke) -> Any:
    if invoke.kind is Kind.STATE:
        return changes.read(invoke.data, invoke.revision)
    decode = entry.decoders.get(invoke.trigger)
    request = invoke.request
    if request is None:
        return decode(invoke.data) if decode is not None else None
    body = None
    if invoke.data or _expects_body(entry, invoke.trigger):
        body = decode(invoke.data) if decode is not None else None
    return authoring.Request(
        body=body,
        method=request.method,
        path=request.path,
        path_params=request.path_params,
        query_params=dict(request.query),
        query=entry.queries[invoke.trigger](request.query),
        query_list=request.query,
        headers=dict(request.headers),
    )


def _expects_body(entry: _Entry, trigger: int) -> bool:
    return any(api.trigger == trigger and api.body is not None for api in entry.binding.apis)


def _invalid(error: payloads.InputInvalid) -> Failure:
    return Failure(
        "Invalid",
        str(error),
        retryable=False,
        http_status=400 if error.malformed else 422,
        details=[problem.as_dict() for problem in error.problems],
    )


def failure_of(error: BaseException) -> Failure:
    """What the engine needs to know of an exception. Raises nothing, whatever its class does: an execution whose
    failure cannot be told would have no end."""
    try:
        return _failure_of(error)
    except BaseException:
        log.exception("What a handler raised cannot be read")
        return Failure(type(error).__name__, "(what it says cannot be read)", traceback=_traceback(error))


def _failure_of(error: BaseException) -> Failure:
    try:
        if isinstance(error, errors.HttpError):
            return _http_failure(error)
        retry_after = _retry_after(error) if isinstance(error, errors.RetryAfter) else None
    except errors.EffectRefused as wrong:
        wrong.__cause__ = error
        return _failure_of(wrong)
    return Failure(
        type(error).__name__,
        texts.made(str, error),
        traceback=_traceback(error),
        retryable=not isinstance(error, errors.NonRetryable),
        retry_after=retry_after,
        http_status=409 if isinstance(error, errors.RevisionConflict) else None,
    )


def _http_failure(error: errors.HttpError) -> Failure:
    """The answer that a handler raised. Raises `PayloadInvalid` where it is none. A subclass may have done without its
    parent's `__init__`."""
    status = responses.check_status(getattr(error, "status", None), lowest=400)
    headers = dict(responses.header_pairs(getattr(error, "headers", None) or {}))
    detail = str(getattr(error, "detail", None) or f"HTTP {status}")
    return Failure("HttpError", texts.unicode(detail), http_status=status, http_headers=headers)


def _retry_after(error: errors.RetryAfter) -> float:
    """The longest that there is for more: JSON has no infinity. Raises `TimeInvalid`, as above."""
    seconds = errors.check_seconds(getattr(error, "seconds", None), what=type(error).__name__)
    return min(seconds, retries.LONGEST)


def _traceback(error: BaseException) -> str:
    """The traceback from the handler on: how it was called says nothing to its author."""
    try:
        first = error.__traceback__
        while first is not None and first.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
            first = first.tb_next
        lines = traceback.format_exception(type(error), error, first or error.__traceback__)
        return texts.unicode("".join(lines).rstrip())
    except BaseException:  # noqa: BLE001 - so is what it is made from
        return ""
