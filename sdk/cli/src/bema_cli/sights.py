"""What a watch of the API server has shown: objects by their uid, and what each piece of news changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bema.clusters.watches import Event, Type

Object = Mapping[str, Any]


class What(StrEnum):
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One object that came, changed or went."""

    what: What
    object: Object


@dataclass(frozen=True, slots=True)
class Complete:
    """Everything that there was at one moment has been told."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The API server does not answer, or not now; it is asked again."""

    why: str


News = Change | Complete | Lost


@dataclass(slots=True)
class Sight:
    """The objects of one kind that are known."""

    objects: dict[str, Object] = field(default_factory=dict)
    """By uid."""
    version: str = ""
    """Where a watch goes on from."""

    def list(self, items: Iterable[Object], version: str) -> list[Change]:
        """Take a list: what is new, what has changed, and what went while nobody watched."""
        found = {_uid(item): item for item in items}
        gone = [self.objects.pop(uid) for uid in list(self.objects) if uid not in found]
        changes = [Change(What.REMOVED, item) for item in gone]
        for uid, item in found.items():
            before = self.objects.get(uid)
            if before is None or _version(before) != _version(item):
                changes.append(Change(What.ADDED if before is None else What.CHANGED, item))
        self.objects, self.version = found, version
        return changes

    def take(self, event: Event) -> Change | None:
        """Take an event of a watch."""
        self.version = event.version
        if event.type is Type.BOOKMARK:
            return None
        uid = _uid(event.object)
        if event.type is Type.DELETED:
            self.objects.pop(uid, None)
            return Change(What.REMOVED, event.object)
        what = What.CHANGED if uid in self.objects else What.ADDED
        self.objects[uid] = event.object
        return Change(what, event.object)


def _uid(item: Object) -> str:
    return str(item["metadata"]["uid"])


def _version(item: Object) -> str:
    return str(item["metadata"].get("resourceVersion", ""))
