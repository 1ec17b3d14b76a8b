"""An endless pull from one durable consumer: a steady flow of messages, at most `capacity` of them in hand.

One persistent inbox; each pull request is answered on a subject of its own below it, so that what the server says
about an old request is told from what it says about the one in force. New requests are made when half of the capacity
is free: on arrival *and* on completion, for a burst that was delivered whole would otherwise never be followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable

from bema.contract import errors
from bema.ports.connections import Connection, Inbox, Message, publish_command

log = logging.getLogger(__name__)

EXPIRES = 30.0
HEARTBEAT = 2.0
_SILENCE = 2 * HEARTBEAT + 1


class Pull:
    """Messages of one consumer, in bursts. Call `done` for each message that is no longer in hand."""

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        durable: str,
        capacity: int,
        deliver: Callable[[list[Message]], None],
    ) -> None:
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._name = f"{stream}/{durable}"
        self._capacity = capacity
        self._deliver = deliver
        self._inbox: Inbox | None = None
        self._prefix = connection.new_inbox()
        self._generation = 0
        self._asked: dict[int, int] = {}
        """Messages still expected, by generation."""
        self._in_hand = 0
        self._heard = time.monotonic()
        self._watch: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._stopped = False
        self._held = False
        self._forget: Callable[[], None] | None = None
        self.problem: str | None = None
        """Why nothing comes, such as a consumer that was deleted; None while all is well."""

    @property
    def in_hand(self) -> int:
        return self._in_hand

    async def start(self) -> None:
        self._forget = self._connection.on_reconnect(self._begin_again)
        self._watch = asyncio.create_task(self._keep_asking(), name=f"pull {self._name}")
        self._wanted.set()

    def hold(self, held: bool) -> None:
        """Take nothing more until told otherwise. What was asked for is not waited for: nobody listens any more, so
        the server keeps it."""
        if held != self._held:
            self._held = held
            self._wanted.set()

    def done(self, count: int = 1) -> None:
        self._in_hand -= count
        if not self._wanted.is_set() and self._free() * 2 >= self._capacity:
            self._wanted.set()

    def _free(self) -> int:
        return self._capacity - self._in_hand - sum(self._asked.values())

    def _take(self, burst: list[Message]) -> None:
        self._heard = time.monotonic()
        messages = []
        for message in burst:
            if message.subject.startswith(self._prefix):
                self._status(message)
            else:
                messages.append(message)
        if messages:
            self.problem = None
            self._count_arrived(len(messages))
            self._in_hand += len(messages)
            self._deliver(messages)
        if not self._stopped and self._free() * 2 >= self._capacity:
            self._wanted.set()

    def _count_arrived(self, count: int) -> None:
        """The server serves requests in their order."""
        for generation in sorted(self._asked):
            served = min(count, self._asked[generation])
            self._asked[generation] -= served
            count -= served
            if self._asked[generation] == 0:
                del self._asked[generation]

    def _status(self, message: Message) -> None:
        generation = int(message.subject.rpartition(".")[2])
        if message.status == "100":
            if generation in self._asked:
                self.problem = None
            return
        self._asked.pop(generation, None)
        if message.status not in ("404", "408"):
            self._explain(message)

    def _explain(self, message: Message) -> None:
        """409: the request exceeds a limit, the consumer is gone, the server shuts down; 503: nobody is there."""
        text = f"{message.status} {message.description}".strip()
        lower = text.lower()
        if "batch completed" in lower or "leadership" in lower or "shutdown" in lower:
            return
        if self.problem != text:
            log.warning("The consumer %s delivers nothing: %s", self._name, text)
        self.problem = text

    async def _keep_asking(self) -> None:
        while not self._stopped:
            try:
                await asyncio.wait_for(self._wanted.wait(), HEARTBEAT)
            except TimeoutError:
                if time.monotonic() - self._heard > _SILENCE and self._asked:
                    log.debug("Nothing heard from %s for %.0f s; asking again", self._name, _SILENCE)
                    self._begin_again()
                elif self._free() * 2 < self._capacity:
                    continue
            self._wanted.clear()
            if self._held:
                await self._fall_silent()
                continue
            if self.problem is not None:
                await asyncio.sleep(0.25)
            await self._ask()

    async def _ask(self) -> None:
        batch = self._free()
        if batch <= 0 or self._stopped:
            return
        if self._inbox is None:
            self._prefix = self._connection.new_inbox()
            self._inbox = await self._connection.listen(f"{self._prefix}.*", self._take)
        self._generation += 1
        self._asked[self._generation] = batch
        request = {"batch": batch, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        reply = f"{self._prefix}.{self._generation}"
        try:
            await self._connection.write(publish_command(self._subject, json.dumps(request).encode(), reply=reply))
        except errors.BrokerUnavailable:
            self._asked.pop(self._generation, None)

    async def _fall_silent(self) -> None:
        """What the server has sent already is still delivered, during this call."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await (inbox.drain() if self._connection.is_connected else inbox.close())
        self._asked.clear()
        self.problem = None

    def _begin_again(self) -> None:
        """Forget what was asked for: after a reconnect, or a long silence, nobody will answer it."""
        self._asked.clear()
        self._heard = time.monotonic()
        self._wanted.set()

    async def stop(self) -> None:
        """Ask for nothing more; what the server has sent already is still delivered, during this call."""
        self._stopped = True
        self._wanted.set()
        if self._forget is not None:
            self._forget()
            self._forget = None
        if self._watch is not None:
            self._watch.cancel()
        if self._inbox is not None and self._connection.is_connected:
            await self._inbox.drain()
