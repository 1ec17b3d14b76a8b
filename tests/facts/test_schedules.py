"""What delays, retries and timers rest on: `@at` schedules."""

from __future__ import annotations

import datetime
import signal
import time

from bema.ports.jetstream import ROLLUP, SCHEDULE, TTL, Outgoing, Stored
from tests.support import facts, waits
from tests.support.brokers import NatsServer
from tests.support.facts import Place


async def fired(place: Place, id: str) -> Stored:
    found: Stored = await waits.until(lambda: place.last(f"fired.{id}"), f"timer {id} to fire")
    return found


def stored_at(stored: Stored) -> float:
    return datetime.datetime.fromisoformat(stored.time).timestamp()


async def test_a_timer_fires_once_not_early_and_leaves_nothing_behind(place: Place) -> None:
    at = round(time.time() + 0.6, 3)
    await place.js.publish(place.schedule("a", at=at, data=b"data"))
    found = await fired(place, "a")
    assert found.data == b"data"
    assert 0 <= stored_at(found) - at < 2
    await facts.settle(1.2)
    assert (await place.count(), await place.last("timer.a")) == (1, None)


async def test_what_fires_keeps_headers_of_ours_and_loses_those_of_its_publish(place: Place) -> None:
    headers = {"Bema-Run": "r1", "ce-id": "e1", "Nats-Msg-Id": "m1", ROLLUP: "sub"}
    timer = place.schedule("a", at=time.time() + 0.2, more=headers)
    timer.expected = 0
    await place.js.publish(timer)
    found = (await fired(place, "a")).headers
    assert (found["Bema-Run"], found["ce-id"]) == ("r1", "e1")
    assert not {name for name in found if name.startswith(("Nats-Msg-Id", "Nats-Expected", TTL)) or name == SCHEDULE}


async def test_what_a_batch_has_set_still_carries_the_batch_s_id_when_it_fires(place: Place) -> None:
    """So what is read and published again must not carry it along: the janitor's second publish."""
    await place.js.publish_batch([Outgoing(place.subject("end")), place.schedule("a", at=time.time() + 0.2)])
    assert "Nats-Batch-Id" in (await fired(place, "a")).headers


async def test_a_timer_set_anew_fires_at_its_new_time_only(place: Place) -> None:
    await place.js.publish(place.schedule("a", at=time.time() + 0.5, data=b"old", more={ROLLUP: "sub"}))
    await place.js.publish(place.schedule("a", at=time.time() + 1.2, data=b"new", more={ROLLUP: "sub"}))
    assert (await fired(place, "a")).data == b"new"
    await facts.settle(0.5)
    assert len(await place.all("fired.>")) == 1


async def test_a_tombstone_cancels_a_timer_and_leaves_nothing(place: Place) -> None:
    await place.js.publish(place.schedule("a", at=time.time() + 0.5))
    await place.put("timer.a", b"", Nats_Rollup="sub", Nats_TTL="1s")

    async def empty() -> bool:
        return await place.count() == 0

    await waits.until(empty, "an empty stream")
    await facts.settle(0.5)
    assert await place.count() == 0


async def test_a_plain_message_on_its_subject_cancels_a_timer_too(place: Place) -> None:
    await place.js.publish(place.schedule("a", at=time.time() + 0.5))
    await place.put("timer.a", b"plain")
    await facts.settle(1.5)
    assert await place.last("fired.a") is None


async def test_and_leaves_the_cancelled_one_stored(place: Place) -> None:
    """Therefore we cancel by a rollup."""
    await place.js.publish(place.schedule("a", at=time.time() + 0.5))
    await place.put("timer.a", b"plain")
    await facts.settle(1.5)
    assert len(await place.all("timer.a")) == 2


async def test_a_timer_may_expect_the_sequence_of_the_one_it_replaces(place: Place) -> None:
    first = await place.js.publish(place.schedule("a", at=time.time() + 30))
    again = place.schedule("a", at=time.time() + 0.2, data=b"new", more={ROLLUP: "sub"})
    again.expected = first
    await place.js.publish(again)
    assert (await fired(place, "a")).data == b"new"


async def test_timers_that_fell_due_while_the_server_was_away_fire_when_it_is_back_once(own: NatsServer) -> None:
    async with facts.connected(own.url, "AWAY") as place:
        await place.make()
        at = time.time() + 1
        await place.js.publish_batch([place.schedule(str(number), at=at) for number in range(50)])
        await place.js.publish(place.schedule("later", at=at + 3))
    own.stop(signal.SIGKILL)
    await facts.settle(1.2)
    own.start()
    async with facts.connected(own.url, "AWAY") as place:

        async def all_fired() -> bool:
            return len(await place.js.subjects(place.name, place.subject("fired.>"))) == 51

        await waits.until(all_fired, "all timers to fire", timeout=20)
        assert len(await place.all("fired.>")) == 51
        assert await place.all("timer.>") == []


TIMERS = 50


async def fire_and_cancel(place: Place) -> None:
    """Timers that have fired, others that were cancelled, and nothing left of either, in a file that is worn."""
    await place.make()
    await facts.wear(place)
    await place.js.publish_batch([place.schedule(str(number), at=time.time() + 0.2) for number in range(TIMERS)])
    await place.js.publish_batch([place.schedule(f"c{number}", at=time.time() + 3600) for number in range(TIMERS)])
    for number in range(TIMERS):
        await place.put(f"timer.c{number}", b"", Nats_Rollup="sub", Nats_TTL="1s")
    await waits.until(lambda: _gone(place), "all timers to be gone")
    assert len(await place.all("fired.>")) == TIMERS
    await facts.fill_up(place)


async def _gone(place: Place) -> bool:
    return await place.all("timer.>") == []


async def test_a_server_that_is_killed_twice_fires_again_what_had_fired_and_brings_back_what_was_cancelled(
    own: NatsServer,
) -> None:
    """The first recovery drops from a worn file what says that they were removed. Therefore the janitor asks whether a
    timer has fired, and an event carries the same id each time."""
    async with facts.connected(own.url, "TWICE") as place:
        await fire_and_cancel(place)
    await facts.restart(own, "TWICE", signal.SIGKILL)
    async with facts.connected(own.url, "TWICE") as place:
        assert (len(await place.all("fired.>")), await place.all("timer.>")) == (TIMERS, [])
    await facts.restart(own, "TWICE", signal.SIGKILL)
    async with facts.connected(own.url, "TWICE") as place:

        async def again() -> bool:
            return len(await place.all("fired.>")) == 2 * TIMERS

        await waits.until(again, "all timers to fire again")
        assert len(await place.js.subjects(place.name, place.subject("timer.>"))) == TIMERS, "the cancelled ones"


async def test_and_brings_them_back_when_it_was_stopped_in_between(own: NatsServer) -> None:
    """Those that it takes for scheduled fire again. The others stay, usually all: nothing is left that would fire
    them."""
    async with facts.connected(own.url, "STOPPED") as place:
        await fire_and_cancel(place)
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        await facts.restart(own, "STOPPED", how)
        await facts.settle(2)
    async with facts.connected(own.url, "STOPPED") as place:
        again = len(await place.all("fired.>")) - TIMERS
        there = set(await place.js.subjects(place.name, place.subject("timer.>")))
        left = there & {place.subject("timer", str(number)) for number in range(TIMERS)}
        assert again + len(left) == TIMERS
