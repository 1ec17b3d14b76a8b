"""How full the app's storage is, as the janitor tells it: heard at once, and read again where something may have been
missed. Where nobody tells, nothing is held back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from bema.contract import errors, names, retentions
from bema.contract.effects import DeleteState, Effect, EmitEvent, SetState, UpdateState
from bema.contract.retentions import Level, Quota
from bema.ports.connections import Message
from bema.ports.jetstream import JetStream

log = logging.getLogger(__name__)


class Quotas:
    """The quota of one app. `changed` is called when its level is another one. Belongs to the engine's thread."""

    def __init__(self, js: JetStream, stream: str, *, changed: Callable[[Level], None]) -> None:
        self._js = js
        self._stream = stream
        self._subject = names.quota(names.root_of_stream(stream))
        self._changed = changed
        self.now = Quota()

    async def start(self) -> None:
        """Hear from now on, and read what was told before."""
        # Messages to a stream's subject reach plain subscribers too.
        await self._js.connection.listen(self._subject, self._heard)
        await self.read()

    async def read(self) -> None:
        """Read it again: at the start, and when the connection was lost. Without an answer, what was known holds."""
        try:
            stored = await self._js.get_last(self._stream, self._subject)
        except errors.BrokerError as error:
            log.warning("How full the app's storage is could not be read: %s", error)
            return
        if stored is None:
            self._take(Quota())
        else:
            self._parse(stored.data)

    def _heard(self, burst: list[Message]) -> None:
        for message in burst:
            self._parse(message.data)

    def _parse(self, data: bytes) -> None:
        try:
            quota = retentions.read_quota(data)
        except ValueError as error:
            log.warning("What was said about the app's storage is not understood: %s", error)
            return
        # What was read may have been overtaken by what was heard meanwhile.
        if quota.time >= self.now.time:
            self._take(quota)

    def _take(self, quota: Quota) -> None:
        before, self.now = self.now.level, quota
        if quota.level is before:
            return
        match quota.level:
            case Level.NORMAL:
                log.info("The app's storage has room again: %s", quota)
            case Level.HIGH:
                log.warning("The app's storage is nearly full: %s; api and cron runs may add no events", quota)
            case Level.FULL:
                log.error("The app's storage is full: %s; Steps that emit take no events until there is room", quota)
        self._changed(quota.level)

    def refusal(self, effects: Sequence[Effect], watched: frozenset[str]) -> errors.AppStorageFull | None:
        """Why a run that was started from outside may not commit; None when it may. A write to a `watched` group of the
        state is told, and so adds an event."""
        if self.now.level is Level.NORMAL:
            return None
        if not any(isinstance(effect, EmitEvent) for effect in effects) and not told(effects, watched):
            return None
        return errors.AppStorageFull(
            f"the app's storage is nearly full ({self.now}): expected room for the run's events, found none; nothing "
            "was written. It is taken again when events were settled and removed"
        )


def told(effects: Iterable[Effect], watched: frozenset[str]) -> set[str]:
    """The watched groups that some effects write to."""
    writes = (effect for effect in effects if isinstance(effect, SetState | DeleteState | UpdateState))
    return {effect.group for effect in writes if effect.group in watched} if watched else set()
