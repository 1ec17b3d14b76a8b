"""What the cluster tells us goes into the cache, and the Step concerned into the queue: a list of every kind first,
then its changes, for as long as the process lives. Writes nothing on any object."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from bema.clusters import watches
from bema.clusters.watches import Event, Type
from bema.contract import names
from bema_operator import caches, kinds, kube
from bema_operator.facts import Key
from bema_operator.settings import Settings

log = logging.getLogger(__name__)

WATCHED = (kinds.STEP, kinds.APP, *kinds.CHILDREN)
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before the first, second, … try to reach an API server that does not answer; the last one for ever."""
DEAF_SECONDS = 180.0
"""A watch ends, fails or falls silent well before: a kind of which nothing was heard for longer is not watched."""
NOT_SERVED = (403, 404)
"""Answers for a kind whose CRD, or whose right in the ClusterRole, is not there."""
UNSERVED_PAUSE = 30.0
"""Seconds before a kind is asked for again that was not served, and need not be."""


class Ear:
    """When each of what is watched was last heard of."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}

    def hear(self, what: str) -> None:
        """Something came of a watch, be it that there is none to be had."""
        self._heard[what] = self._clock()

    def deaf(self) -> list[str]:
        """What was not heard of for too long; nothing of which no watch was ever begun."""
        now = self._clock()
        return [what for what, when in self._heard.items() if now - when > DEAF_SECONDS]


class Watches:
    """One watch for each kind."""

    def __init__(
        self,
        settings: Settings,
        cache: caches.Cache,
        api: kube.Kube,
        *,
        news: Callable[[kinds.Kind, Key], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._api = api
        self._news = news
        self._clock = clock
        self._versions: dict[kinds.Kind, str] = {}
        """Where each watch goes on from."""
        self._due: dict[kinds.Kind, float] = {}
        """When each kind is to be listed again."""
        self._left_out: set[kinds.Kind] = set()
        """Kinds that are not served."""
        self.ear = Ear(clock)

    async def fill(self) -> None:
        """List every kind, until it succeeds. Steps come after their children, which must be known before them. Apps
        need not be served; they come after the Steps, which show that the API server knows our kinds, and are asked for
        twice: to go on without Apps that are there would roll pods."""
        for kind in reversed([kind for kind in WATCHED if kind is not kinds.APP]):
            await self._fill(kind)
        await self._fill(kinds.APP)

    async def _fill(self, kind: kinds.Kind) -> None:
        failures = 0
        while kind not in self._versions:
            try:
                await self._list(kind)
            except kube.KubeError as error:
                if failures and _is_left_out(kind, error):
                    self._leave_out(kind, error)
                    return
                log.warning("Cannot list %s (%s); is the CRD there, and the ClusterRole?", kind.plural, error)
                await asyncio.sleep(_pause(failures))
                failures += 1

    def _leave_out(self, kind: kinds.Kind, error: kube.KubeError) -> None:
        """Said once, and looked at again now and then."""
        if kind not in self._left_out:
            log.warning("%ss are not served (%s); going on as if there were none", kind.name, error)
        self._left_out.add(kind)
        self._versions[kind] = ""

    async def run(self) -> None:
        """Watch every kind until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in WATCHED:
                group.create_task(self._watch(kind), name=f"watch {kind.plural}")

    async def _list(self, kind: kinds.Kind) -> None:
        """List a kind, page by page, and have everything looked at of which the list says something new."""
        self._cache.begin_list(kind)
        version = ""
        async with contextlib.aclosing(self._api.pages(kind, self._settings.namespace, **_query(kind))) as pages:
            async for page in pages:
                version = page.version
                self._tell(kind, self._cache.take_page(kind, page.items))
        self._tell(kind, self._cache.end_list(kind))
        self._versions[kind] = version
        self._left_out.discard(kind)
        self.ear.hear(kind.plural)
        self._due[kind] = self._clock() + self._settings.resync_seconds * random.uniform(0.8, 1.2)

    async def _watch(self, kind: kinds.Kind) -> None:
        failures = 0
        while True:
            try:
                if not self._versions[kind] or self._clock() >= self._due[kind]:
                    await self._list(kind)
                await self._follow(kind)
                failures = 0
            except kube.Expired:
                self._versions[kind] = ""
            except kube.KubeError as error:
                if _is_left_out(kind, error):
                    self._leave_out(kind, error)
                    self.ear.hear(kind.plural)
                    await asyncio.sleep(UNSERVED_PAUSE)
                    continue
                log.warning("Cannot watch %s (%s); trying again", kind.plural, error)
                failures += 1
            self.ear.hear(kind.plural)
            # Also where something ends every watch as soon as it has begun.
            await asyncio.sleep(_pause(failures))

    async def _follow(self, kind: kinds.Kind) -> None:
        """One watch, until the API server ends it."""
        version = self._versions[kind]
        events = watches.follow(self._api.lines, kind, self._settings.namespace, version, **_query(kind))
        async with contextlib.aclosing(events) as news:
            async for event in news:
                self._versions[kind] = event.version
                self.ear.hear(kind.plural)
                self._take(kind, event)

    def _take(self, kind: kinds.Kind, event: Event) -> None:
        if event.type is Type.BOOKMARK:
            return
        take = self._cache.drop if event.type is Type.DELETED else self._cache.put
        key = take(kind, event.object)
        if key is not None:
            self._news(kind, key)

    def _tell(self, kind: kinds.Kind, keys: list[Key]) -> None:
        for key in keys:
            self._news(kind, key)


def _is_left_out(kind: kinds.Kind, error: kube.KubeError) -> bool:
    """Whether a kind is not served that need not be."""
    return kind is kinds.APP and error.code in NOT_SERVED


def _query(kind: kinds.Kind) -> dict[str, str]:
    """Only what is a Step's: the server selects."""
    return {"labelSelector": names.LABEL_STEP} if kind in kinds.CHILDREN else {}


def _pause(failures: int) -> float:
    return PAUSES[min(failures, len(PAUSES) - 1)] * random.uniform(0.8, 1.2)
