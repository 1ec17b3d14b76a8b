"""What is done from time to time: our own lists, backlogs, and consumers whose Step is gone."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bema.contract import errors, names
from bema.ports import admin
from bema_operator import brokers, caches, kinds, kube, metrics
from bema_operator.facts import Key
from bema_operator.settings import Settings
from bema_operator.watches import WATCHED

log = logging.getLogger(__name__)

SWEEPS_PER_GRACE = 10
LONGEST_PAUSE = 60.0
FILL_PAUSE = 2.0
_NOT_SERVED = (403, 404)
"""Answers for a kind whose CRD, or whose right in the ClusterRole, is not there."""
RELIST_PAUSE = 1.0
"""kopf reports a list object by object: one list of ours for all of them."""


async def every(seconds: float, act: Callable[[], Awaitable[None]], *, what: str) -> None:
    """Act, and again after a pause, for ever. What goes wrong is said, and tried again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
        except (kube.KubeError, errors.BrokerError) as error:
            log.warning("Could not %s (%s); trying again in %g s", what, error, seconds)
        except Exception:
            log.exception("Could not %s; trying again in %g s", what, seconds)


class Lists:
    """Our own lists: they fill the cache before anything is decided, and find what watches did not tell."""

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
        self.watched: tuple[kinds.Kind, ...] = WATCHED
        """Kinds that the API server serves."""
        self.answered = clock()
        """When the API server last answered a list."""
        self._asked: set[kinds.Kind] = set()

    async def fill(self) -> None:
        """List every kind once, until it succeeds. Steps come last: their children must be known before them."""
        for kind in reversed([kind for kind in WATCHED if kind is not kinds.APP]):
            await self._fill(kind)
        # After Steps, which show that the API server knows our kinds, and asked twice: to go on without Apps that are
        # there would roll pods.
        why = await self._fill(kinds.APP, patience=1)
        if why is not None:
            log.warning("Apps are not served (%s); going on as if there were none", why)
            self.watched = tuple(kind for kind in WATCHED if kind is not kinds.APP)

    async def _fill(self, kind: kinds.Kind, *, patience: float = math.inf) -> kube.KubeError | None:
        """List a kind until it succeeds; that it is not served is taken for an answer after so many tries."""
        for times in itertools.count():
            try:
                await self.refresh(kind)
                break
            except kube.KubeError as error:
                if times >= patience and error.code in _NOT_SERVED:
                    return error
                log.warning("Cannot list %s (%s); is the CRD there, and the ClusterRole?", kind.plural, error)
            await asyncio.sleep(FILL_PAUSE)
        return None

    async def are_apps_served(self) -> bool:
        """Whether Apps can be listed by now."""
        try:
            await self._api.list(kinds.APP, self._settings.namespace)
        except kube.KubeError as error:
            if error.code in _NOT_SERVED:
                return False
            raise
        return True

    async def refresh(self, kind: kinds.Kind) -> None:
        """List a kind, and have every Step and App looked at of which the list says something new."""
        self._cache.begin_list(kind)
        query = {"labelSelector": names.LABEL_STEP} if kind in kinds.CHILDREN else {}
        items = await self._api.list(kind, self._settings.namespace, **query)
        self.answered = self._clock()
        for key in self._cache.end_list(kind, items):
            self._news(kind, key)

    async def refresh_all(self) -> None:
        for kind in self.watched:
            await self.refresh(kind)

    def ask(self, kind: kinds.Kind) -> None:
        """kopf has listed this kind: list it too, soon."""
        self._asked.add(kind)

    async def answer(self) -> None:
        """List the kinds that were asked for."""
        asked, self._asked = self._asked, set()
        for kind in asked:
            await self.refresh(kind)


async def is_ours(app: brokers.App, api: kube.Kube, settings: Settings) -> bool:
    """Whether the stream is of a namespace of this cluster: two clusters may share a broker."""
    if settings.namespace not in (None, app.namespace):
        return False
    try:
        found = await api.get(kinds.NAMESPACE, app.namespace)
    except kube.Gone:
        return False
    return bool(found["metadata"]["uid"] == app.namespace_uid)


