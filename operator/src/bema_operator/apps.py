"""Looks at Apps: has the Steps of a namespace looked at when its App has changed, and writes the App's status.

What an App says is applied elsewhere, where a Step is resolved and where an app's stream is looked after; both read
the App from the cache when they need it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from bema.contract.retentions import Quota
from bema_operator import app_statuses, brokers, caches, events, kinds, kube, plans, status_writes
from bema_operator.app_statuses import AppFacts
from bema_operator.facts import Key
from bema_operator.objects import Object
from bema_operator.plans import AppPlan
from bema_operator.settings import Settings

log = logging.getLogger(__name__)


def identity(found: Object | None) -> tuple[str, int]:
    """Which App this is, and which generation of it; of none, nothing."""
    return (found["metadata"]["uid"], found["metadata"]["generation"]) if found else ("", 0)


class Apps:
    """Looks at one App at a time, as often as it is told to."""

    def __init__(
        self,
        settings: Settings,
        cache: caches.Cache,
        api: kube.Kube,
        broker: brokers.Broker,
        *,
        look_at: Callable[[Key], None],
        clock: Callable[[], float],
        time: Callable[[], str],
    ) -> None:
        """`clock` gives seconds for durations, `time` the time of day as RFC 3339."""
        self._settings = settings
        self._cache = cache
        self._broker = broker
        self._look_at = look_at
        self._time = time
        self._writer = status_writes.Writer(api, cache, events.Events(api, clock=clock, time=time), clock=clock)
        self._seen: dict[str, tuple[str, int]] = {}
        self._quotas: dict[str, Quota] = {}

    def plan(self, namespace: str) -> AppPlan:
        """What the App of a namespace says now."""
        return plans.app_plan(self._cache.app(namespace))

    def note(self, namespace: str, quota: Quota) -> bool:
        """Take in how full an app's storage is; whether that is worth a new status. Without an App it is not: the next
        one of that name may be of another namespace."""
        if self._cache.app(namespace) is None:
            return False
        before = self._quotas.get(namespace)
        is_news = before is None or app_statuses.differs_visibly(before, quota)
        if is_news:
            self._quotas[namespace] = quota
        return is_news

    def note_all(self) -> None:
        """Take the Apps in that are there when the process begins: all Steps are looked at then in any case."""
        self._seen = {namespace: identity(self._cache.app(namespace)) for namespace in self._cache.with_app()}

    async def reconcile(self, key: Key) -> float | None:
        """See to one App, be it gone. Returns after how many seconds to look again without news, or None."""
        found = self._cache.app(key.namespace)
        if self._seen.get(key.namespace, identity(None)) != identity(found):
            self._note_change(key.namespace, found)
        if found is None:
            self._seen.pop(key.namespace, None)
        elif "deletionTimestamp" not in found["metadata"]:
            await self._report(found)
            return status_writes.AGAIN if self._writer.leaves_out else None
        return None

    def _note_change(self, namespace: str, found: Object | None) -> None:
        before, self._seen[namespace] = self._seen.get(namespace, identity(None)), identity(found)
        if before[0] not in ("", identity(found)[0]):
            # Also where it is there again: the namespace may be another one.
            self._quotas.pop(namespace, None)
        steps = self._cache.steps_of(namespace)
        log.info(
            "The App %s; %d Steps follow", "has changed" if found else "is gone", len(steps), extra={"app": namespace}
        )
        for key in steps:
            self._look_at(key)

    async def _report(self, found: Object) -> None:
        subject = plans.subject(found, kinds.APP)
        namespace = subject.key.namespace
        plan = plans.app_plan(found)
        facts = AppFacts(
            subject=subject,
            plan=plan,
            steps=len(self._cache.steps_of(namespace)),
            quota=self._quota(namespace, plan),
            shortfall=self._broker.shortfall(namespace),
        )
        await self._writer.write(subject, app_statuses.status(facts, self._time()))

    def _quota(self, namespace: str, plan: AppPlan) -> Quota | None:
        """What was used at the last sweep, of what the App gives now."""
        quota, kept = self._quotas.get(namespace), plan.retentions(self._settings)
        return quota if quota is None or kept is None else dataclasses.replace(quota, storage=kept.storage_bytes)
