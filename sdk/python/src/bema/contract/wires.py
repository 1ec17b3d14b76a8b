"""The frames between a runtime and a worker process, as JSON-RPC 2.0: one object a line over a stream socket.

    runtime → worker                                    worker → runtime
    request `hello` {version, bindings}, id 0           its result {version, language}, or an error
    request `invoke` {…}, its id the execution's        its result: how the execution ended, with its effects
    response to a question                              request `state.get`, … {invocation, …}: a question
    notification `cancel`, `chunk`                      notification `chunk`

`hello` comes first and alone; whatever the worker cannot load is its error. The ids of both sides are apart. Several
lines may travel in one write. Who meets the end of the socket is done: a worker does not outlive its runtime.

The answers to questions, where `value` is bytes (see `codings`) or null:

    state.get     {group, key}                                 [value, revision, expires]
    state.list    {group, prefix, limit, cursor, own, gone}    [[[key, [value, revision, expires]], …], cursor]
    state.groups  {own, gone}                                  [group, …]
    heartbeat     {}                                           the new deadline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bema.contract import codings, errors
from bema.contract.codings import found
from bema.contract.frames import Call, Cancel, Chunk, End, Failure, Invoke, Outcome, Reply

VERSION = 1
"""Raised when a worker of the version before could misread a message."""

FAILED = -32000
REFUSED = -32001
"""Codes of errors: a question without an answer; a worker that cannot start."""

_HELLO_ID = 0
_ENVELOPE = {"jsonrpc": "2.0"}


@dataclass(frozen=True, slots=True)
class Hello:
    """Load these Steps, and be ready."""

    version: int
    bindings: Sequence[Mapping[str, Any]]
    """As `Binding.dump` gives them."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The handlers are loaded."""

    version: int
    language: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The worker cannot start; why, for people."""

    message: str


ToWorker = Hello | Invoke | Reply | Cancel | Chunk
ToRuntime = Welcome | Refusal | Call | End | Chunk
Frame = ToWorker | ToRuntime


def encode(frame: Frame) -> dict[str, Any]:
    """A frame as a JSON-RPC message."""
    match frame:
        case Hello():
            return {**_ENVELOPE, "id": _HELLO_ID, "method": "hello", "params": codings.encode(frame)}
        case Welcome():
            return {**_ENVELOPE, "id": _HELLO_ID, "result": codings.encode(frame)}
        case Refusal():
            return _error(_HELLO_ID, REFUSED, frame.message)
        case Invoke():
            params = codings.encode(frame)
            return {**_ENVELOPE, "id": params.pop("id"), "method": "invoke", "params": params}
        case End():
            result = codings.encode(frame)
            return {**_ENVELOPE, "id": result.pop("invocation"), "result": result}
        case Call():
            params = {**frame.params, "invocation": frame.invocation}
            return {**_ENVELOPE, "id": frame.id, "method": frame.method, "params": params}
        case Reply(error=None):
            return {**_ENVELOPE, "id": frame.id, "result": _with_bytes(frame.result)}
        case Reply(error=str(message)):
            return _error(frame.id, FAILED, message)
        case Cancel() | Chunk():
            return {**_ENVELOPE, "method": type(frame).__name__.lower(), "params": codings.encode(frame)}
    raise AssertionError(f"expected a frame, found {frame!r}")


def decode_for_worker(message: Any) -> ToWorker:
    """What a runtime says. Raises `WireInvalid`."""
    match _checked(message):
        case {"method": "hello", "id": 0, "params": params}:
            return codings.decode(Hello, params)
        case {"method": "invoke", "id": int(number), "params": dict(params)}:
            return codings.decode(Invoke, {**params, "id": number})
        case {"method": "cancel", "params": params}:
            return codings.decode(Cancel, params)
        case {"method": "chunk", "params": params}:
            return codings.decode(Chunk, params)
        case {"id": int(number), "result": result}:
            return Reply(number, _read_bytes(result))
        case {"id": int(number), "error": {"message": str(text)}}:
            return Reply(number, error=text)
    raise errors.WireInvalid(f"expected hello, invoke, cancel, chunk or a response, found {found(message)}")


def decode_for_runtime(message: Any) -> ToRuntime:
    """What a worker says. Raises `WireInvalid`. An error in answer to an `invoke` is the end of the execution."""
    match _checked(message):
        case {"method": "chunk", "params": params}:
            return codings.decode(Chunk, params)
        case {"method": str(method), "id": int(number), "params": {"invocation": int(invocation)} as asked}:
            return Call(number, invocation, method, {key: asked[key] for key in asked if key != "invocation"})
        case {"id": 0, "result": result}:
            return codings.decode(Welcome, result)
        case {"id": 0, "error": {"message": str(text)}}:
            return Refusal(text)
        case {"id": int(number), "result": dict(result)}:
            return codings.decode(End, {**result, "invocation": number})
        case {"id": int(number), "error": {"message": str(text)}}:
            return End(number, Outcome.FAILED, failure=Failure("WorkerError", text))
    raise errors.WireInvalid(f"expected a question, a chunk or a response, found {found(message)}")


def _error(number: int, code: int, message: str) -> dict[str, Any]:
    return {**_ENVELOPE, "id": number, "error": {"code": code, "message": message}}


def _checked(message: Any) -> Any:
    version = message.get("jsonrpc") if isinstance(message, dict) else None
    if version != "2.0":
        raise errors.WireInvalid(f'expected an object with "jsonrpc": "2.0", found {found(message)}')
    return message


def _with_bytes(result: Any) -> Any:
    """Results hold lists, scalars and bytes, at any depth: no objects, which could be taken for bytes."""
    if isinstance(result, bytes):
        return codings.encode_bytes(result)
    if isinstance(result, list | tuple):
        return [_with_bytes(item) for item in result]
    return result


def _read_bytes(result: Any) -> Any:
    if isinstance(result, dict):
        return codings.decode_bytes(result)
    if isinstance(result, list):
        return [_read_bytes(item) for item in result]
    return result
