"""Who else executes a Step: its processes say on one subject that they live, and listen to each other there.

Nothing depends on everybody knowing the same: two processes that both believe to have a partition share its consumer,
which gives out one event at a time. So this is about who works, not about what is right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from bema.contract import errors
from bema.ports.connections import Connection, Inbox, Message
from bema_runtime.tasks import Tasks

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two announcements."""
PATIENCE = 5
"""Rounds of our own without a word after which a member counts as gone."""
SETTLE = 0.25
"""How long a newcomer listens before it believes to know the others, in seconds."""


class Members:
    """The others, as far as they were heard. Time is counted in rounds of our own: no clocks are compared, and a
    process that was stopped does not wake up believing that everybody else is gone. Pure."""

    def __init__(self, own: str) -> None:
        self.own = own
        self._silence: dict[str, int] = {}
        """Rounds since a member was heard."""

    @property
    def all(self) -> frozenset[str]:
        """Everybody, this process included."""
        return frozenset((self.own, *self._silence))

    def heard(self, member: str) -> bool:
        """Note that somebody lives; whether it is news."""
        is_new = member != self.own and member not in self._silence
        if member != self.own:
            self._silence[member] = 0
        return is_new

    def left(self, member: str) -> bool:
        """Note that somebody stops; whether it is news."""
        return self._silence.pop(member, None) is not None

    def round(self) -> bool:
        """Our own time has come again; whether somebody has been silent for too long."""
        self._silence = {member: rounds + 1 for member, rounds in self._silence.items()}
        gone = [member for member, rounds in self._silence.items() if rounds > PATIENCE]
        for member in gone:
            del self._silence[member]
        return bool(gone)


class Membership:
    """This process among those of a Step. `changed` is called with all members, once at first and then at each change,
    on the loop that it was started on."""

    def __init__(
        self,
        connection: Connection,
        subject: str,
        own: str,
        *,
        tasks: Tasks,
        changed: Callable[[frozenset[str]], None],
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._members = Members(own)
        self._tasks = tasks
        self._changed = changed
        self._inbox: Inbox | None = None
        self._settled = False
        self._leaving = False
        self._work: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._inbox = await self._connection.listen(self._subject, self._take)
        self._connection.on_reconnect(self._speak_soon)
        self._work = asyncio.create_task(self._keep_speaking(), name=f"membership {self._subject}")

    async def leave(self) -> None:
        """Say that this process takes no more; the others share its part at once."""
        self._leaving = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self._say(leaving=True)
        if self._inbox is not None:
            await self._inbox.close()

    async def _keep_speaking(self) -> None:
        await self._say()
        await asyncio.sleep(SETTLE)
        self._settled = True
        self._tell()
        while True:
            await asyncio.sleep(SECONDS)
            # Without a connection nobody can be heard: that says nothing about the others
            if self._connection.is_connected:
                await self._say()
                if self._members.round():
                    self._tell()

    def _speak_soon(self) -> None:
        if not self._leaving:
            self._tasks.spawn(self._say())

    async def _say(self, *, leaving: bool = False) -> None:
        body = orjson.dumps({"member": self._members.own, "leaving": leaving})
        try:
            await self._connection.publish(self._subject, body)
        except errors.BrokerUnavailable as error:
            log.debug("Not announced: %s", error)

    def _take(self, burst: list[Message]) -> None:
        is_news = False
        for message in burst:
            member, leaving = _read(message)
            if leaving:
                is_news |= self._members.left(member)
            elif self._members.heard(member):
                is_news = True
                # Whoever is new has to learn of us before its first assignment
                self._speak_soon()
        if is_news:
            self._tell()

    def _tell(self) -> None:
        if self._settled and not self._leaving:
            self._changed(self._members.all)


def _read(message: Message) -> tuple[str, bool]:
    """Who speaks, and whether it leaves. What is no announcement is nobody's leave."""
    try:
        said = orjson.loads(message.data)
        return str(said["member"]), bool(said["leaving"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "", True
