"""The groups of the state that somebody watches: heard at once, and read again where something may have been missed."""

from __future__ import annotations

import logging

import orjson

from bema.contract import errors, names
from bema.ports.connections import Message
from bema.ports.jetstream import JetStream

log = logging.getLogger(__name__)


class Watches:
    """What is watched in one app. Belongs to the engine's thread."""

    def __init__(self, js: JetStream, stream: str, root: str) -> None:
        self._js = js
        self._stream = stream
        self._subjects = names.watch(root)
        self._by_subject: dict[str, frozenset[str]] = {}
        self.groups: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Hear from now on, and read what was said before. Messages to a stream's subject reach plain subscribers."""
        await self._js.connection.listen(self._subjects, self._heard)
        await self.read()

    async def read(self) -> None:
        """Read it again: at the start, and when the connection was lost. Without an answer, what was known holds."""
        try:
            found = [stored async for stored in self._js.scan(self._stream, self._subjects)]
        except errors.BrokerError as error:
            log.warning("Which groups of the state are watched could not be read: %s", error)
            return
        for stored in found:
            self._take(stored.subject, stored.data)

    def _heard(self, burst: list[Message]) -> None:
        for message in burst:
            self._take(message.subject, message.data)

    def _take(self, subject: str, data: bytes) -> None:
        try:
            groups = frozenset(str(group) for group in orjson.loads(data)["groups"]) if data else frozenset()
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("What %s says is not understood: %s", subject, error)
            return
        if self._by_subject.get(subject) != groups:
            self._by_subject[subject] = groups
            self.groups = frozenset().union(*self._by_subject.values())
            log.debug("Watched groups of the state: %s", ", ".join(sorted(self.groups)) or "none")
