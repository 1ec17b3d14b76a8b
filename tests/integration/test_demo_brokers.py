"""The demo's bare look at a broker: everything is read, nothing is left behind, and what is in hand is counted."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from nats import connect
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from tests.support import waits
from tests.support.brokers import NatsServer
from tools.demo import brokers
from tools.demo.brokers import Broker
from tools.demo.errors import DemoError

APP = "shop"


@dataclass
class Stage:
    """An app's stream, a client that plays Bema, and the broker under test."""

    client: Client
    broker: Broker

    async def put(self, words: str, data: bytes = b"{}") -> None:
        await self.client.jetstream().publish(f"bema.{APP}.{words}", data)


@pytest.fixture
async def stage(nats: NatsServer) -> AsyncIterator[Stage]:
    client = await connect(nats.url)
    config = {"name": f"BEMA-{APP}", "subjects": [f"bema.{APP}.>"], "allow_direct": True, "storage": "memory"}
    await client.request(f"$JS.API.STREAM.CREATE.BEMA-{APP}", json.dumps(config).encode())
    try:
        async with brokers.connected(nats.url, APP) as broker:
            yield Stage(client, broker)
    finally:
        await client.close()


async def test_everything_is_read_page_by_page(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "PAGE", 3)
    for number in range(10):
        await stage.put(f"state.orders.o-{number}", str(number).encode())
    entries = await stage.broker.entries()
    assert [(entry.sequence, entry.words, entry.data) for entry in entries] == [
        (number + 1, ("state", "orders", f"o-{number}"), str(number).encode()) for number in range(10)
    ]


async def test_an_empty_stream_holds_nothing(stage: Stage) -> None:
    assert await stage.broker.entries() == []
    assert await stage.broker.count("state.orders.*") == 0


async def test_a_wrong_event_is_stored_once_although_it_was_sent_twice(stage: Stage) -> None:
    first = await stage.broker.put_event("order.paid", b"[]", event_id="line-7")
    second = await stage.broker.put_event("order.paid", b"[]", event_id="line-7")
    assert first == second
    [entry] = await stage.broker.entries()
    assert entry.words == ("evt", "live", "0", "order.paid")
    assert entry.data == b"[]"


async def test_keys_are_counted_by_filter(stage: Stage) -> None:
    for words in ("state.orders.a", "state.orders.a", "state.orders.b", "state.stock.tea"):
        await stage.put(words)
    assert await stage.broker.count("state.orders.*") == 2


async def test_what_is_in_hand_is_told_from_what_was_delivered_again(stage: Stage) -> None:
    config = ConsumerConfig(durable_name="reserve", filter_subjects=[f"bema.{APP}.evt.*.*.order.created"], ack_wait=0.3)
    await stage.client.jetstream().add_consumer(f"BEMA-{APP}", config)
    for number in range(5):
        await stage.put(f"evt.live.{number}.order.created")

    async def all_waiting() -> bool:
        return await stage.broker.waiting() == 5

    await waits.until(all_waiting, "five events that wait")
    assert await stage.broker.in_hand() == 0
    pull = await stage.client.jetstream().pull_subscribe_bind("reserve", f"BEMA-{APP}")
    messages = await pull.fetch(3)
    assert await stage.broker.in_hand() == 3
    assert await stage.broker.in_hand("reserve") == 3
    assert await stage.broker.in_hand("another") == 0
    assert await stage.broker.repeated_deliveries() == 0
    await messages[0].ack_sync()
    again = [message for _ in range(2) for message in await pull.fetch(2, timeout=5)]
    assert await stage.broker.repeated_deliveries() == 2
    for message in again:
        await message.ack_sync()
    await waits.until(lambda: _is(stage.broker, 0), "nothing to be in hand")
    assert await stage.broker.repeated_deliveries() == 2


async def _is(broker: Broker, waiting: int) -> bool:
    return await broker.waiting() == waiting


async def test_a_refusal_is_said_at_once(nats: NatsServer) -> None:
    async with brokers.connected(nats.url, "nobody") as broker:
        with pytest.raises(DemoError, match=r"the broker refused .*stream not found"):
            await broker.consumers()


async def test_an_answer_is_waited_for_while_the_server_comes_back(stage: Stage, nats: NatsServer) -> None:
    nats.stop()
    nats.start()
    with pytest.raises(DemoError, match="stream not found"):
        await stage.broker.consumers()
