"""The broker's clock as this process knows it: what it said last, and what has passed since by a clock that nobody
sets. The clock here may be wrong, and may be set at any moment."""

from __future__ import annotations

import datetime
import time
from typing import NamedTuple

PROMPT = 1.0
"""How long an answer may take that is believed about the time, in seconds, where an earlier one is known."""


class Moment(NamedTuple):
    """One moment as a Unix time by two clocks."""

    here: float
    """For what is shown."""
    broker: float
    """For what the broker acts on."""


class Clock:
    """One broker's clock. Never ahead of it: an answer is on its way for a while."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        """Of the monotonic clock here."""

    def hear(self, said: str, *, took: float) -> None:
        """The broker has said what time it is, RFC 3339, in an answer that took so many seconds."""
        if took <= PROMPT or self._ahead is None:
            self._ahead = datetime.datetime.fromisoformat(said).timestamp() - time.monotonic()

    def time(self) -> float:
        """Unix time by the broker's clock; by the one here while the broker has not been heard."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    def now(self) -> Moment:
        return Moment(time.time(), self.time())
