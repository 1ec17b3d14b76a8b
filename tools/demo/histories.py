"""What happened, as three outsiders saw it: the driver, the broker's stream, and the payment provider. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.demo.orderfiles import Line


@dataclass(frozen=True, slots=True)
class Sent:
    """A line of the file, and what became of it as far as its sender knows."""

    line: Line
    status: int | None = None
    """The HTTP status that settled it; None for an event, and for a request that was never answered."""
    sequence: int | None = None
    """Where the broker stored it, for an event."""
    tries: int = 1
    unanswered: int = 0
    """Tries whose answer was lost after the request had left."""
    said: str = ""
    """The beginning of the answer's body, for people."""

    @property
    def accepted(self) -> bool:
        return self.status in (200, 201)

    @property
    def refused(self) -> bool:
        return self.status is not None and 400 <= self.status < 500


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the app's stream, its subject taken apart."""

    sequence: int
    words: tuple[str, ...]
    """The subject's tokens below the app, decoded, such as `("state", "orders", "o-1")`; a topic is one word."""
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Charge:
    """Money that the provider took."""

    key: str
    """The idempotency key that the shop sent."""
    order_id: str
    cents: int
    payment_id: str


@dataclass(frozen=True, slots=True)
class History:
    """All that the audit reads."""

    sent: Sequence[Sent]
    entries: Sequence[Entry]
    charges: Sequence[Charge]
    initial_stock: Mapping[str, int]
