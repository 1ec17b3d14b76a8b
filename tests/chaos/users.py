"""Users: bare NATS clients that send transfers and write down what they know of each, and no more."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

import nats.errors
from nats.aio.client import Client

from tests.chaos import banks, contents
from tests.chaos.banks import Transfer
from tests.chaos.histories import Recorder

ANSWER = 3.0
"""Seconds that a user waits for the broker."""
CROWD = 300
"""Events on their way with which users wait for the bank: enough that every fault finds some."""
TWICE = 0.1
BY_INTAKE = 0.2
"""Part of the transfers that are asked for twice, each time by an event of its own."""
GIVES_UP = 0.1


class Bank(Protocol):
    """What users see of the world."""

    recorder: Recorder
    backlog: int

    @property
    def urls(self) -> list[str]: ...


class User:
    """One user. Sends one event after the other, some of them again under the same id, as whoever is not sure does."""

    def __init__(self, name: str, bank: Bank, seed: str, enough: Callable[[], bool]) -> None:
        self.name = name
        self._bank = bank
        self._chance = random.Random(f"{seed} {name}")
        self._enough = enough
        self.sent = 0

    async def work(self) -> None:
        """Send until it is enough. The broker may be elsewhere from time to time: then connect again."""
        wishes = banks.wishes(self.name, self._chance)
        while not self._enough():
            urls = self._bank.urls
            try:
                async with contents.client(urls) as connection:
                    while not self._enough() and urls == self._bank.urls:
                        if self._bank.backlog > CROWD:
                            await asyncio.sleep(0.02)
                            continue
                        await self._want(connection, next(wishes), urls)
            except (nats.errors.Error, OSError, TimeoutError):
                await asyncio.sleep(0.2)

    async def _want(self, connection: Client, wish: Transfer, urls: list[str]) -> None:
        self.sent += 1
        data = {**wish.data(), "due": round(time.time() + self._chance.uniform(0.5, 3), 3)}
        if self._chance.random() < BY_INTAKE:
            # Two events with ids of their own: the intake makes one transfer of them
            for number in (1, 2):
                await self._insist(connection, wish, data, urls, topic="wanted", event_id=f"{wish.id}/{number}")
            return
        await self._insist(connection, wish, data, urls, topic="transfer", event_id=wish.id)
        if self._chance.random() < TWICE:
            await self._send(connection, wish, data, topic="transfer", event_id=wish.id)

    async def _insist(
        self, connection: Client, wish: Transfer, data: dict[str, Any], urls: list[str], *, topic: str, event_id: str
    ) -> None:
        while not await self._send(connection, wish, data, topic=topic, event_id=event_id):
            if self._chance.random() < GIVES_UP or urls != self._bank.urls:
                return
            await asyncio.sleep(self._chance.uniform(0.05, 0.3))

    async def _send(
        self, connection: Client, wish: Transfer, data: dict[str, Any], *, topic: str, event_id: str
    ) -> bool:
        """Whether the broker said that it has stored the event."""
        record = self._bank.recorder.add
        record("invoke", self.name, id=wish.id, data=data, poison=wish.is_poison)
        headers = {
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-type": topic,
            "ce-source": "/chaos",
            "content-type": "application/json",
        }
        subject = f"bema.{banks.APP}.evt.live.0.{topic}"
        try:
            reply = await connection.request(subject, json.dumps(data).encode(), timeout=ANSWER, headers=headers)
            answer = json.loads(reply.data)
        except (nats.errors.Error, TimeoutError, OSError, ValueError) as error:
            record("unknown", self.name, id=wish.id, why=type(error).__name__)
            return False
        if "error" in answer:
            record("fail", self.name, id=wish.id, why=answer["error"].get("description", ""))
            return False
        record("ok", self.name, id=wish.id, sequence=answer["seq"])
        return True
