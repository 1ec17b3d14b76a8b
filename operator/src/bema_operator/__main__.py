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

import kopf

from bema.clusters import calls
from bema_operator import (
    brokers,
    caches,
    handlers,
    janitors,
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

BROKER_SECONDS = 5.0
"""How long to wait for NATS at the start."""


def utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def now() -> str:
    """The time of day as Kubernetes writes it."""
    return utc().strftime("%Y-%m-%dT%H:%M:%SZ")


KOPF_SECONDS = 5.0
"""How long kopf may take to end."""

EXIT_WATCHES = 70
EXIT_LEASE = 71
"""Another operator acts: this one is started again, and waits."""


class WatchesEnded(Exception):
    """kopf has stopped watching, and nobody asked it to: the process is to be started again."""


class Operator:
    """All parts of one operator, wired."""

    def __init__(self, options: settings.Settings, found: kube.Access) -> None:
        clock = time.monotonic
        self.options = options
        self.ear = watches.Ear(clock)
        self.measures = metrics.Metrics()
        self.api = api = kube.Kube(found, self.measures)
        self.cache = caches.Cache()
        self.queue = queues.Queue()
        self.broker = brokers.Broker(options, self.measures, self._look_at)
        self.reconciler = reconciles.Reconciler(
            options, self.cache, api, self.broker, measures=self.measures, clock=clock, time=now
        )
        self.lease = _lease(options, found, clock)
        if self.lease is not None:
            api.check = self.lease.check
        self.workers = queues.Workers(self.queue, self._reconcile, count=options.workers, clock=clock)
        self.lists = sweeps.Lists(options, self.cache, api, look_at=self._look_at, clock=clock)
        self.orphans = sweeps.Orphans(options, self.cache, api, self.broker, measures=self.measures, clock=clock)
        self.janitors = janitors.Janitors(options, api, self.broker, measures=self.measures)
        entrance = watches.Entrance(found, self.ear)
        self.doors = handlers.Doors(self.cache, entrance, self.ear, self._look_at, self.lists.ask)
        self.is_filled = False
        self._is_watching = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_told = False
        """Whether a signal has asked for the end."""
        self._kopf_stop = asyncio.Event()
        self._clock = clock

    def _look_at(self, key: Key) -> None:
        self.workers.add(key)

    def alive(self) -> list[str]:
        """Why the process should be started again. Not because of an API server that is away: that would not help."""
        can_hear = self._clock() - self.lists.answered < watches.DEAF_SECONDS
        deaf = self.ear.deaf() if can_hear else []
        problems = [f"no word of {plural} for {watches.DEAF_SECONDS:g} s" for plural in deaf]
        age = self.queue.age(self._clock())
        if age > STUCK_SECONDS:
            problems.append(f"the queue has not moved for {age:.0f} s")
        return problems if self.is_filled else []

    def ready(self) -> list[str]:
        waits = self.lease.problems() if self.lease else []
        return waits or ([] if self.is_filled else ["the cluster has not been listed yet"])

    def measured(self) -> bytes:
        self.measures.queue.set(len(self.queue))
        self.measures.queue_age.set(self.queue.age(self._clock()))
        self.measures.steps.set(len(self.cache.steps()))
        return self.measures.text()

    async def run(self) -> None:
        """Take the Lease, work until told to stop, and release it. Raises what made a part end by itself."""
        task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel if task else self._told)
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
        """Fill the cache, then work until told to stop."""
        await self.lists.fill()
        for kind in watches.WATCHED:
            self.ear.hear(kind.plural)
        self.is_filled = True
        log.info("Serving %d Steps", len(self.cache.steps()))
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await self._is_watching.wait()
            tasks = [group.create_task(part) for part in self._parts()]
            await self._stopping.wait()
            # Ours first: kopf waits for, and then cancels, whatever was started after it.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._kopf_stop.set()
            await asyncio.wait({watching}, timeout=KOPF_SECONDS)
            if not watching.done():
                # A watch whose kind is gone (its CRD was deleted) swallows kopf's cancellation for ever.
                log.critical("The watches do not end; this process leaves them and ends")
                if self.lease is not None:
                    await self.lease.release()
                logging.shutdown()
                os._exit(0 if self._is_told else EXIT_WATCHES)
            if not self._is_told and watching.exception() is None:
                raise WatchesEnded("the watches ended by themselves")

    def _may_act(self) -> None:
        """Raise unless the Lease, if there is one, lets this process begin something."""
        if self.lease is not None:
            self.lease.check()

    async def _reconcile(self, key: Key) -> float | None:
        self._may_act()
        return await self.reconciler.reconcile(key)

    def _parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the watches."""
        options = self.options
        return [
            self.broker.run(),
            self._work(),
            sweeps.every(options.resync_seconds, self.lists.refresh_all, what="list what is watched"),
            sweeps.every(sweeps.RELIST_PAUSE, self.lists.answer, what="list again what kopf listed"),
            sweeps.every(options.backlog_seconds, self._look_at_backlogs, what="read backlogs"),
            sweeps.every(options.janitor_seconds, self._clean, what="sweep the apps' streams"),
            sweeps.every(self.orphans.pause, self._sweep, what="look for orphaned consumers"),
        ]

    async def _watch(self) -> None:
        """Let kopf watch until it is told to stop."""
        where: dict[str, Any] = {"namespaces": [self.options.namespace]} if self.options.namespace else {}
        ours = asyncio.all_tasks()
        try:
            doors = handlers.registry(self.doors)
            tasks = await kopf.spawn_tasks(
                registry=doors, clusterwide=not where, standalone=True, stop_flag=self._kopf_stop, **where
            )
            # kopf has taken the signals for itself; take them back.
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._told)
            for task in tasks:
                task.add_done_callback(lambda _: self._stopping.set())
            self._is_watching.set()
            await kopf.run_tasks(tasks, ignored=ours)
        finally:
            self._is_watching.set()
            self._stopping.set()

    def _told(self) -> None:
        self._is_told = True
        self._stopping.set()

    async def _work(self) -> None:
        """Not before the broker had a chance to answer: a restart would have every Step say that it does not."""
        await self.broker.wait_connected(BROKER_SECONDS)
        await self.workers.run()

    async def _look_at_backlogs(self) -> None:
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
    """Run one operator until it is told to stop."""
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
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
