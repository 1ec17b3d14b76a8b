"""The operator's process: settings, parts, and what runs until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bema.clusters import calls
from bema.contract import apps as contract
from bema.contract.retentions import Quota
from bema_operator import (
    apps,
    brokers,
    caches,
    contents,
    janitors,
    kinds,
    kube,
    leases,
    logs,
    metrics,
    queues,
    reconciles,
    servers,
    settings,
    sweeps,
    watches,
)
from bema_operator.facts import Key

log = logging.getLogger(__name__)

STUCK_SECONDS = 300.0
"""A queue whose head is older, or a reconcile that takes longer, will not come loose by itself."""

APP_WORKERS = 2
"""Apps that are looked at at once: little is to be done about one."""

BROKER_SECONDS = 5.0
"""How long to wait for NATS at the start."""


def utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def now() -> str:
    """The time of day as Kubernetes writes it."""
    return utc().strftime("%Y-%m-%dT%H:%M:%SZ")


EXIT_LEASE = 71
"""Another operator acts: this one is started again, and waits."""


class Operator:
    """All parts of one operator, wired."""

    def __init__(self, options: settings.Settings, found: kube.Access) -> None:
        clock = time.monotonic
        self.options = options
        self.measures = metrics.Metrics()
        self.api = api = kube.Kube(found, self.measures)
        self.cache = caches.Cache()
        self.queue = queues.Queue()
        self.broker = brokers.Broker(options, self.measures, self._look_at, look_at_app=self._look_at_app)
        self.contents = contents.Contents(api, options.namespace, look_at=self._look_at, hear=self._hear_contents)
        self.reconciler = reconciles.Reconciler(
            options,
            self.cache,
            api,
            self.broker,
            contents=self.contents,
            measures=self.measures,
            clock=clock,
            time=now,
        )
        self.lease = _lease(options, found, clock)
        if self.lease is not None:
            api.check = self.lease.check
        self.workers = queues.Workers(self.queue, self._reconcile, count=options.workers, clock=clock)
        self.apps = apps.Apps(options, self.cache, api, self.broker, look_at=self._look_at, clock=clock, time=now)
        self.app_queue = queues.Queue()
        self.app_workers = queues.Workers(self.app_queue, self._reconcile_app, count=APP_WORKERS, clock=clock)
        self.watches = watches.Watches(options, self.cache, api, news=self._news, clock=clock)
        self.orphans = sweeps.Orphans(options, self.cache, api, self.broker, measures=self.measures, clock=clock)
        self.janitors = janitors.Janitors(
            options, api, self.broker, measures=self.measures, app=self.apps.plan, swept=self._swept
        )
        self.is_filled = False
        self._clock = clock

    def _look_at(self, key: Key) -> None:
        self.workers.add(key)

    def _look_at_app(self, namespace: str) -> None:
        self.app_workers.add(Key(namespace, contract.NAME))

    def _news(self, kind: kinds.Kind, key: Key) -> None:
        if kind is not kinds.APP:
            self._look_at(key)
        if kind in (kinds.APP, kinds.STEP):
            # An App says how many Steps there are.
            self._look_at_app(key.namespace)

    def _hear_contents(self) -> None:
        self.watches.ear.hear("the ConfigMaps that Steps name")

    def _swept(self, namespace: str, quota: Quota) -> None:
        if self.apps.note(namespace, quota):
            self._look_at_app(namespace)

    def alive(self) -> list[str]:
        """Why the process should be started again. Not because of an API server that is away: that would not help."""
        problems = [f"no word of {what} for {watches.DEAF_SECONDS:g} s" for what in self.watches.ear.deaf()]
        for what, queue in (("Steps", self.queue), ("Apps", self.app_queue)):
            age = queue.age(self._clock())
            if age > STUCK_SECONDS:
                problems.append(f"the queue of {what} has not moved for {age:.0f} s")
        return problems if self.is_filled else []

    def ready(self) -> list[str]:
        waits = self.lease.problems() if self.lease else []
        return waits or ([] if self.is_filled else ["the cluster has not been listed yet"])

    def measured(self) -> bytes:
        self.measures.queue.set(len(self.queue))
        self.measures.queue_age.set(self.queue.age(self._clock()))
        self.measures.steps.set(len(self.cache))
        return self.measures.text()

    async def run(self) -> None:
        """Take the Lease, work until cancelled, and release it. Raises what made a part end by itself."""
        if self.lease is None:
            return await self._act()
        await self.lease.acquire()
        keeping = asyncio.create_task(self.lease.keep())
        keeping.add_done_callback(_leave)
        try:
            await self._act()
        finally:
            keeping.cancel()
            await self.lease.release()

    async def _act(self) -> None:
        """Fill the cache, then work until cancelled."""
        await self.watches.fill()
        self.apps.note_all()
        self.is_filled = True
        log.info("Serving %d Steps", len(self.cache))
        async with asyncio.TaskGroup() as group:
            for part in self._parts():
                group.create_task(part)

    def _may_act(self) -> None:
        """Raise unless the Lease, if there is one, lets this process begin something."""
        if self.lease is not None:
            self.lease.check()

    async def _reconcile(self, key: Key) -> float | None:
        self._may_act()
        return await self.reconciler.reconcile(key)

    async def _reconcile_app(self, key: Key) -> float | None:
        self._may_act()
        return await self.apps.reconcile(key)

    def _parts(self) -> list[Coroutine[Any, Any, None]]:
        options = self.options
        return [
            self.watches.run(),
            self.broker.run(),
            self._work(),
            self.app_workers.run(),
            self.contents.run(),
            sweeps.every(options.backlog_seconds, self._look_at_backlogs, what="read backlogs"),
            sweeps.every(options.janitor_seconds, self._clean, what="sweep the apps' streams"),
            sweeps.every(self.orphans.pause, self._sweep, what="look for orphaned consumers"),
        ]

    async def _work(self) -> None:
        """Not before the broker had a chance to answer: a restart would have every Step say that it does not."""
        await self.broker.wait_connected(BROKER_SECONDS)
        await self.workers.run()

    async def _look_at_backlogs(self) -> None:
        self._may_act()
        if self.broker.is_connected:
            await self.broker.look()

    async def _clean(self) -> None:
        self._may_act()
        if self.broker.is_connected:
            await self.janitors.sweep()

    async def _sweep(self) -> None:
        self._may_act()
        if self.broker.is_connected:
            await self.orphans.sweep()


def _lease(options: settings.Settings, found: kube.Access, clock: Callable[[], float]) -> leases.Lease | None:
    """The Lease that this process needs, over a connection of its own that gives up soon."""
    if not options.lease_namespace:
        return None
    client = calls.Client(found, agent=f"bema-operator/{settings.VERSION}", timeout=leases.TIMEOUT, pauses=())
    identity = options.lease_holder or socket.gethostname()
    return leases.Lease(client, options.lease_namespace, identity, clock=clock, time=utc)


def _leave(keeping: asyncio.Task[None]) -> None:
    """Another operator holds the Lease: end at once, whatever is at work."""
    if not keeping.cancelled():
        log.critical("Another operator holds the Lease; this process ends")
        logging.shutdown()
        os._exit(EXIT_LEASE)


async def serve(options: settings.Settings) -> None:
    """Run one operator until it is told to stop; then raises `CancelledError`."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    operator = Operator(options, await kube.access(options.kubeconfig))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(operator.api.close)
        if operator.lease is not None:
            stack.push_async_callback(operator.lease.close)
        await stack.enter_async_context(
            servers.health(options.health_host, options.health_port, alive=operator.alive, ready=operator.ready)
        )
        await stack.enter_async_context(servers.measures(options.health_host, options.metrics_port, operator.measured))
        await operator.run()


def main() -> None:
    options = settings.parse(sys.argv[1:], os.environ)
    logs.set_up(as_json=options.json_logs, debug=options.debug)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
