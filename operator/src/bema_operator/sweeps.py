"""What is done from time to time: backlogs, and consumers whose Step is gone."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bema.contract import errors
from bema.ports import admin
from bema_operator import brokers, caches, kinds, kube, metrics
from bema_operator.facts import Key
from bema_operator.settings import Settings

log = logging.getLogger(__name__)

SWEEPS_PER_GRACE = 10
LONGEST_PAUSE = 60.0


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


async def namespaces(api: kube.Kube, settings: Settings) -> dict[str, str]:
    """The namespaces that are served, and their uids: as many requests for thousands of them as for one."""
    if settings.namespace is not None:
        uid = await api.uid(kinds.NAMESPACE, settings.namespace)
        return {} if uid is None else {settings.namespace: uid}
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in await api.list(kinds.NAMESPACE)}


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
        self._uids: dict[str, str | None] = {}
        """Of the namespaces that this sweep has asked for."""

    @property
    def pause(self) -> float:
        return min(LONGEST_PAUSE, max(0.5, self._settings.orphan_grace_seconds / SWEEPS_PER_GRACE))

    async def sweep(self) -> None:
        suspects: set[tuple[str, str]] = set()
        left = 0
        known = self._cache.apps()
        self._uids.clear()
        for app in await self._broker.apps():
            orphans = {durable: state for durable, state in app.consumers.items() if self._is_unknown(app, state)}
            if await self._is_abandoned(app):
                await self._remove_stream(app)
                continue
            left += app.namespace not in known and await self._is_left(app)
            if not orphans or not await self._is_ours(app):
                continue
            for durable, state in orphans.items():
                if await self._api.uid(kinds.STEP, str(admin.step_of(state)), app.namespace) is None:
                    suspects.add((app.stream, durable))
                    await self._suspect(app, durable, state)
        self._suspicions = {place: found for place, found in self._suspicions.items() if place in suspects}
        self._measures.orphans.labels("consumers").set(len(self._suspicions))
        self._measures.orphans.labels("streams").set(left)

    async def _namespace_uid(self, app: brokers.App) -> str | None:
        """Asked for when somebody wants to know, once in a sweep."""
        if app.namespace not in self._uids:
            self._uids[app.namespace] = await self._api.uid(kinds.NAMESPACE, app.namespace)
        return self._uids[app.namespace]

    async def _is_ours(self, app: brokers.App) -> bool:
        """Whether the stream is of a namespace of this cluster: two clusters may share a broker."""
        if self._settings.namespace not in (None, app.namespace):
            return False
        return await self._namespace_uid(app) == app.namespace_uid

    async def _is_left(self, app: brokers.App) -> bool:
        """Whether the namespace is gone; its stream may still be looked after by another cluster."""
        return self._settings.namespace is None and await self._namespace_uid(app) is None

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
        return step is not None and not self._cache.knows(Key(app.namespace, step))

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
            extra=Key(app.namespace, str(admin.step_of(state))).bound,
        )