@dataclass(slots=True)
class Suspicion:
    """A consumer whose Step answered that it does not exist."""

    since: float
    times: int = 1


class Orphans:
    """Removes the consumers of Steps that are gone for good, and the streams of namespaces that are.

    Needs positive evidence, at least twice, a grace apart: the API server says by name that the Step does not exist,
    and the stream is of the very namespace that exists now. An empty or refused list is no evidence.
    """

    def __init__(
        self,
        settings: Settings,
        cache: caches.Cache,
        api: kube.Kube,
        broker: brokers.Broker,
        *,
        measures: metrics.Metrics,
        clock: Callable[[], float],
        time: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._api = api
        self._broker = broker
        self._measures = measures
        self._clock = clock
        self._time = time
        self._suspicions: dict[tuple[str, str], Suspicion] = {}

    @property
    def pause(self) -> float:
        return min(LONGEST_PAUSE, max(0.5, self._settings.orphan_grace_seconds / SWEEPS_PER_GRACE))

    async def sweep(self) -> None:
        suspects: set[tuple[str, str]] = set()
        left = 0
        known = {key.namespace for key in self._cache.steps()}
        for app in await self._broker.apps():
            orphans = {durable: state for durable, state in app.consumers.items() if self._is_unknown(app, state)}
            if await self._is_abandoned(app):
                await self._remove_stream(app)
                continue
            left += app.namespace not in known and await self._is_left(app)
            if not orphans or not await is_ours(app, self._api, self._settings):
                continue
            for durable, state in orphans.items():
                if await self._is_gone(Key(app.namespace, str(admin.step_of(state)))):
                    suspects.add((app.stream, durable))
                    await self._suspect(app, durable, state)
        self._suspicions = {place: found for place, found in self._suspicions.items() if place in suspects}
        self._measures.orphans.labels("consumers").set(len(self._suspicions))
        self._measures.orphans.labels("streams").set(left)

    async def _is_left(self, app: brokers.App) -> bool:
        """Whether the namespace is gone; its stream may still be looked after by another cluster."""
        if self._settings.namespace is not None:
            return False
        try:
            await self._api.get(kinds.NAMESPACE, app.namespace)
        except kube.Gone:
            return True
        return False

    async def _is_abandoned(self, app: brokers.App) -> bool:
        """Whether the namespace is gone and nobody looks after the stream: a janitor, be it that of another cluster,
        writes at least once a day."""
        if self._settings.namespace is not None or app.state is None:
            return False
        # An empty stream says that its last message is of the year 1
        times = (app.state.created, app.state.last_time)
        written = max(datetime.datetime.fromisoformat(text).timestamp() for text in times)
        if self._time() - written < self._settings.orphan_stream_grace_seconds:
            return False
        return await self._is_left(app)

    async def _remove_stream(self, app: brokers.App) -> None:
        if app.state is not None and await self._broker.delete_silent_stream(app):
            self._measures.streams_swept.inc()
            text = "Removed the stream of a namespace that is gone; it still held %d messages of %d bytes"
            log.warning(text, app.state.messages, app.state.bytes, extra={"app": app.namespace})

    def _is_unknown(self, app: brokers.App, state: admin.ConsumerState) -> bool:
        step = admin.step_of(state)
        return step is not None and self._cache.step(Key(app.namespace, step)) is None

    async def _is_gone(self, key: Key) -> bool:
        try:
            await self._api.get(kinds.STEP, key.name, key.namespace)
        except kube.Gone:
            return True
        return False

    async def _suspect(self, app: brokers.App, durable: str, state: admin.ConsumerState) -> None:
        place = (app.stream, durable)
        found = self._suspicions.get(place)
        if found is None:
            self._suspicions[place] = Suspicion(since=self._clock())
            return
        found.times += 1
        if self._clock() - found.since < self._settings.orphan_grace_seconds:
            return
        await self._broker.delete_consumer(app.stream, durable)
        self._measures.swept.inc()
        log.info(
            "Removed the consumer of a Step that is gone; it still held %d events",
            state.backlog,
            extra={"app": app.namespace, "step": admin.step_of(state)},
        )
