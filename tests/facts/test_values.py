"""What state and its lifetimes rest on: rollups and TTLs."""

from __future__ import annotations

import signal

import pytest

from bema.contract import errors
from bema.ports.jetstream import ROLLUP, TTL, WRONG_SEQUENCE, Outgoing
from tests.support import facts, waits
from tests.support.brokers import NatsServer
from tests.support.facts import Place


async def test_a_rollup_replaces_what_its_subject_held_and_nothing_else(place: Place) -> None:
    await place.put("value.a", b"1")
    await place.put("value.b", b"1")
    await place.put("value.a", b"2", Nats_Rollup="sub")
    found = await place.all("value.>")
    assert [(stored.subject.rpartition(".")[2], stored.data) for stored in found] == [("b", b"1"), ("a", b"2")]


async def test_a_rollup_is_refused_when_it_met_another_sequence(place: Place) -> None:
    first = await place.put("value", b"1", Nats_Rollup="sub")
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.put("value", b"2", expected=first + 5, Nats_Rollup="sub")
    assert refused.value.code in WRONG_SEQUENCE
    assert await place.put("value", b"3", expected=first, Nats_Rollup="sub") == first + 1


async def test_rollups_in_a_batch_replace_too(place: Place) -> None:
    for key in "ab":
        await place.put(f"value.{key}", b"1", Nats_Rollup="sub")
    await place.js.publish_batch(
        [
            Outgoing(place.subject("value", key), b"2", {ROLLUP: "sub"}, expected)
            for key, expected in (("a", 1), ("b", 2))
        ]
    )
    assert [stored.data for stored in await place.all("value.>")] == [b"2", b"2"]


async def test_a_message_with_a_lifetime_goes_silently(place: Place) -> None:
    """No marker is left and no other message goes."""
    await place.put("keeps", b"1")
    await place.put("goes", b"1", Nats_TTL="1s")
    await _gone(place, "goes")
    state = (await place.info())["state"]
    assert (state["messages"], state["last_seq"]) == (1, 2)


async def test_a_replacing_message_may_have_a_lifetime_and_takes_what_it_replaced_along(place: Place) -> None:
    await place.put("value", b"1", Nats_Rollup="sub")
    await place.js.publish_batch(
        [Outgoing(place.subject("end")), Outgoing(place.subject("value"), b"", {ROLLUP: "sub", TTL: "1s"}, 1)]
    )
    await _gone(place, "value")
    assert await place.count() == 1


async def test_a_message_that_replaces_one_with_a_lifetime_outlives_it(place: Place) -> None:
    await place.put("value", b"1", Nats_Rollup="sub", Nats_TTL="1s")
    await place.put("value", b"2", Nats_Rollup="sub")
    await place.put("clock", b"", Nats_TTL="2s")
    await _gone(place, "clock")
    found = await place.last("value")
    assert found is not None
    assert found.data == b"2"


async def test_an_expired_subject_counts_as_new(place: Place) -> None:
    """`expected 0` is met again: so a mark of deduplication ends with its window."""
    await place.put("dedup", b"1", expected=0, Nats_TTL="1s")
    await _gone(place, "dedup")
    await place.put("dedup", b"2", expected=0)


async def _gone(place: Place, subject: str) -> None:
    async def gone() -> bool:
        return await place.last(subject) is None

    await waits.until(gone, f"the end of {subject}")


async def test_a_value_whose_tombstone_has_expired_is_back_when_the_server_was_killed_twice(own: NatsServer) -> None:
    """So is each that was replaced, which nobody sees: the last one counts."""
    async with facts.connected(own.url, "TWICE") as place:
        await place.make()
        await facts.wear(place)
        await place.put("gone", b"value")
        await place.put("gone", b"", Nats_Rollup="sub", Nats_TTL="1s")

        async def expired() -> bool:
            return await place.last("gone") is None

        await waits.until(expired, "the tombstone to expire")
        await facts.fill_up(place)
    await facts.restart(own, "TWICE", signal.SIGKILL)
    async with facts.connected(own.url, "TWICE") as place:
        assert await place.last("gone") is None
    await facts.restart(own, "TWICE", signal.SIGKILL)
    async with facts.connected(own.url, "TWICE") as place:
        await waits.until(lambda: _is_back(place), "the value to be back")


async def _is_back(place: Place) -> bool:
    found = await place.last("gone")
    return found is not None and found.data == b"value"
