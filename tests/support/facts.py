"""A bare stream on a real server, and a bare consumer's client: what the facts of docs/broker.md are measured with."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from bema.ports import connections
from bema.ports.connections import Message, publish_command
from bema.ports.jetstream import ROLLUP, SCHEDULE, SCHEDULE_TARGET, JetStream, Outgoing, Stored
from tests.support import waits
from tests.support.brokers import NatsServer

FLAGS = ("allow_atomic", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules")


class Place:
    """A stream of the shape that apps have, with a name of its own."""

    def __init__(self, js: JetStream, name: str) -> None:
        self.js = js
        self.name = name

    def subject(self, *tokens: str) -> str:
        return ".".join((self.name, *tokens))

    def config(self, **more: Any) -> dict[str, Any]:
        plain = {"name": self.name, "subjects": [f"{self.name}.>"], "retention": "limits", "storage": "file"}
        return {**plain, "num_replicas": 1, "discard": "old", **dict.fromkeys(FLAGS, True), **more}

    async def make(self, **more: Any) -> None:
        await self.js.api(f"STREAM.CREATE.{self.name}", self.config(**more), timeout=20)

    async def info(self) -> Any:
        return await self.js.api(f"STREAM.INFO.{self.name}")

    async def count(self) -> int:
        return int((await self.info())["state"]["messages"])

    async def put(self, subject: str, data: bytes = b"", expected: int | None = None, **headers: str) -> int:
        """Store a message; headers by their names, with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.js.publish(Outgoing(self.subject(subject), data, named, expected))

    async def last(self, subject: str) -> Stored | None:
        return await self.js.get_last(self.name, self.subject(subject))

    async def all(self, subject: str) -> list[Stored]:
        return [stored async for stored in self.js.scan(self.name, self.subject(subject))]

    def schedule(self, id: str, *, at: float, data: bytes = b"", more: Mapping[str, str] | None = None) -> Outgoing:
        """A timer that puts its data on `fired.<id>`."""
        time = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
        target = self.subject("fired", id)
        headers = {SCHEDULE: f"@at {time.replace('+00:00', 'Z')}", SCHEDULE_TARGET: target, **(more or {})}
        return Outgoing(self.subject("timer", id), data, headers)

    # Consumers

    async def consumer(self, durable: str, **more: Any) -> Any:
        plain = {"durable_name": durable, "name": durable, "ack_policy": "explicit", "max_deliver": -1}
        config = {**plain, "ack_wait": int(30e9), "deliver_policy": "all", "replay_policy": "instant", **more}
        request = {"stream_name": self.name, "config": config, "action": ""}
        return await self.js.api(f"CONSUMER.CREATE.{self.name}.{durable}", request)

    async def consumer_info(self, durable: str) -> Any:
        return await self.js.api(f"CONSUMER.INFO.{self.name}.{durable}")

    async def pull(self, durable: str, count: int, *, seconds: float = 5.0) -> list[Message]:
        """Up to `count` messages; fewer when no more come within so many seconds."""
        inbox = self.js.connection.new_inbox()
        heard: list[Message] = []
        listening = await self.js.connection.listen(inbox, heard.extend)
        try:
            body = json.dumps({"batch": count, "expires": int(seconds * 1e9)}).encode()
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{durable}"
            await self.js.connection.write(publish_command(subject, body, reply=inbox))
            await waits.until(
                lambda: len(heard) >= count or any(message.status for message in heard),
                f"{count} messages or the end of the request",
                timeout=seconds + 10,
            )
            return [message for message in heard if message.status is None]
        finally:
            await listening.close()

    async def answer(self, message: Message, word: bytes) -> None:
        """Answer a delivery, and wait until the server has taken the answer in."""
        await self.js.connection.request(message.reply, word)


@contextlib.asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Place]:
    """A stream that may be there already, over a connection of its own: one from before a restart may not have
    noticed yet."""
    connection = await connections.connect([url], name="facts", wait=10)
    try:
        yield Place(JetStream(connection), name)
    finally:
        await connection.close()


MANY = 7000
"""Messages of 1,000 bytes: nearly all that the server writes into one file."""


async def wear(place: Place) -> None:
    """Replace so much that most of the server's first file are messages that were replaced."""
    await place.put("first")
    for start in range(0, MANY, 1000):
        batch = [Outgoing(place.subject("value", str(number)), bytes(1000), {ROLLUP: "sub"}) for number in range(1000)]
        assert await place.js.publish_batch(batch) == start + 1001


async def fill_up(place: Place) -> None:
    """Write until the server has begun another file."""
    for _ in range(30):
        await place.put("fill", bytes(100_000))


async def restart(server: NatsServer, name: str, how: signal.Signals) -> None:
    """End a server and start it again; what is written then is what it does not expect at its next start."""
    server.stop(how)
    server.start()
    async with connected(server.url, name) as place:
        await place.put("more")


def delivered(message: Message) -> int:
    """How often it was delivered, this time included."""
    return int(message.reply.split(".")[-5])


def raw_batch(place: Place, batch: str, messages: Sequence[tuple[int, str]], *, commit: bool) -> bytes:
    """The messages of a batch by their numbers, as protocol bytes without replies, all but the last."""
    commands = []
    for number, subject in messages:
        last = "Nats-Batch-Commit: 1\r\n" if commit and (number, subject) == messages[-1] else ""
        block = f"NATS/1.0\r\nNats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n{last}\r\n".encode()
        commands.append(publish_command(place.subject(subject), b"", block))
    return b"".join(commands)


async def settle(seconds: float) -> None:
    """Let so much time pass in which something must *not* happen."""
    deadline = time.monotonic() + seconds
    await waits.until(lambda: time.monotonic() > deadline, "the end of a pause", timeout=seconds + 5)
