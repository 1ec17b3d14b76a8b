"""The groups of the state that somebody watches: heard at once, and read again where something may have been missed.

Who does not know of a watch writes without telling, and nobody would ever notice: so nothing is committed before they
were read, from the stream's leader.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import orjson

from bema.contract import names
from bema.ports.connections import Message
from bema.ports.jetstream import JetStream

log = logging.getLogger(__name__)

LATELY = 10.0
"""For how long what was heard may not be stored yet, in seconds: plain subscribers hear of a message before."""

_NONE: frozenset[str] = frozenset()


class Watches:
    """What is watched in one app. `changed` is called when that is something else. Belongs to the engine's thread."""

    def __init__(self, js: JetStream, stream: str, root: str, *, changed: Callable[[], None]) -> None:
        self._js = js
        self._stream = stream
        self._subjects = names.watch(root)
        self._by_subject: dict[str, frozenset[str]] = {}
        self._heard_at: dict[str, float] = {}
        self._changed = changed
        self.groups = _NONE

    async def start(self) -> None:
        """Hear from now on. Messages to a stream's subject reach plain subscribers."""
        await self._js.connection.listen(self._subjects, self._heard)

    async def read(self) -> None:
        """Read what was said before: at the start, and when the connection was lost. Raises `BrokerError`."""
        for stored in await self._js.get_all(self._stream, self._subjects):
            groups = _groups(stored.subject, stored.data)
            if time.monotonic() - self._heard_at.get(stored.subject, -LATELY) < LATELY:
                groups |= self._by_subject[stored.subject]
            self._by_subject[stored.subject] = groups
        self._note()

    def _heard(self, burst: list[Message]) -> None:
        for message in burst:
            self._by_subject[message.subject] = _groups(message.subject, message.data)
            self._heard_at[message.subject] = time.monotonic()
        self._note()

    def _note(self) -> None:
        before, self.groups = self.groups, _NONE.union(*self._by_subject.values())
        if self.groups != before:
            log.debug("Watched groups of the state: %s", ", ".join(sorted(self.groups)) or "none")
            self._changed()


def _groups(subject: str, data: bytes) -> frozenset[str]:
    """What a Step watches, as it says itself."""
    try:
        told: Mapping[str, list[str]] = orjson.loads(data) if data else {"groups": []}
        return frozenset(str(group) for group in told["groups"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        log.warning("What %s says is not understood: %s", subject, error)
        return _NONE
