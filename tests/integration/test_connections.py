"""A publish over a connection that breaks: acknowledged or failed, and nothing that failed is sent later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from bema.contract import bindings, errors, names
from bema.contract.bindings import Broker, Installation, Owner
from bema.ports import admin, connections
from bema.ports.connections import Connection
from bema.ports.jetstream import JetStream, Outgoing
from tests.support import waits
from tests.support.brokers import NatsServer
from tests.support.proxies import Proxy

# The client's attempts that a cut network refuses leave their sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = names.root("shop")
STREAM = names.stream("shop")


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(nats.port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()


@pytest.fixture
async def direct(nats: NatsServer) -> AsyncIterator[JetStream]:
    """A way around the proxy, and the app's stream."""
    connection = await connections.connect([nats.url], name="direct", wait=5)
    try:
        js = JetStream(connection)
        installation = Installation(broker=Broker(urls=[nats.url]))
        await admin.ensure_stream(js, bindings.app_stream(Owner(namespace="shop"), installation))
        yield js
    finally:
        await connection.close()


@pytest.fixture
async def broken(proxy: Proxy) -> AsyncIterator[Connection]:
    connection = await connections.connect([proxy.url], name="broken", wait=5)
    try:
        yield connection
    finally:
        await connection.close()


async def publish(js: JetStream, number: int, size: int = 0) -> bool | None:
    """Whether it was stored, says the answer; None for a failure."""
    subject = names.event(ROOT, f"t{number}")
    try:
        await js.publish(Outgoing(subject, b"x" * size), timeout=1)
    except errors.BrokerUnavailable:
        return None
    return True


async def stored(js: JetStream) -> set[int]:
    return {int(subject.rpartition(".t")[2]) for subject in await js.subjects(STREAM, f"{ROOT}.evt.>")}


async def test_what_was_reported_failed_is_not_sent_by_a_later_connection(
    proxy: Proxy, direct: JetStream, broken: Connection
) -> None:
    js = JetStream(broken)
    assert await publish(js, 0)
    proxy.up.hold()
    # More than all buffers on the way can hold; what follows does not even reach the socket
    failed = await asyncio.gather(*(publish(js, number, 700_000) for number in range(1, 41)))
    failed += await asyncio.gather(*(publish(js, number) for number in range(41, 61)))
    assert failed == [None] * 60
    proxy.cut()
    await waits.until(lambda: not broken.is_connected, "the loss to be noticed")
    before = await stored(direct)
    proxy.mend()
    await broken.wait_connected(10)
    assert await publish(js, 99)
    assert await stored(direct) == before | {99}
    assert before == {0}


async def test_a_network_that_swallows_everything_is_left_for_a_new_connection(
    proxy: Proxy, direct: JetStream, broken: Connection
) -> None:
    js = JetStream(broken)
    assert await publish(js, 0)
    proxy.up.hold()
    proxy.down.hold()
    failed = await asyncio.gather(*(publish(js, number, 700_000) for number in range(1, 41)))
    assert failed == [None] * 40
    # Pings go unanswered; the connection is given up though what it was given never left
    await waits.until(lambda: not broken.is_connected, "the loss to be noticed", timeout=30)
    proxy.mend()
    began = time.monotonic()
    await broken.wait_connected(10)
    assert time.monotonic() - began < 5
    assert await publish(js, 99)
    sent = await stored(direct)
    assert {0, 99} <= sent
    assert len(sent) < 10, "what was still in this process did not follow"


async def test_who_must_know_its_broker_writes_nothing_before_it_has_looked(
    nats: NatsServer, direct: JetStream, broken: Connection
) -> None:
    js = JetStream(broken)
    broken.know(broken.losses)
    assert await publish(js, 0)
    nats.stop()
    await waits.until(lambda: not broken.is_connected, "the loss to be noticed")
    nats.start()
    await broken.wait_connected(10)
    assert await publish(js, 1) is None
    broken.know(broken.losses)
    assert await publish(js, 2)
    await direct.connection.wait_connected(10)
    assert await stored(direct) == {0, 2}
