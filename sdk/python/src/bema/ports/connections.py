"""A connection to NATS: requests, subscriptions in bursts, and writes in bulk. The only module that imports nats.

Nothing in here knows JetStream. The hot path (`write`, `Inbox`) avoids the client's cost per message: commands of a
whole burst are written as one piece, and messages of a burst are handed over as one list, past the client's queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bema.contract import errors
from bema.ports.clocks import Clock

# Where aiohttp is installed the client imports it, for WebSockets, which nobody here speaks: a fifth of the time that a
# process takes to start
_UNUSED = {"aiohttp"} - sys.modules.keys()
sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]

import nats.errors  # noqa: E402
from nats.aio.client import Client  # noqa: E402
from nats.aio.msg import Msg  # noqa: E402
from nats.aio.subscription import Subscription  # noqa: E402

for _name in _UNUSED:
    del sys.modules[_name]

log = logging.getLogger(__name__)

_STATUS = "Status"
_DESCRIPTION = "Description"
_VERSION = len("NATS/1.0")


@dataclass(slots=True)
class Message:
    """One message as it arrived."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]

    @property
    def status(self) -> str | None:
        """The server's status code, on messages that the server itself sent (100, 404, 408, 409, 503)."""
        return self.headers.get(_STATUS)

    @property
    def description(self) -> str:
        return self.headers.get(_DESCRIPTION, "")


_NO_HEADERS: Mapping[str, str] = {}


