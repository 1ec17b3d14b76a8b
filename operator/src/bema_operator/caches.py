"""What we know of the cluster: Steps with their children, and Apps, kept up to date by watches and by our own lists.
No I/O.

Of a child, only what decisions need is kept: identity, ownership, the number of pods and status. All of it is kept as
compressed JSON: as dicts, the five objects of a Step take thirty times as much memory, and unpacking one takes some
20 µs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from bema.contract import apps, names
from bema_operator import facts, kinds, ownership
from bema_operator.facts import Key
from bema_operator.objects import Object, Place

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


@dataclass(frozen=True, slots=True)
class Entry:
    """One object."""

    version: int
    key: Key | None
    """The Step that it is or belongs to."""
    packed: bytes
    adopts: Key | None = None
    """The Step whose place it takes over."""

    def unpack(self) -> Object:
        found: Object = json.loads(zlib.decompress(self.packed))
        return found


@dataclass
class Shelf:
    """All objects of one kind."""

    objects: dict[Place, Entry] = field(default_factory=dict)
    deleted: dict[Place, int] = field(default_factory=dict)
    """Resource versions of deletions since the last list: what is older must not come back."""
    moved: set[Place] = field(default_factory=set)
    """Places that were heard of since a list was begun."""
    listed: set[Place] = field(default_factory=set)
    """Places that the list has named so far."""


class Cache:
    """Steps and children by kind and place, and children by Step."""

    def __init__(self) -> None:
        self._shelves = {kind.name: Shelf() for kind in (*_OURS, *kinds.CHILDREN)}
        self._children: dict[Key, set[tuple[str, Place]]] = {}
        self._apps: dict[str, dict[str, None]] = {}
        """The names of the Steps of each namespace."""
        self._adopters: dict[Key, set[str]] = {}
        """The names of Steps that take over the place of another."""

    def step(self, key: Key) -> Object | None:
        found = self._shelves[kinds.STEP.name].objects.get(key)
        return None if found is None else found.unpack()

    def knows(self, key: Key) -> bool:
        """Whether there is such a Step."""
        return key in self._shelves[kinds.STEP.name].objects

    def steps(self) -> list[Key]:
        return [Key(*place) for place in self._shelves[kinds.STEP.name].objects]

    def apps(self) -> set[str]:
        """The namespaces that have Steps."""
        return set(self._apps)

    def has_steps(self, namespace: str) -> bool:
        return namespace in self._apps

    def steps_of(self, namespace: str) -> list[Key]:
        return [Key(namespace, name) for name in self._apps.get(namespace, ())]

    def adopters(self, key: Key) -> list[str]:
        """Steps of its namespace that say that they take over the place of one of this name."""
        return sorted(self._adopters.get(key, ()))

    def app(self, namespace: str) -> Object | None:
        """The App of a namespace."""
        found = self._shelves[kinds.APP.name].objects.get((namespace, apps.NAME))
        return None if found is None else found.unpack()

    def with_app(self) -> list[str]:
        """The namespaces that have an App."""
        return [namespace for namespace, name in self._shelves[kinds.APP.name].objects if name == apps.NAME]

    def __len__(self) -> int:
        """How many Steps there are."""
        return len(self._shelves[kinds.STEP.name].objects)

    def children(self, key: Key, uid: str) -> list[Object]:
        """The live children that this very Step controls."""
        places = sorted(self._children.get(key, ()))
        found = [self._shelves[kind].objects[place].unpack() for kind, place in places]
        return [child for child in found if facts.owner_uid(child) == uid]

    def put(self, kind: kinds.Kind, found: Object) -> Key | None:
        """Take in an object that was read, watched or written. Whom to look at, or None when it is no news."""
        shelf = self._shelves[kind.name]
        place, version = _place(found), _version(found)
        shelf.moved.add(place)
        before = shelf.objects.get(place)
        if version <= max(before.version if before else 0, shelf.deleted.get(place, 0)):
            return None
        return self._store(kind, place, version, found)

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
        shelf.listed.clear()

    def take_page(self, kind: kinds.Kind, items: Iterable[Object]) -> list[Key]:
        """Take in a page of the list, except for what moved while it was on its way. The Steps to look at: those of
        objects that watches had not told us about."""
        shelf = self._shelves[kind.name]
        news: list[Key | None] = []
        for item in items:
            place = _place(item)
            shelf.listed.add(place)
            if place not in shelf.moved:
                news.append(self.put(kind, item))
                shelf.moved.discard(place)
        return [key for key in news if key is not None]

    def end_list(self, kind: kinds.Kind) -> list[Key]:
        """The list was read to its end: forget what it does not name, except for what moved meanwhile. The Steps to
        look at: those of objects that watches had not told us were gone."""
        shelf = self._shelves[kind.name]
        ghosts = [place for place in shelf.objects if place not in shelf.listed and place not in shelf.moved]
        shelf.listed.clear()
        news = [self._remove(kind, place) for place in ghosts]
        return [key for key in news if key is not None]

    def _store(self, kind: kinds.Kind, place: Place, version: int, found: Object) -> Key | None:
        self._remove(kind, place)
        key = _step_of(kind, found)
        slim = _slim(found) if kind in _OURS else _slim_child(kind, found)
        packed = zlib.compress(json.dumps(slim, separators=(",", ":")).encode(), 1)
        adopts = _adopted(found) if kind is kinds.STEP else None
        self._shelves[kind.name].objects[place] = Entry(version, key, packed, adopts)
        if adopts is not None:
            self._adopters.setdefault(adopts, set()).add(place[1])
        if kind is kinds.STEP:
            self._apps.setdefault(place[0], {})[place[1]] = None
        elif kind not in _OURS and key is not None:
            self._children.setdefault(key, set()).add((kind.name, place))
        return key

    def _remove(self, kind: kinds.Kind, place: Place) -> Key | None:
        before = self._shelves[kind.name].objects.pop(place, None)
        if before is None:
            return None
        if before.adopts is not None:
            self._adopters[before.adopts].discard(place[1])
            if not self._adopters[before.adopts]:
                del self._adopters[before.adopts]
        if kind is kinds.STEP:
            del self._apps[place[0]][place[1]]
            if not self._apps[place[0]]:
                del self._apps[place[0]]
        elif kind not in _OURS and before.key is not None:
            siblings = self._children.get(before.key, set())
            siblings.discard((kind.name, place))
            if not siblings:
                self._children.pop(before.key, None)
        return before.key


def _place(found: Object) -> Place:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _adopted(found: Object) -> Key | None:
    name = (found.get("spec") or {}).get("adoptFrom")
    return Key(found["metadata"]["namespace"], str(name)) if name else None


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
    managed = found["metadata"].get("managedFields", ())
    metadata["managedFields"] = [item for item in managed if ownership.is_ours(item) or ownership.is_scale(item)]
    slim = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
    if kind is not kinds.DEPLOYMENT:
        return slim
    return {**slim, "spec": {"replicas": found["spec"]["replicas"]}, "status": found.get("status", {})}
