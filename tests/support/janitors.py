"""An app as the janitor sees it: a stream, consumers, and what runs leave in them, written by a bare client."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bema.contract import bindings, names
from bema.contract.bindings import Broker, Consumer, Installation, Owner
from bema.contract.retentions import Retentions
from bema.ports import admin, connections
from bema.ports.connections import Message, publish_command
from bema.ports.janitors import Janitor, Report
from bema.ports.jetstream import JetStream, Outgoing
from tests.support import waits

NAMESPACE = "shop"
HOUR = 3600.0
DAY = 24 * HOUR


class Clock:
    """The time of day, and as much later as a test wants it to be."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class App:
    """A stream with consumers of Steps."""

    def __init__(self, js: JetStream) -> None:
        self.js = js
        self.root = names.root(NAMESPACE)
        self.stream = names.stream(NAMESPACE)
        self.clock = Clock()
        self.consumers: dict[str, Consumer] = {}
        self.janitor = self.new_janitor()

    def new_janitor(self, **kept: Any) -> Janitor:
        """A janitor as a new process would have it."""
        given: dict[str, Any] = {"storage_bytes": 2**30, "events": DAY, "dead_letters": 30 * DAY}
        return Janitor(self.js, self.stream, Retentions(**{**given, **kept}), clock=self.clock)

    async def make_stream(self, url: str) -> None:
        installation = Installation(broker=Broker(urls=[url]))
        await admin.ensure_stream(self.js, bindings.app_stream(Owner(namespace=NAMESPACE), installation))

    async def subscribe(self, step: str, *topics: str, uid: str = "") -> None:
        consumer = Consumer(
            durable=names.durable(step),
            filter_subjects=[
                *(names.event_filter(self.root, topic) for topic in topics),
                names.retry_filter(self.root, step),
            ],
            max_ack_pending=10_000,
            deliver_from="Beginning",
            metadata={names.METADATA_STEP: step, names.METADATA_STEP_UID: uid},
        )
        self.consumers[step] = consumer
        await admin.ensure_consumer(self.js, self.stream, consumer)

    async def emit(self, topic: str, count: int = 1, *, partition: int = 0, size: int = 1) -> int:
        """Events on a topic; the sequence of the last."""
        batch = [Outgoing(names.event(self.root, topic, partition), b"x" * size) for _ in range(count)]
        last = 0
        for start in range(0, count, 500):
            last = await self.js.publish_batch(batch[start : start + 500])
        return last

    async def put(self, subject: str, data: bytes = b"{}", **headers: str) -> int:
        """Any message below the app's root; its sequence."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.js.publish(Outgoing(f"{self.root}.{subject}", data, named))

    async def set_timer(self, name: str, due: float, target: str = "") -> int:
        """A timer that becomes a retry of `pay`, or something else, at a Unix time; its sequence."""
        at = datetime.datetime.fromtimestamp(due, datetime.UTC).isoformat().replace("+00:00", "Z")
        to = f"{self.root}.{target}" if target else names.retry(self.root, "pay", name)
        return await self.put(f"timer.{name}", Nats_Schedule=f"@at {at}", Nats_Schedule_Target=to, Nats_Rollup="sub")

    async def fire(self, name: str, target: str) -> None:
        """What the server sends for a timer, and the timer stays. The server takes it from nobody else unless the
        timer goes with it: of the two timers that the message names, the server looks at the first, which is none, and
        whoever reads it at the last."""
        lines = [f"Nats-Scheduler: {self.root}.timer.{which}" for which in ("none", name)]
        block = "\r\n".join(["NATS/1.0", "Nats-Schedule-Next: purge", *lines, "", ""]).encode()
        answer = await self.js.connection.request(f"{self.root}.{target}", b"{}", headers=block)
        assert "error" not in json.loads(answer.data), answer.data

    async def take(self, step: str, count: int) -> list[Message]:
        """What a Step's consumer is given next."""
        found: list[Message] = []
        inbox = self.js.connection.new_inbox()
        subscription = await self.js.connection.listen(inbox, found.extend)
        try:
            endpoint = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{step}"
            await self.js.connection.write(publish_command(endpoint, b'{"batch":%d}' % count, reply=inbox))
            await waits.until(lambda: len(found) >= count, f"{count} messages for {step}")
        finally:
            await subscription.close()
        return found

    async def settle(self, step: str, count: int) -> None:
        """Have a Step handle as many events, and be done with them."""
        await self.answer(step, await self.take(step, count))

    async def answer(self, step: str, messages: list[Message]) -> None:
        before = (await self.states())[step].unacked
        await self.js.connection.write(b"".join(publish_command(each.reply, b"+ACK") for each in messages))

        async def answered() -> bool:
            return (await self.states())[step].unacked == before - len(messages)

        await waits.until(answered, f"the acks of {step}")

    async def states(self) -> dict[str, admin.ConsumerState]:
        return await admin.consumer_states(self.js, self.stream)

    async def sequences(self, subject_filter: str) -> list[int]:
        """Of what there is on subjects below the app's root."""
        return [each.sequence async for each in self.js.scan(self.stream, f"{self.root}.{subject_filter}")]

    async def count(self, subject_filter: str) -> int:
        return len(await self.sequences(subject_filter))

    async def sweep(self, *, ahead: float | None = None) -> Report:
        """One sweep, at a time that is so far ahead of the real one."""
        if ahead is not None:
            self.clock.ahead = ahead
        return await self.janitor.sweep()


@asynccontextmanager
async def app(url: str) -> AsyncIterator[App]:
    connection = await connections.connect([url], name="test", wait=5)
    try:
        found = App(JetStream(connection))
        await found.make_stream(url)
        yield found
    finally:
        await connection.close()