def parse_headers(block: bytes) -> dict[str, str]:
    """The headers in a block as it travels and as the server stores it, what the first line says about the server's
    status among them. Lines that are no headers are left out."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers = {}
    if status := first[_VERSION:].strip():
        headers[_STATUS], _, headers[_DESCRIPTION] = status.partition(" ")
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


class Inbox:
    """A subscription whose messages are handed over in bursts: all that one read brought, as one list."""

    def __init__(self, subject: str, deliver: Callable[[list[Message]], None]) -> None:
        self.subject = subject
        self._deliver = deliver
        self._burst: list[Message] = []
        self._subscription: Subscription | None = None
        self._loop = asyncio.get_running_loop()

    def take(self, message: Message) -> None:
        if not self._burst:
            self._loop.call_soon(self._hand_over)
        self._burst.append(message)

    async def _never(self, msg: Msg) -> None:
        """The library wants a coroutine for each message; `_Client` gives them to `take` before that."""
        raise AssertionError(f"expected no message on the library's own way, found one on {msg.subject}")

    def _hand_over(self) -> None:
        burst, self._burst = self._burst, []
        if burst:
            self._deliver(burst)

    async def open(self, client: Client) -> None:
        self._subscription = await client.subscribe(
            self.subject, cb=self._never, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def drain(self) -> None:
        """Stop hearing, after what the server has already sent was handed over."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.drain()  # type: ignore[no-untyped-call]
        self._hand_over()

    async def close(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()


class _Client(Client):
    """The library's client, but for two things.

    What an `Inbox` hears skips a queue, a wake-up of a task and a search for white space in every header, which cost
    more than all else that is done with a message. And what was not sent when the connection is lost is forgotten: the
    library keeps it for the next connection, long after who asked was told that it failed.
    """

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription = self._subs.get(sid)
        inbox = getattr(subscription._cb, "__self__", None) if subscription is not None else None
        if isinstance(inbox, Inbox):
            found = parse_headers(headers) if headers else _NO_HEADERS
            inbox.take(Message(subject.decode(), reply.decode(), data, found))
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            self._forget_unsent()
        await super()._process_op_err(e)

    def _forget_unsent(self) -> None:
        # Subscriptions are made again from the client's own list of them
        self._pending.clear()
        self._pending_data_size = 0
        writer = getattr(self._transport, "_io_writer", None)
        if writer is None:
            return
        end = writer.get_extra_info("socket")
        if end is not None:
            with contextlib.suppress(OSError):
                # What the kernel still holds goes, too, and nobody waits for a network that may never be back
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class _Replies:
    """One inbox for the answers to all requests of a connection."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._number = 0
        self._waiting: dict[str, asyncio.Future[Message]] = {}

    @classmethod
    async def open(cls, connection: Connection) -> _Replies:
        replies = cls(connection.new_inbox() + ".")
        await connection.listen(replies._prefix + "*", replies._take)
        return replies

    def expect(self) -> tuple[str, asyncio.Future[Message]]:
        self._number += 1
        reply = f"{self._prefix}{self._number}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        return reply, answer

    def _take(self, burst: list[Message]) -> None:
        for message in burst:
            answer = self._waiting.get(message.subject)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def expire(self, reply: str, subject: str, timeout: float) -> None:
        answer = self._waiting.get(reply)
        if answer is not None and not answer.done():
            answer.set_exception(errors.BrokerUnavailable(f"no answer from NATS to {subject} within {timeout:g} s"))

    def fail_all(self) -> None:
        """The connection is lost: nobody will answer what was asked over it."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(errors.BrokerUnavailable("the connection to NATS was lost before the answer came"))

    def forget(self, reply: str) -> None:
        self._waiting.pop(reply, None)


class Connection:
    """A connection that comes back by itself. Use it from the event loop that made it."""

    def __init__(self, client: Client, urls: Sequence[str]) -> None:
        self._client = client
        self._urls = urls
        self._told = False
        self._closing = False
        self._replies: _Replies | None = None
        self._listeners: list[Callable[[], None]] = []
        self.clock = Clock()
        self.losses = 0
        """How often the connection was lost. Between two losses the broker stays the same."""
        self._known: int | None = None
        self.problem: str | None = None
        """The server's last complaint that needs a person, such as a permission that is missing."""

    @property
    def is_connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def server_version(self) -> tuple[int, int, int]:
        version = self._client.connected_server_version
        return int(version.major), int(version.minor), int(version.patch)

    @property
    def max_payload(self) -> int:
        return int(self._client.max_payload)

    def know(self, losses: int) -> None:
        """The broker was looked at when the connection had been lost so often. Who says so once says so after every
        loss: nothing is written before, for the broker may be another one."""
        self._known = losses

    @property
    def is_known(self) -> bool:
        return self._known is None or self._known == self.losses

    def new_inbox(self) -> str:
        return str(self._client.new_inbox())

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` each time the connection is back, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def wait_connected(self, timeout: float) -> None:
        """Return once connected. Raises `BrokerUnavailable` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.is_connected:
            if time.monotonic() > deadline:
                raise errors.BrokerUnavailable(f"no connection to NATS within {timeout:g} s")
            await asyncio.sleep(0.05)

    async def request(
        self, subject: str, data: bytes = b"", *, headers: bytes = b"", before: bytes = b"", timeout: float = 5.0
    ) -> Message:
        """Ask, and wait `timeout` seconds for one answer. `before` is written in the same piece, ahead of the request.

        Raises `BrokerUnavailable` when no answer comes; whether the request was heard is then unknown.
        """
        if self._replies is None:
            self._replies = await _Replies.open(self)
        reply, answer = self._replies.expect()
        expiry = asyncio.get_running_loop().call_later(timeout, self._replies.expire, reply, subject, timeout)
        try:
            await self.write(before + publish_command(subject, data, headers, reply))
            return await answer
        finally:
            expiry.cancel()
            self._replies.forget(reply)

    async def publish(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send without an answer. Raises `BrokerUnavailable` when there is no connection."""
        self._check()
        try:
            await self._client.publish(subject, data, headers=dict(headers) if headers else None)
        except (nats.errors.Error, OSError) as error:
            raise errors.BrokerUnavailable(f"cannot send to {subject}: {_words(error)}") from error

    async def flush(self, timeout: float = 5.0) -> None:
        """Wait until the server has taken all that was sent. Raises `BrokerUnavailable`."""
        try:
            await self._client.flush(timeout=int(max(1, timeout)))
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise errors.BrokerUnavailable(f"NATS did not confirm: {_words(error)}") from error

    async def write(self, commands: bytes) -> None:
        """Send protocol commands as one piece. Raises `BrokerUnavailable` when there is no connection: what is not
        sent now must not be sent by a later reconnect."""
        self._check()
        await self._client._send_command(commands)
        await self._client._flush_pending()

    def _check(self) -> None:
        if not self._client.is_connected:
            raise errors.BrokerUnavailable("not connected to NATS")

    async def listen(self, subject: str, deliver: Callable[[list[Message]], None]) -> Inbox:
        """Hand every burst of messages on `subject` to `deliver`. The subscription outlives reconnects."""
        inbox = Inbox(subject, deliver)
        await inbox.open(self._client)
        return inbox

    async def close(self) -> None:
        """Close at once; what was written is sent if the connection stands."""
        self._closing = True
        with contextlib.suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
            if self._client.is_connected:
                await self._client.flush(timeout=1)
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.close()

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        if "permissions violation" in text.lower():
            self.problem = text
            log.error("NATS refused: %s", text)
        elif not self._told and not self._client.is_connected:
            self._told = True
            log.warning("No NATS at %s (%s); trying again", ", ".join(self._urls), _words(error))
        else:
            log.debug("NATS client: %s", text or type(error).__name__)

    async def _on_disconnect(self) -> None:
        self.losses += 1
        if self._closing:
            return
        log.warning("The connection to NATS is lost; trying again")
        if self._replies is not None:
            self._replies.fail_all()

    async def _on_reconnect(self) -> None:
        log.info("The connection to NATS is back")
        self._told = False
        self.problem = None
        for listener in list(self._listeners):
            listener()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def publish_command(subject: str, data: bytes, headers: bytes = b"", reply: str = "") -> bytes:
    """One publish as protocol bytes. `headers` is a block that begins with `NATS/1.0` and ends with an empty line."""
    answer = f"{reply} " if reply else ""
    if not headers:
        return b"PUB %b %b%d\r\n%b\r\n" % (subject.encode(), answer.encode(), len(data), data)
    total = len(headers) + len(data)
    return b"HPUB %b %b%d %d\r\n%b%b\r\n" % (subject.encode(), answer.encode(), len(headers), total, headers, data)


async def connect(
    urls: Sequence[str], *, name: str, credentials_file: str | None = None, wait: float | None = None
) -> Connection:
    """Open a connection to one of `urls`; it keeps trying in the background, for ever.

    With `wait`, raises `BrokerUnavailable` when there is no connection after so many seconds. `name` is shown by the
    server to its operators.
    """
    client = _Client()
    connection = Connection(client, urls)
    # The client takes a part of a second too, though its annotation says int
    options: dict[str, Any] = {"reconnect_time_wait": 0.2}
    if credentials_file:
        options["user_credentials"] = credentials_file
    opening = client.connect(
        servers=list(urls),
        name=name,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        connect_timeout=2,
        ping_interval=5,
        max_outstanding_pings=2,
        pending_size=64 * 1024 * 1024,
        error_cb=connection._on_error,
        disconnected_cb=connection._on_disconnect,
        reconnected_cb=connection._on_reconnect,
        **options,
    )
    try:
        await asyncio.wait_for(opening, wait)
    except TimeoutError as error:
        await connection.close()
        raise errors.BrokerUnavailable(f"no connection to NATS at {', '.join(urls)} within {wait:g} s") from error
    return connection
