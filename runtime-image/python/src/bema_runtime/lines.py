"""JSON messages over a stream socket, one a line. What is sent in one turn of the event loop is one write."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import orjson

from bema.contract import errors

log = logging.getLogger(__name__)


class Line(asyncio.Protocol):
    """One end. `received` gets the messages of a burst in one list; what it refuses as `WireInvalid`, or is no JSON,
    ends the connection: after it nobody knows what the other end means. `lost` is called at the end, however it comes.
    All of it belongs to one event loop."""

    def __init__(self, received: Callable[[list[Any]], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._parts: list[bytes] = []
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if b"\n" not in data:
            return
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts = [rest] if rest else []
        try:
            self._received([loads(line) for line in lines])
        except errors.WireInvalid as error:
            log.error("The other end of the worker's socket cannot be understood: %s", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message soon; nothing where nobody listens any more. Raises `PayloadInvalid`, and sends nothing, for
        what JSON cannot hold."""
        data = dumps(message)
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def close(self) -> None:
        """Let go without a word more."""
        if self._transport is not None:
            self._transport.abort()


def dumps(message: dict[str, Any]) -> bytes:
    """A message as a line. Raises `PayloadInvalid`."""
    try:
        return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # A lone surrogate, which orjson will not write: good JSON all the same
        try:
            return json.dumps(message).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise errors.PayloadInvalid(f"expected values that JSON can hold, found {error}") from error


def loads(line: bytes) -> Any:
    """A message from its line. Raises `WireInvalid`."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return json.loads(line)
        except ValueError as error:
            raise errors.WireInvalid(f"expected JSON ({error}), found {line[:100]!r}") from error
