"""What an app's stream keeps, how long, and what happens when it fills up. Pure: the janitor acts on it.

Never removed by anybody but their owners: `state`, `stream`, `timer`, `dedup` and `meta`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bema.contract import floors, names, quantities
from bema.contract.bindings import Installation
from bema.contract.floors import Subscriber
from bema.contract.triggers import Kind

MAX_PURGE = 20_000
"""Messages that one purge may remove: publishes wait meanwhile, 43 ms for so many."""

SWEEP_SECONDS = 30.0
"""Time between two sweeps of the janitor."""

HIGH, FULL = 80, 95
"""Percent of the storage above which the level rises."""

CALM = 3
"""A level ends this much below where it began, or it would come and go with every event."""

CONSUMED_KINDS = tuple(kind for kind in Kind if kind not in (Kind.API, Kind.CRON))
"""Kinds of run whose trigger is a message of the stream: their markers live until the floor has passed. The server
removes the markers of the others by their TTL."""


class Level(StrEnum):
    """How full an app's storage is."""

    NORMAL = "normal"
    HIGH = "high"
    """Nothing that adds events from outside is taken any more; event runs go on."""
    FULL = "full"
    """Events wait in the stream: what is left of the room is for retries and dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retentions:
    """How long things are kept, in seconds, and how many bytes there are."""

    storage_bytes: int
    events: float
    """Least age at which an event goes that every subscriber has settled, or that has none."""
    dead_letters: float
    markers: float = 3600.0
    """How long after its run a marker stays: as long as a copy of a commit may still be under way."""
    unheard: float = 600.0
    """`events`, for topics without a subscriber while the storage is nearly full. Not 0: a Step that is being made
    is owed what was emitted since its creation."""
    lost: float = 3600.0
    """How long a consumer that is gone holds what it had not settled: it may be made again."""
    overdue: float = 10.0
    """How late a timer may be before it counts as stuck."""


def of_installation(installation: Installation) -> Retentions:
    return Retentions(
        storage_bytes=installation.storage_bytes,
        events=installation.event_retention_seconds,
        dead_letters=installation.dead_letter_retention_seconds,
    )


@dataclass(frozen=True, slots=True)
class Cuts:
    """The first sequences that are younger than something."""

    events: int
    """Than the retention of events; one beyond the last while the storage is nearly full."""
    unheard: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Purge:
    """Remove what matches a pattern and has a lower sequence."""

    what: str
    """For people and metrics: events, retries, markers or dead letters."""
    pattern: str
    below: int


def of_topics(patterns: Iterable[str], subscribers: Iterable[Subscriber], cuts: Cuts) -> list[Purge]:
    """Events go once every subscriber has settled them *and* they are old enough; those without subscriber by age."""
    heard_by = list(subscribers)
    return [Purge("events", pattern, _below(floors.lowest(pattern, heard_by), cuts)) for pattern in patterns]


def _below(floor: int | None, cuts: Cuts) -> int:
    return cuts.unheard if floor is None else min(floor + 1, cuts.events)


def of_step(root: str, step: str, *, floor: int, settled: int) -> list[Purge]:
    """What a Step leaves behind: retries below its floor, and markers below its floor of an hour ago (`settled`)."""
    markers = [Purge("markers", names.ends_of_kind(root, step, kind), settled + 1) for kind in CONSUMED_KINDS]
    return [Purge("retries", names.retry_filter(root, step), floor + 1), *markers]


def of_nobody(root: str, *, settled: int | None, cuts: Cuts) -> list[Purge]:
    """Markers of Steps that are gone: once nobody at all may ask for what is so old. `settled` is the lowest floor of
    an hour ago, None without any."""
    below = cuts.events if settled is None else min(settled + 1, cuts.events)
    return [Purge("markers", names.ends_of_kind(root, "*", kind), below) for kind in CONSUMED_KINDS]


def of_dead_letters(root: str, cuts: Cuts) -> Purge:
    return Purge("dead letters", names.dead_letter_filter(root), cuts.dead_letters)


def level_of(used: int, storage: int, *, before: Level) -> Level:
    """The level for so many bytes, after another level."""
    if used * 100 > storage * (FULL - (CALM if before is Level.FULL else 0)):
        return Level.FULL
    if used * 100 > storage * (HIGH - (CALM if before is not Level.NORMAL else 0)):
        return Level.HIGH
    return Level.NORMAL


@dataclass(frozen=True, slots=True)
class Quota:
    """How full an app's storage is, as the janitor tells everybody."""

    level: Level = Level.NORMAL
    used: int = 0
    storage: int = 1
    time: float = 0.0
    """When that was so, Unix seconds."""

    @property
    def share(self) -> float:
        return self.used / self.storage

    def __str__(self) -> str:
        return f"{self.share:.0%} of {quantities.show(self.storage)} used"

    def to_json(self) -> bytes:
        body = {"level": self.level, "used": self.used, "storage": self.storage, "time": round(self.time, 3)}
        return json.dumps(body, separators=(",", ":")).encode()


def read_quota(data: bytes) -> Quota:
    """A quota from its JSON. Raises `ValueError` for what is none."""
    try:
        raw = json.loads(data)
        return Quota(Level(raw["level"]), int(raw["used"]), max(1, int(raw["storage"])), float(raw["time"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a quota as JSON, found {data[:80]!r}") from error
