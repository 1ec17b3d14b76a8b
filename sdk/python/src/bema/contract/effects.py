"""What a run asks for while its handler executes. Buffered, coalesced, then committed together or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from bema.contract.operations import Operation

MAX_EFFECTS = 500
"""Effects of one run; the server takes 1,000 messages in a batch."""

MAX_COMMIT_BYTES = 4 * 1024 * 1024
"""Payload bytes of one run's effects."""

MAX_PAYLOAD_BYTES = 768 * 1024
"""Bytes of one payload; the server's own limit is 1 MiB with headers."""

MAX_HEADER_BYTES = 16 * 1024
"""Bytes of an event's own headers and its key, encoded; the server's limit for all headers is 64 KiB."""


@dataclass(frozen=True, slots=True)
class SetState:
    """Write a value, JSON."""

    group: str
    key: str
    value: bytes
    ttl: float | None = None
    """Seconds from its commit on, after which it goes away by itself; None for never, and where `expires` says it."""
    expires: float | None = None
    """Unix time by the broker's clock at which it goes away by itself, of a value that had one before it was changed;
    None for never."""


@dataclass(frozen=True, slots=True)
class DeleteState:
    """Remove a key."""

    group: str
    key: str


@dataclass(frozen=True, slots=True)
class UpdateState:
    """Change a value that the run did not read: applied to whatever it is at commit."""

    group: str
    key: str
    operations: tuple[Operation, ...]


class EmitEvent(NamedTuple):
    """Send an event. `number` counts the run's emits from 1 and makes the event's id."""

    topic: str
    data: bytes
    number: int
    key: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    id: str | None = None
    """An id of the user's: of all emits with it on a topic, within its window, one is sent."""
    at: float | None = None
    """Unix time before which it is not sent; None for now."""
    replaces: bool = False
    """Whether the run has freed its id before, by cancelling a timer of it."""


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Take back an event that is to be sent later. Nothing there, or sent already, is no error."""

    id: str


@dataclass(frozen=True, slots=True)
class RescheduleTimer:
    """Send an event that is to be sent later at another time. Nothing there, or sent already, is no error."""

    id: str
    at: float
    """Unix time."""


StateEffect = SetState | DeleteState | UpdateState
TimerEffect = CancelTimer | RescheduleTimer
Effect = StateEffect | EmitEvent | TimerEffect
