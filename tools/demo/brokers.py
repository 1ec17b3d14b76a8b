"""The broker, read with a bare NATS client: nothing of Bema is asked, or imported, to find out what Bema did.

Only requests that leave no trace: direct gets and infos. Events of the wrong shape are put on their topics here too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tools.demo.errors import DemoError
from tools.demo.histories import Entry

PAGE = 500
PATIENCE = 30.0
"""Seconds that a broker which is being replaced may take to answer."""

_OWN_HEADERS = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending")


def decode(token: str) -> str:
    """A user's string from a token of a subject: `=XX` is a byte in hex, a lone `=` is the empty string."""
    return "" if token == "=" else unquote(token.replace("=", "%"), errors="strict")  # noqa: S105 - a subject's token


def words(app: str, subject: str) -> tuple[str, ...]:
    """A subject's tokens below the app, decoded. A topic's dots belong to it, so it stays one word."""
    tokens = subject.removeprefix(f"bema.{app}.").split(".")
    if tokens[0] == "evt":
        return (*tokens[:3], ".".join(decode(token) for token in tokens[3:]))
    return tuple(decode(token) for token in tokens)


class Broker:
    """One app's stream."""

    def __init__(self, client: Client, app: str) -> None:
        self._client = client
        self.app = app
        self.stream = f"BEMA-{app}"

    async def put_event(self, topic: str, data: bytes, *, event_id: str) -> int:
        """Put an event on a topic as a foreign client would; its sequence. `event_id` guards against a repeat."""
        subject = f"bema.{self.app}.evt.live.0.{topic}"
        answer = await self._ask(subject, data, {"Nats-Msg-Id": event_id})
        return int(answer["seq"])

    async def entries(self) -> list[Entry]:
        """Everything in the stream."""
        found: list[Entry] = []
        sequence = 1
        while page := await self._page(sequence):
            found += page
            sequence = page[-1].sequence + 1
        return found

    async def count(self, filter: str) -> int:
        """How many subjects below the app hold something, for a filter such as `state.orders.*`."""
        state = await self._state(f"bema.{self.app}.{filter}")
        return len(state.get("subjects") or {})

    async def consumers(self) -> dict[str, Mapping[str, Any]]:
        """What the server says about each Step's consumer, by its durable name."""
        answer = await self._ask(f"$JS.API.CONSUMER.LIST.{self.stream}", b"{}")
        return {item["name"]: item for item in answer.get("consumers") or []}

    async def in_hand(self, step: str | None = None) -> int:
        """Events that were delivered and not yet acknowledged: of one Step, or of all."""
        found = await self.consumers()
        return sum(int(item["num_ack_pending"]) for name, item in found.items() if step in (None, name))

    async def waiting(self) -> int:
        """Events in hand or still to be delivered, and retries that are due later."""
        consumers = (await self.consumers()).values()
        events = sum(int(item["num_ack_pending"]) + int(item["num_pending"]) for item in consumers)
        return events + await self.count("timer.>")

    async def repeated_deliveries(self) -> int:
        """Deliveries beyond the first of each message, over all consumers, so far."""
        repeats = 0
        for item in (await self.consumers()).values():
            filters = item["config"].get("filter_subjects") or [item["config"].get("filter_subject", "")]
            messages = [await self._messages(subject) for subject in filters]
            repeats += int(item["delivered"]["consumer_seq"]) - sum(messages) + int(item["num_pending"])
        return max(0, repeats)

    async def _messages(self, subject: str) -> int:
        state = await self._state(subject)
        return sum((state.get("subjects") or {}).values())

    async def _state(self, subject: str) -> Mapping[str, Any]:
        request = json.dumps({"subjects_filter": subject}).encode()
        answer = await self._ask(f"$JS.API.STREAM.INFO.{self.stream}", request)
        state: Mapping[str, Any] = answer["state"]
        return state

    async def _ask(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """A request, again and again while nobody answers. Raises `DemoError` for a refusal or after `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                reply = await self._client.request(subject, data, timeout=2, headers=headers)
            except (nats.errors.Error, TimeoutError, OSError) as error:
                if time.monotonic() > deadline:
                    raise DemoError(f"the broker did not answer on {subject} within {PATIENCE:g} s: {error}") from error
                await asyncio.sleep(_PAUSE)
                continue
            answer: dict[str, Any] = json.loads(reply.data)
            if "error" not in answer:
                return answer
            if answer["error"].get("code") != 503 or time.monotonic() > deadline:
                raise DemoError(f"the broker refused {subject}: {answer['error']}")
            await asyncio.sleep(_PAUSE)

    async def _page(self, sequence: int) -> list[Entry]:
        """Up to `PAGE` messages from a sequence on."""
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        request = {"next_by_subj": f"bema.{self.app}.>", "seq": sequence, "batch": PAGE}
        await self._client.publish(f"$JS.API.DIRECT.GET.{self.stream}", json.dumps(request).encode(), reply=inbox)
        found: list[Entry] = []
        try:
            while True:
                message = await subscription.next_msg(timeout=10)
                if not (message.headers or {}).get("Nats-Sequence"):
                    return found
                found.append(self._entry(message))
        finally:
            await subscription.unsubscribe()

    def _entry(self, message: Msg) -> Entry:
        headers = message.headers or {}
        own = {name: value for name, value in headers.items() if name not in _OWN_HEADERS}
        return Entry(int(headers["Nats-Sequence"]), words(self.app, headers["Nats-Subject"]), own, message.data)


_PAUSE = 0.2


@asynccontextmanager
async def connected(url: str | Sequence[str], app: str) -> AsyncIterator[Broker]:
    """A broker over a connection of its own, which comes back by itself when the server does."""

    async def quiet(_: Exception) -> None:
        """A broker that goes away is part of the demo; requests say so when it stays away."""

    client = await nats.connect(
        list(url) if not isinstance(url, str) else [url],
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.2,
        connect_timeout=2,
        ping_interval=2,
        max_outstanding_pings=2,
        error_cb=quiet,
    )
    try:
        yield Broker(client, app)
    finally:
        await client.close()
