"""What the quota rests on: what a server does whose store is full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bema.contract import errors
from bema.ports.jetstream import ROLLUP, Outgoing
from tests.support import brokers, facts, waits
from tests.support.brokers import NatsServer
from tests.support.facts import Place

MIB = 1 << 20
NO_ROOM = 10023


@pytest.fixture
def small(program: Path, tmp_path: Path) -> Iterator[NatsServer]:
    with brokers.running(tmp_path, store_bytes=8 * MIB, program=program) as server:
        yield server


async def fill(place: Place) -> errors.BrokerRefused:
    while True:
        try:
            await place.put("fill", bytes(MIB // 4))
        except errors.BrokerRefused as refused:
            return refused


async def test_a_full_store_refuses_and_takes_again_after_a_purge(small: NatsServer) -> None:
    async with facts.connected(small.url, "FULL") as place:
        await place.make()
        refused = await fill(place)
        assert refused.code == NO_ROOM
        held = await place.count()
        with pytest.raises(errors.BrokerRefused) as batch:
            await place.js.publish_batch(
                [Outgoing(place.subject("end")), Outgoing(place.subject("fill"), bytes(MIB // 2))]
            )
        assert batch.value.code == NO_ROOM
        assert await place.count() == held, "nothing was discarded to make room"
        await place.js.purge(place.name, place.subject("fill"), below=None)
        await place.put("fill", b"1")


async def test_a_batch_that_is_larger_than_the_room_left_is_stored_in_part(small: NatsServer) -> None:
    """The limit is looked at before each message, and none is refused for its own size. 2.15.1 gives no answer, those
    before say that there is no room."""
    async with facts.connected(small.url, "FULL") as place:
        await place.make()
        while 8 * MIB - int((await place.js.api("INFO"))["storage"]) > MIB // 4:
            await place.put("fill", bytes(MIB // 8))
        batch = [Outgoing(place.subject("part", str(number)), bytes(1000)) for number in range(400)]
        with pytest.raises(errors.BrokerError):
            await place.js.publish_batch(batch, timeout=1)
        part = [stored.subject for stored in await place.all("part.*")]
        assert 0 < len(part) < len(batch)
        assert part == [message.subject for message in batch[: len(part)]]


async def test_timers_that_fell_due_in_a_full_store_fire_when_they_are_set_again(small: NatsServer) -> None:
    async with facts.connected(small.url, "FULL") as place:
        await place.make()
        timer = place.schedule("a", at=time.time() + 1.5, data=bytes(MIB // 4), more={ROLLUP: "sub"})
        await place.js.publish(timer)
        await fill(place)
        await facts.settle(2)
        assert await place.last("fired.a") is None
        await place.js.purge(place.name, place.subject("fill"), below=None)
        await place.js.publish(timer)
        await waits.until(lambda: place.last("fired.a"), "the timer to fire")
        await facts.settle(1)
        assert (len(await place.all("fired.a")), await place.last("timer.a")) == (1, None)


async def test_and_not_by_themselves(small: NatsServer) -> None:
    """Therefore the janitor sets again what is overdue."""
    async with facts.connected(small.url, "FULL") as place:
        await place.make()
        await place.js.publish(place.schedule("a", at=time.time() + 1.5, data=bytes(MIB // 4)))
        await fill(place)
        await facts.settle(2)
        await place.js.purge(place.name, place.subject("fill"), below=None)
        await facts.settle(5)
        assert await place.last("fired.a") is None
