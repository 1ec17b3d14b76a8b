"""Floors: how far each consumer has come for good. Everything up to its floor, the consumer will never ask for again.

A record of each is kept in the app's stream, with a short history: what is purged an hour after it was settled needs
the floor as it stood an hour ago, also after a restart, and a consumer that was lost begins again at its floor + 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

SAMPLES = 12
"""Parts of the history's span: it is kept to a twelfth of it."""


def floor_of(*, ack_floor: int, backlog: int, last: int) -> int:
    """A consumer's floor, of itself. `last` is the stream's last sequence as read *before* the consumer: nothing up to
    there is left for a consumer without a backlog, while its ack floor stays at the last message that it was given."""
    return max(ack_floor, last) if backlog == 0 else ack_floor


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a consumer from another of its name."""

    step: str
    uid: str
    """Of the Step that it was made for."""
    created: str
    """When it was made, RFC 3339."""


@dataclass(frozen=True, slots=True)
class Record:
    """A consumer's floor, as it is and as it was."""

    of: Identity
    filters: tuple[str, ...]
    """Subjects that the consumer hears."""
    time: float
    """When the floor was first seen, Unix seconds."""
    floor: int
    samples: tuple[tuple[float, int], ...] = ()
    """Times and floors before, oldest first."""

    def seen(self, of: Identity, filters: tuple[str, ...], *, now: float, floor: int, span: float) -> Record:
        """The record after a look at the consumer; the same object when nothing is new. The history goes back `span`
        seconds, or a little more.

        The ack floor of a consumer that was idle lies far behind once it is given something: as long as it is the
        same consumer, its floor never falls.
        """
        if of != self.of:
            samples = tuple((at, min(was, floor)) for at, was in (*self.samples, (self.time, self.floor)))
            return Record(of, filters, now, floor, samples if of.uid == self.of.uid else ())
        if floor <= self.floor:
            return self if filters == self.filters else replace(self, filters=filters)
        samples = self.samples
        if not samples or self.time - samples[-1][0] >= span / SAMPLES:
            samples = (*samples, (self.time, self.floor))
        old = [number for number, (at, _) in enumerate(samples) if at <= now - span]
        return Record(of, filters, now, floor, samples[old[-1] :] if old else samples)

    def as_of(self, time: float) -> int:
        """The floor as it stood at a time: 0 when nobody knows."""
        known = [was for at, was in (*self.samples, (self.time, self.floor)) if at <= time]
        return known[-1] if known else 0

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "step": self.of.step,
                "uid": self.of.uid,
                "created": self.of.created,
                "filters": self.filters,
                "time": round(self.time, 3),
                "floor": self.floor,
                "samples": [(round(at, 3), was) for at, was in self.samples],
            },
            separators=(",", ":"),
        ).encode()


def read(data: bytes) -> Record:
    """A record from its JSON. Raises `ValueError` for what is none."""
    try:
        raw = json.loads(data)
        return Record(
            of=Identity(str(raw["step"]), str(raw["uid"]), str(raw["created"])),
            filters=tuple(map(str, raw["filters"])),
            time=float(raw["time"]),
            floor=int(raw["floor"]),
            samples=tuple((float(at), int(was)) for at, was in raw["samples"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected the record of a floor as JSON, found {data[:80]!r}") from error


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Somebody who has not done with what lies above a floor."""

    filters: Sequence[str]
    floor: int


def lowest(pattern: str, subscribers: Iterable[Subscriber]) -> int | None:
    """The lowest floor among those who hear anything on `pattern`; None when nobody does."""
    return min((each.floor for each in subscribers if any(overlap(pattern, own) for own in each.filters)), default=None)


def within(pattern: str, wider: str) -> bool:
    """Whether `wider`, which ends in `>`, matches all that a pattern does."""
    return pattern == wider or pattern.startswith(wider.removesuffix(">"))


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both patterns, each of which may have wildcards."""
    left, right = one.split("."), other.split(".")
    for mine, theirs in zip(left, right, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(left) == len(right)
