"""What we know of the cluster: Steps with their children, and Apps, kept up to date by watches and by our own lists.
No I/O.

Of a child, only what decisions need is kept: identity, ownership and status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bema.contract import apps, names
from bema_operator import facts, kinds, ownership
from bema_operator.facts import Key

Object = Mapping[str, Any]
Place = tuple[str, str]
"""Namespace and name of an object."""

_OURS = (kinds.STEP, kinds.APP)
"""Kinds that are kept as they are, and belong to nobody."""

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
)


@dataclass
class Shelf:
    """All objects of one kind."""

    objects: dict[Place, Object] = field(default_factory=dict)
    deleted: dict[Place, int] = field(default_factory=dict)
    """Resource versions of deletions since the last list: what is older must not come back."""
    moved: set[Place] = field(default_factory=set)
    """Places that were heard of since a list was begun."""


class Cache:
    """Steps and children by kind and place, and children by Step."""

    def __init__(self) -> None:
        self._shelves = {kind.name: Shelf() for kind in (*_OURS, *kinds.CHILDREN)}
        self._children: dict[Key, set[tuple[str, Place]]] = {}

    def step(self, key: Key) -> Object | None:
        return self._shelves[kinds.STEP.name].objects.get(key)

    def steps(self) -> list[Key]:
        return [Key(*place) for place in self._shelves[kinds.STEP.name].objects]

    def steps_of(self, namespace: str) -> list[Key]:
        return [key for key in self.steps() if key.namespace == namespace]

    def adopters(self, key: Key) -> list[str]:
        """Steps of its namespace that say that they take over the place of one of this name."""
        steps = ((other, self.step(other) or {}) for other in self.steps_of(key.namespace))
        return sorted(other.name for other, found in steps if (found.get("spec") or {}).get("adoptFrom") == key.name)

    def app(self, namespace: str) -> Object | None:
        """The App of a namespace."""
        return self._shelves[kinds.APP.name].objects.get((namespace, apps.NAME))

    def children(self, key: Key, uid: str) -> list[Object]:
        """The live children that this very Step controls."""
        found = [self._shelves[kind].objects[place] for kind, place in sorted(self._children.get(key, ()))]
        return [child for child in found if facts.owner_uid(child) == uid]

    def put(self, kind: kinds.Kind, found: Object) -> Key | None:
        """Take in an object that was read, watched or written. Whom to look at, or None when it is no news."""
        shelf = self._shelves[kind.name]
        place, version = _place(found), _version(found)
        shelf.moved.add(place)
        before = shelf.objects.get(place)
        if version <= max(_version(before) if before else 0, shelf.deleted.get(place, 0)):
            return None
        self._store(kind, place, found)
        return _step_of(kind, found)

    def drop(self, kind: kinds.Kind, found: Object) -> Key | None:
        """An object is gone, or has left what we select. The Step to look at, if we knew it."""
        shelf = self._shelves[kind.name]
        place = _place(found)
        shelf.moved.add(place)
        shelf.deleted[place] = max(_version(found), shelf.deleted.get(place, 0))
        return self._remove(kind, place)

    def begin_list(self, kind: kinds.Kind) -> None:
        """A list is about to be asked for: from now on, note what moves meanwhile."""
        shelf = self._shelves[kind.name]
        shelf.moved.clear()
        shelf.deleted.clear()

    def end_list(self, kind: kinds.Kind, items: Iterable[Object]) -> list[Key]:
        """Make the cache say what the list says, except for what moved while it was on its way. The Steps to look
        at: those of objects that watches had not told us about, or had not told us were gone."""
        shelf = self._shelves[kind.name]
        moved = set(shelf.moved)
        listed = {_place(item): item for item in items}
        ghosts = [place for place in shelf.objects if place not in listed and place not in moved]
        news = [self._remove(kind, place) for place in ghosts]
        news += [self.put(kind, item) for place, item in listed.items() if place not in moved]
        return [key for key in news if key is not None]

    def _store(self, kind: kinds.Kind, place: Place, found: Object) -> None:
        self._remove(kind, place)
        self._shelves[kind.name].objects[place] = _slim(found) if kind in _OURS else _slim_child(kind, found)
        key = _step_of(kind, found)
        if kind not in _OURS and key is not None:
            self._children.setdefault(key, set()).add((kind.name, place))

    def _remove(self, kind: kinds.Kind, place: Place) -> Key | None:
        before = self._shelves[kind.name].objects.pop(place, None)
        if before is None:
            return None
        key = _step_of(kind, before)
        if kind not in _OURS and key is not None:
            siblings = self._children.get(key, set())
            siblings.discard((kind.name, place))
            if not siblings:
                self._children.pop(key, None)
        return key


def _place(found: Object) -> Place:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _version(found: Object) -> int:
    """Resource versions of one kind can be compared since Kubernetes 1.35 says so; they always could with etcd."""
    return int(found["metadata"].get("resourceVersion", 0))


def _step_of(kind: kinds.Kind, found: Object) -> Key | None:
    """The Step or App that an object is, or the Step that it belongs to. The owner reference counts: a label may have
    been lost."""
    namespace, name = _place(found)
    if kind in _OURS:
        return Key(namespace, name)
    owner = facts.controller(found)
    return Key(namespace, owner["name"]) if owner else None


def _slim(found: Object) -> Object:
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    metadata["annotations"] = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if not key.startswith("kubectl.kubernetes.io/")
    }
    return {**found, "metadata": metadata}


def _slim_child(kind: kinds.Kind, found: Object) -> Object:
    metadata = {key: found["metadata"][key] for key in _METADATA if key in found["metadata"]}
    annotation = metadata.get("annotations", {}).get(names.ANNOTATION_HASH)
    metadata["annotations"] = {names.ANNOTATION_HASH: annotation} if annotation else {}
    metadata["managedFields"] = [item for item in found["metadata"].get("managedFields", ()) if ownership.is_ours(item)]
    slim = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
    return {**slim, "status": found["status"]} if kind is kinds.DEPLOYMENT and "status" in found else slim
