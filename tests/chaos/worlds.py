"""The world of a trial: brokers, workers, the network between them, and what is known of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bema.contract import errors, retentions
from bema.contract.bindings import Broker, Installation
from bema.ports.janitors import Janitor
from tests.chaos import banks, contents
from tests.chaos.contents import Contents, Reader
from tests.chaos.places import PATIENCE, Place
from tests.support import skews, waits
from tests.support.brokers import NatsServer
from tests.support.clusters import Cluster
from tests.support.proxies import Proxy
from tests.support.runtimes import App, Worker

WORKERS = 3
SWEEP_SECONDS = 2.0
"""Time between two sweeps of the janitor."""


class World(Place):
    """Three workers; the last is far: its way to each broker leads through a proxy."""

    def __init__(self, folder: Path, *, replicas: int, store_bytes: int) -> None:
        super().__init__(folder)
        self.replicas = replicas
        self.cluster: Cluster | None = None
        self.workers: list[Worker] = []
        self.proxies: list[Proxy] = []
        settings = [f"jetstream {{ max_file_store: {store_bytes} }}"]
        if replicas == 1:
            file = folder / "server.conf"
            file.write_text("\n".join(settings))
            self.nodes = [NatsServer(folder / "nats", more=["-c", str(file)])]
        else:
            self.cluster = Cluster(folder / "cluster", size=replicas, settings=settings)
            self.nodes = self.cluster.nodes
        self.app = App(self.urls, folder / "app", banks.FILES)

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    async def start(self) -> None:
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.start)
        else:
            await asyncio.to_thread(self.nodes[0].start)
        for node in self.nodes:
            self.proxies.append(Proxy(node.port))
            await self.proxies[-1].start()
        await self.app.start(workers=0, replicas=self.replicas)
        for place in range(WORKERS):
            self.workers.append(self.spawn(place))
        for worker in self.workers:
            await self.ready(worker)

    def spawn(self, place: int, *, skew: float | None = None) -> Worker:
        """A worker for a place. `skew` is by how many seconds its clock is wrong."""
        env = {banks.WITNESSES: str(self.witnesses.file)}
        urls = [proxy.url for proxy in self.proxies] if place == WORKERS - 1 else self.urls
        if skew is None:
            return self.app.spawn(env=env, urls=urls)
        return self.app.spawn(env={**env, skews.VARIABLE: str(skew)}, urls=urls, module="tests.support.skews")

    async def ready(self, worker: Worker) -> None:
        await waits.until(
            lambda: worker.readiness()[0] == 200,
            "a worker's readiness",
            timeout=PATIENCE,
            explain=lambda: worker.output,
        )

    async def sweep(self) -> None:
        """Be the janitor, as the operator is, with less time between two sweeps."""
        installation = Installation(broker=Broker(urls=self.urls))
        janitor = Janitor(self.app.js, self.app.stream, retentions.of_installation(installation))
        while True:
            try:
                report = await janitor.sweep()
                self.swept.update({"set again": report.timers, "removed": report.leftovers})
            except errors.BrokerError:
                # It is away, or has no room: part of the plan
                pass
            await asyncio.sleep(SWEEP_SECONDS)

    @property
    def far(self) -> Worker:
        return self.workers[-1]

    async def leader(self) -> NatsServer:
        return self.nodes[0] if self.cluster is None else await self.cluster.wait_leader(self.app.stream)

    async def wait_whole(self) -> None:
        """Until all servers answer and have the same."""
        for node in self.nodes:
            await asyncio.to_thread(node.wait, PATIENCE)
        if self.cluster is not None:
            await self.cluster.wait_current(self.app.stream)

    async def contents(self) -> Contents:
        await self.wait_whole()
        entries = await self.reader.everything()
        waiting = await waits.until(self.reader.waiting, "what is on its way", timeout=PATIENCE)
        return Contents(entries, waiting, await self._copies())

    async def _copies(self) -> tuple[str, ...]:
        """Each server's copy of the stream, in words; followers may need a moment."""
        if self.cluster is None:
            return ()
        deadline = time.monotonic() + 30
        while True:
            copies = tuple([await asyncio.to_thread(_copy, node, self.app.stream) for node in self.nodes])
            if len(set(copies)) == 1 or time.monotonic() > deadline:
                return copies
            await asyncio.sleep(0.2)

    def explain(self) -> str:
        """The ends of all logs."""
        logs = [node.last_words() for node in self.nodes]
        logs += [
            f"--- {worker.log}\n" + "\n".join(worker.output.splitlines()[-30:]) for worker in self.app.workers[-6:]
        ]
        return "\n".join(logs)

    async def close(self) -> None:
        for worker in self.app.workers:
            worker.stop(signal.SIGKILL)
        for proxy in self.proxies:
            await proxy.close()
        with contextlib.suppress(AttributeError):  # it may never have been connected
            await self.app.close()
        for node in self.nodes:
            node.stop(signal.SIGKILL)
        self.recorder.close()


def _copy(node: NatsServer, stream: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.monitor}/jsz?accounts=1&streams=1", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    for account in found.get("account_details") or []:
        for detail in account.get("stream_detail") or []:
            if detail["name"] == stream:
                state = detail["state"]
                return f"{state['messages']} messages from {state['first_seq']} to {state['last_seq']}"
    return "no copy"


@contextlib.asynccontextmanager
async def running(folder: Path, *, replicas: int, store_bytes: int) -> AsyncIterator[World]:
    world = World(folder, replicas=replicas, store_bytes=store_bytes)
    try:
        await world.start()
        async with contents.client(world.urls) as connection, contents.client(world.urls) as other:
            world.reader = Reader(connection, banks.APP, other=other)
            sweeping = asyncio.create_task(world.sweep(), name="janitor")
            try:
                yield world
            finally:
                sweeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sweeping
    except BaseException as error:
        error.add_note(world.explain())
        raise
    finally:
        await world.close()
