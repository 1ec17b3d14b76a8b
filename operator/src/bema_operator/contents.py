"""What ConfigMaps hold on which Steps are restarted, as digests.

One watch for all of them, of metadata alone and begun when the first Step asks for it: whoever changes a ConfigMap
that a Step names makes its digest forgotten and the Step looked at, which reads it again. Nothing is kept of any other
ConfigMap, and each is read once after a change, however many Steps name it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from bema.clusters import watches
from bema.clusters.watches import Type
from bema_operator import kinds, kube
from bema_operator.facts import Key
from bema_operator.objects import Place

log = logging.getLogger(__name__)

ABSENT = "-"
"""The digest of a ConfigMap that is not there."""

PAUSE = 5.0
"""Seconds before the watch is tried again that was refused or not answered."""

BREATH = 0.2
"""Seconds between the end of a watch and the next."""


class Contents:
    """Digests of the ConfigMaps that Steps name."""

    def __init__(
        self,
        api: kube.Kube,
        namespace: str | None,
        *,
        look_at: Callable[[Key], None],
        hear: Callable[[], None],
    ) -> None:
        """`namespace`: the only one that is served; None for all of them. `hear`: something came of the watch, be it
        that there is none to be had; not called before it is begun."""
        self._api = api
        self._namespace = namespace
        self._look_at = look_at
        self._hear = hear
        self._places: dict[Key, set[Place]] = {}
        """What each Step names."""
        self._keys: dict[Place, set[Key]] = {}
        """The Steps that name each."""
        self._digests: dict[Place, str] = {}
        self._changes: Counter[Place] = Counter()
        """How often a ConfigMap that is named was heard of."""
        self._is_wanted = asyncio.Event()

    async def digest(self, key: Key, names: Iterable[str]) -> str:
        """A digest of all that a Step names; empty for nothing. Raises `KubeError`."""
        places = {(key.namespace, name) for name in names}
        self._note(key, places)
        if not places:
            return ""
        self._is_wanted.set()
        found = [(name, await self._digest((namespace, name))) for namespace, name in sorted(places)]
        return _digest(found)

    def forget(self, key: Key) -> None:
        """A Step is gone, or names nothing any more."""
        self._note(key, set())

    def _note(self, key: Key, places: set[Place]) -> None:
        before = self._places.pop(key, set())
        if places:
            self._places[key] = places
        for place in places - before:
            self._keys.setdefault(place, set()).add(key)
        for place in before - places:
            self._keys[place].discard(key)
            if not self._keys[place]:
                for known in (self._keys, self._digests, self._changes):
                    known.pop(place, None)

    async def _digest(self, place: Place) -> str:
        known = self._digests.get(place)
        if known is not None:
            return known
        before = self._changes[place]
        found = await self._api.find(kinds.CONFIG_MAP, *place)
        digest = ABSENT if found is None else _digest([found.get("data") or {}, found.get("binaryData") or {}])
        if self._changes[place] == before:
            # Or it is older than what was heard meanwhile.
            self._digests[place] = digest
        return digest

    async def run(self) -> None:
        """Watch, once anybody asks for anything, until cancelled."""
        await self._is_wanted.wait()
        while True:
            self._hear()
            try:
                version = await self._api.version(kinds.CONFIG_MAP, self._namespace)
                self._forget_all()
                await self._follow(version)
            except kube.Expired as error:
                log.info("The watch of ConfigMaps begins anew: %s", error)
            except kube.KubeError as error:
                log.warning("Cannot watch ConfigMaps (%s); trying again in %g s", error, PAUSE)
            await asyncio.sleep(PAUSE)

    def _forget_all(self) -> None:
        """A watch begins: nobody knows what has happened before it."""
        for place in list(self._keys):
            self._heard(place)

    async def _follow(self, version: str) -> None:
        """One watch after the other, each from where the one before has ended, until a place is forgotten."""
        lines = functools.partial(self._api.lines, only_metadata=True)
        while True:
            events = watches.follow(lines, kinds.CONFIG_MAP, self._namespace, version)
            async with contextlib.aclosing(events) as found:
                async for event in found:
                    version = event.version
                    self._hear()
                    if event.type is not Type.BOOKMARK:
                        metadata = event.object["metadata"]
                        self._heard((metadata["namespace"], metadata["name"]))
            self._hear()
            # Also where something ends every watch as soon as it has begun.
            await asyncio.sleep(BREATH)

    def _heard(self, place: Place) -> None:
        keys = self._keys.get(place)
        if keys:
            self._changes[place] += 1
            self._digests.pop(place, None)
            for key in keys:
                self._look_at(key)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
