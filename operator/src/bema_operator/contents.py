"""What ConfigMaps hold on which Steps are restarted, as digests.

One watch for all of them, of metadata alone and begun when the first Step asks for it: whoever changes a ConfigMap
that a Step names makes, once it has been quiet for a moment, its digest forgotten and the Step looked at, which reads
it again. Nothing is kept of any other ConfigMap, and each is read once after a change, however many Steps name it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

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

QUIET = 2.0
"""Seconds without another change of a ConfigMap before it is read again: several edits, or one that is taken back, are
one rollout or none."""

LONGEST = 10.0
"""Seconds after the first change within which it is read again in any case."""


class Timer(Protocol):
    """Something that is done later."""

    def cancel(self) -> None: ...


def _later(seconds: float, act: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, act)


@dataclass(slots=True)
class _Unrest:
    """A ConfigMap that changes."""

    since: float
    timer: Timer
    """Of when it is read again."""


class Contents:
    """Digests of the ConfigMaps that Steps name."""

    def __init__(
        self,
        api: kube.Kube,
        namespace: str | None,
        *,
        look_at: Callable[[Key], None],
        hear: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], Timer] = _later,
    ) -> None:
        """`namespace`: the only one that is served; None for all of them. `hear`: something came of the watch, be it
        that there is none to be had; not called before it is begun. `later` calls what it is given after so many
        seconds of the clock."""
        self._api = api
        self._namespace = namespace
        self._look_at = look_at
        self._hear = hear
        self._clock = clock
        self._later = later
        self._places: dict[Key, set[Place]] = {}
        """What each Step names."""
        self._keys: dict[Place, set[Key]] = {}
        """The Steps that name each."""
        self._digests: dict[Place, str] = {}
        self._forgotten: Counter[Place] = Counter()
        """How often what a ConfigMap held that is named was forgotten."""
        self._unrests: dict[Place, _Unrest] = {}
        self._generations: dict[Key, int] = {}
        """Which generation of each Step has asked last."""
        self._is_wanted = asyncio.Event()

    async def digest(self, key: Key, names: Iterable[str], generation: int) -> str:
        """A digest of all that a generation of a Step names; empty for nothing. Raises `KubeError`."""
        places = {(key.namespace, name) for name in names}
        self._note(key, places)
        if not places:
            return ""
        if self._generations.get(key) != generation:
            # Its pods are likely to be replaced now: they are to have what was changed together with it.
            self._generations[key] = generation
            for place in places & self._unrests.keys():
                self._forget(place)
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
        else:
            self._generations.pop(key, None)
        for place in places - before:
            self._keys.setdefault(place, set()).add(key)
        for place in before - places:
            self._keys[place].discard(key)
            if not self._keys[place]:
                self._calm(place)
                for known in (self._keys, self._digests, self._forgotten):
                    known.pop(place, None)

    async def _digest(self, place: Place) -> str:
        known = self._digests.get(place)
        if known is not None:
            return known
        before = self._forgotten[place]
        found = await self._api.find(kinds.CONFIG_MAP, *place)
        digest = ABSENT if found is None else _digest([found.get("data") or {}, found.get("binaryData") or {}])
        if self._forgotten[place] == before:
            # Or it may be older than a change that was over meanwhile.
            self._digests[place] = digest
        return digest

    async def run(self) -> None:
        """Watch, once anybody asks for anything, until cancelled."""
        await self._is_wanted.wait()
        while True:
            self._hear()
            try:
                version = await self._api.version(kinds.CONFIG_MAP, self._namespace)
                self._doubt_all()
                await self._follow(version)
            except kube.Expired as error:
                log.info("The watch of ConfigMaps begins anew: %s", error)
            except kube.KubeError as error:
                log.warning("Cannot watch ConfigMaps (%s); trying again in %g s", error, PAUSE)
            await asyncio.sleep(PAUSE)

    def _doubt_all(self) -> None:
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
        """Forget what it held, and have it read again, once it is quiet. No watch is needed for that any more."""
        if place not in self._keys:
            return
        now = self._clock()
        since = self._calm(place, now)
        wait = min(QUIET, since + LONGEST - now)
        self._unrests[place] = _Unrest(since, self._later(wait, functools.partial(self._forget, place)))

    def _calm(self, place: Place, now: float = 0.0) -> float:
        """Nothing is to be read again. Returns since when it was; `now` without any."""
        unrest = self._unrests.pop(place, None)
        if unrest is None:
            return now
        unrest.timer.cancel()
        return unrest.since

    def _forget(self, place: Place) -> None:
        self._calm(place)
        self._forgotten[place] += 1
        self._digests.pop(place, None)
        for key in self._keys[place]:
            self._look_at(key)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
