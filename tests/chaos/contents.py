"""What the broker holds in the end, read with a bare client: nothing of Bema is asked, or imported, to find out."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nats
import nats.errors
from nats.aio.client import Client

PAGE = 500
MUTE = 8.0
"""Seconds without an answer after which a reader tries another connection."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message of the app's stream."""

    sequence: int
    words: tuple[str, ...]
    """Its subject's tokens below the app, decoded; a topic is one word."""
    stored: float
    """When the broker stored it, in seconds since 1970."""
    headers: Mapping[str, str]
    data: str

    def json(self) -> Any:
        return json.loads(self.data)


@dataclass(frozen=True, slots=True)
class Contents:
    """A stream at the end."""

    entries: tuple[Entry, ...]
    waiting: Mapping[str, int]
    """Events that were not settled, by consumer."""
    replicas: tuple[str, ...] = ()
    """What each server says that its copy is; they have to say the same."""


def save(contents: Contents, file: Path) -> None:
    file.write_text(json.dumps(asdict(contents)), "utf-8")


def load(file: Path) -> Contents:
    found = json.loads(file.read_text("utf-8"))
    entries = tuple(Entry(**{**entry, "words": tuple(entry["words"])}) for entry in found["entries"])
    return Contents(entries, found["waiting"], tuple(found["replicas"]))


def _decode(token: str) -> str:
    return "" if token == "=" else unquote(token.replace("=", "%"), errors="strict")


def words(app: str, subject: str) -> tuple[str, ...]:
    tokens = subject.removeprefix(f"bema.{app}.").split(".")
    if tokens[0] == "evt":
        return (*tokens[:3], ".".join(_decode(token) for token in tokens[3:]))
    return tuple(_decode(token) for token in tokens)


@asynccontextmanager
async def client(urls: Sequence[str]) -> AsyncIterator[Client]:
    """A connection that comes back by itself, quietly: brokers that go away are part of the plan."""

    async def quiet(_: Exception) -> None:
        """Whoever waits for an answer says that there was none."""

    found = await nats.connect(
        list(urls),
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.2,
        connect_timeout=2,
        ping_interval=1,
        max_outstanding_pings=2,
        error_cb=quiet,
    )
    try:
        yield found
    finally:
        with suppress(OSError, nats.errors.Error):  # the broker may be gone before
            await found.close()


class Reader:
    """Reads one app's stream. Asks over the second connection when the first has been mute for a while, and back: the
    client may be stuck with a server that it holds for alive."""

    def __init__(self, connection: Client, app: str, *, other: Client | None = None) -> None:
        self._connection = connection
        self._other = other or connection
        self._heard = time.monotonic()
        self.app = app
        self.stream = f"BEMA-{app}"

    async def ask(self, endpoint: str, request: object = None, *, timeout: float = 2) -> dict[str, Any] | None:
        """An answer of the JetStream API; None when there is none, or a refusal."""
        body = b"" if request is None else json.dumps(request).encode()
        try:
            reply = await self._connection.request(f"$JS.API.{endpoint}", body, timeout=timeout)
            found: dict[str, Any] = json.loads(reply.data)
        except (nats.errors.Error, TimeoutError, OSError, ValueError):
            if time.monotonic() - self._heard > MUTE:
                self._connection, self._other = self._other, self._connection
                self._heard = time.monotonic()
            return None
        self._heard = time.monotonic()
        return None if "error" in found else found

    async def info(self) -> dict[str, Any] | None:
        return await self.ask(f"STREAM.INFO.{self.stream}")

    async def consumers(self) -> dict[str, Mapping[str, Any]] | None:
        found = await self.ask(f"CONSUMER.LIST.{self.stream}", {})
        return None if found is None else {item["name"]: item for item in found.get("consumers") or []}

    async def waiting(self) -> dict[str, int] | None:
        """Events on their way and in hand, by consumer, and `timer` for what is due later. None: nobody answered."""
        consumers = await self.consumers()
        timers = await self.ask(f"STREAM.INFO.{self.stream}", {"subjects_filter": f"bema.{self.app}.timer.>"})
        if consumers is None or timers is None or timers.get("cluster", {}).get("leader") == "":
            return None
        found = {name: int(item["num_ack_pending"]) + int(item["num_pending"]) for name, item in consumers.items()}
        return {**found, "timer": sum((timers["state"].get("subjects") or {}).values())}

    async def stored_at(self, words: str) -> float | None:
        """When the last message on a subject below the app was stored; None when there is none, or no answer."""
        found = await self.ask(f"STREAM.MSG.GET.{self.stream}", {"last_by_subj": f"bema.{self.app}.{words}"})
        return None if found is None else _seconds(found["message"]["time"])

    async def everything(self, *, patience: float = 60) -> tuple[Entry, ...]:
        """All messages, as many as the leader says there are."""
        deadline = time.monotonic() + patience
        while True:
            info = await self.info()
            if info is not None:
                found = await self._scan()
                if len(found) == info["state"]["messages"]:
                    return tuple(found)
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {patience:g} s for all messages of {self.stream}; the leader says {info}")
            await asyncio.sleep(0.2)

    async def _scan(self) -> list[Entry]:
        found: list[Entry] = []
        while page := await self._page(found[-1].sequence + 1 if found else 1):
            found += page
        return found

    async def _page(self, sequence: int) -> list[Entry]:
        inbox = self._connection.new_inbox()
        subscription = await self._connection.subscribe(inbox)
        request = {"next_by_subj": f"bema.{self.app}.>", "seq": sequence, "batch": PAGE}
        await self._connection.publish(f"$JS.API.DIRECT.GET.{self.stream}", json.dumps(request).encode(), reply=inbox)
        found: list[Entry] = []
        try:
            while True:
                message = await subscription.next_msg(timeout=10)
                headers = dict(message.headers or {})
                if not headers.get("Nats-Sequence"):
                    return found
                found.append(
                    Entry(
                        int(headers["Nats-Sequence"]),
                        words(self.app, headers["Nats-Subject"]),
                        _seconds(headers["Nats-Time-Stamp"]),
                        headers,
                        message.data.decode("utf-8", "replace"),
                    )
                )
        finally:
            await subscription.unsubscribe()


def _seconds(time: str) -> float:
    """Seconds since 1970; the server writes nanoseconds, as many digits as there are."""
    whole, _, rest = time.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest or 0}")
