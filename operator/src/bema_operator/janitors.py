"""The janitors of all apps of this installation: one app at a time, and never a stream that may be another's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bema.contract import errors
from bema.contract.retentions import Level, Quota
from bema.ports.janitors import Janitor, Report
from bema_operator import brokers, kube, metrics, sweeps
from bema_operator.plans import AppPlan
from bema_operator.settings import Settings

log = logging.getLogger(__name__)


class Janitors:
    """One janitor for each app stream of ours."""

    def __init__(
        self,
        settings: Settings,
        api: kube.Kube,
        broker: brokers.Broker,
        *,
        measures: metrics.Metrics,
        clock: Callable[[], float] = time.time,
        app: Callable[[str], AppPlan] = lambda namespace: AppPlan(),
        swept: Callable[[str, Quota], None] = lambda namespace, quota: None,
    ) -> None:
        """`app`: what a namespace's App says; `swept` hears what was found after each sweep of one."""
        self._settings = settings
        self._api = api
        self._broker = broker
        self._measures = measures
        self._clock = clock
        self._app = app
        self._swept = swept
        self._janitors: dict[str, Janitor] = {}

    async def sweep(self) -> None:
        """Sweep every app. One that cannot be swept keeps no other from it."""
        apps = await self._broker.streams()
        gone = self._janitors.keys() - {app.stream for app in apps}
        for stream in gone:
            del self._janitors[stream]
        uids = await sweeps.namespaces(self._api, self._settings)
        for app in apps:
            # Two clusters may share a broker, and a namespace may have been made again.
            if uids.get(app.namespace) == app.namespace_uid:
                await self._sweep(app)

    async def _sweep(self, app: brokers.App) -> None:
        kept = self._app(app.namespace).retentions(self._settings)
        if kept is None:
            log.warning("Nothing is removed while the App cannot be read", extra={"app": app.namespace})
            return
        janitor = self._janitors.get(app.stream)
        if janitor is None:
            janitor = self._janitors[app.stream] = self._broker.janitor(app.stream, kept, clock=self._clock)
        janitor.keep(kept)
        try:
            report = await janitor.sweep()
        except errors.BrokerError as error:
            log.warning("Could not sweep the app's stream: %s", error, extra={"app": app.namespace})
            return
        self._measure(app.namespace, report)
        self._swept(app.namespace, report.quota)

    def _measure(self, app: str, report: Report) -> None:
        for what, count in report.purged.items():
            self._measures.purged.labels(app=app, what=what).inc(count)
        self._measures.timers.labels(app=app).inc(report.timers)
        self._measures.leftovers.labels(app=app).inc(report.leftovers)
        self._measures.storage.labels(app=app).set(report.quota.share)
        if report.quota.level is not report.before:
            words = {Level.NORMAL: "has room again", Level.HIGH: "is nearly full", Level.FULL: "is full"}
            level = logging.INFO if report.quota.level is Level.NORMAL else logging.WARNING
            log.log(level, "The app's storage %s: %s", words[report.quota.level], report.quota, extra={"app": app})
