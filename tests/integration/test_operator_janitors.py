"""Whose streams the operator's janitors look after. The broker is real; the API server is a stand-in with a script."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bema.contract import bindings, names
from bema.contract.bindings import Installation, Owner
from bema.ports import admin, connections
from bema.ports.jetstream import SCHEDULE, SCHEDULE_TARGET, JetStream, Outgoing
from bema_operator import brokers, janitors, kinds, metrics
from bema_operator.settings import Settings
from tests.support import waits
from tests.support.brokers import NatsServer


class Api:
    """Knows namespaces by name."""

    def __init__(self, uids: dict[str, str]) -> None:
        self.uids = uids

    async def list(self, kind: kinds.Kind, namespace: str | None = None, **query: str) -> Any:
        assert kind is kinds.NAMESPACE
        return [{"metadata": {"name": name, "uid": uid}} for name, uid in self.uids.items()]


class Place:
    """A broker with streams of several owners, and the operator's connection to it."""

    def __init__(self, js: JetStream, url: str) -> None:
        self.js = js
        self.settings = Settings(nats_urls=(url,), event_retention_seconds=60, storage_bytes=1000)
        self.measures = metrics.Metrics()
        self.broker = brokers.Broker(self.settings, self.measures, lambda key: None)

    def janitors(self, uids: dict[str, str]) -> janitors.Janitors:
        api: Any = Api(uids)
        return janitors.Janitors(self.settings, api, self.broker, measures=self.measures, clock=lambda: 4e9)

    async def make(self, namespace: str, uid: str, installation: str = "") -> str:
        """A stream with an event that is older than any retention, to a clock of the year 2096."""
        where = Installation(name=installation, broker=bindings.Broker(urls=list(self.settings.nats_urls)))
        stream = bindings.app_stream(Owner(namespace=namespace, namespace_uid=uid), where)
        await admin.ensure_stream(self.js, stream)
        await self.js.publish(Outgoing(names.event(names.root(namespace, installation), "order"), b"{}"))
        return stream.name

    async def messages(self, stream: str) -> set[str]:
        return {subject.split(".")[2] for subject in await self.js.subjects(stream, ">")}


@pytest.fixture
async def place(nats: NatsServer) -> AsyncIterator[Place]:
    connection = await connections.connect([nats.url], name="test", wait=5)
    found = Place(JetStream(connection), nats.url)
    running = asyncio.create_task(found.broker.run())
    try:
        await waits.until(lambda: found.broker.is_connected, "the operator's connection")
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await connection.close()


async def test_only_streams_of_living_namespaces_of_this_cluster_are_swept(place: Place) -> None:
    ours = await place.make("shop", "u1")
    others = [
        await place.make("blog", "of another cluster"),
        await place.make("gone", "u3"),
        await place.make("shop", "u1", installation="blue"),
    ]
    await place.janitors({"shop": "u1", "blog": "u2"}).sweep()
    assert await place.messages(ours) == {"meta"}
    assert [await place.messages(other) for other in others] == [{"evt"}] * 3
    text = place.measures.text().decode()
    assert 'bema_operator_purged_messages_total{app="shop",what="events"} 1.0' in text
    assert 'bema_operator_app_storage_ratio{app="shop"}' in text
    assert 'app="blog"' not in text


async def test_an_app_that_cannot_be_swept_keeps_no_other_from_it(place: Place) -> None:
    first, second = await place.make("a", "u1"), await place.make("b", "u2")
    config = (await place.js.api(f"STREAM.INFO.{first}"))["config"]
    await place.js.api(f"STREAM.UPDATE.{first}", {**config, "sealed": True})
    await place.janitors({"a": "u1", "b": "u2"}).sweep()
    assert await place.messages(second) == {"meta"}
    assert "evt" in await place.messages(first)


async def test_what_became_of_overdue_timers_is_measured(place: Place) -> None:
    stream = await place.make("shop", "u1")
    root = names.root("shop")
    for run in ("ended", "forgotten"):
        headers = {SCHEDULE: "@at 2095-01-01T00:00:00Z", SCHEDULE_TARGET: names.retry(root, "pay", run)}
        await place.js.publish(Outgoing(names.retry_timer(root, "pay", run), b"{}", headers))
    await place.js.publish(Outgoing(names.end(root, "pay", "api", "ended"), b"{}"))
    await place.janitors({"shop": "u1"}).sweep()
    text = place.measures.text().decode()
    assert 'bema_operator_stuck_timers_total{app="shop"} 1.0' in text
    assert 'bema_operator_leftover_timers_total{app="shop"} 1.0' in text
    assert await place.js.subjects(stream, names.timers(root)) == [names.retry_timer(root, "pay", "forgotten")]


async def test_what_only_the_operator_knows_of_the_broker_is_measured(place: Place) -> None:
    def measured(name: str, **labels: str) -> float | None:
        return place.measures.registry.get_sample_value(f"bema_operator_broker_{name}", labels)

    version = ".".join(map(str, place.js.connection.server_version))
    await waits.until(lambda: measured("connected") == 1, "the connection to be measured")
    assert measured("info", version=version) == 1
    assert math.isnan(measured("clock_skew_seconds") or 0)
    await place.make("shop", "u1")
    await place.broker.look()
    assert abs(measured("clock_skew_seconds") or 9) < 1
