"""What receiving rests on: acknowledgements, redeliveries, limits, and what of a consumer can be changed."""

from __future__ import annotations

import json

import pytest

from bema.contract import errors
from tests.support import facts, waits
from tests.support.facts import Place, delivered

OVERLAPPING = 10138


async def test_the_floor_of_an_idle_consumer_stays_behind(place: Place) -> None:
    await place.consumer("c", filter_subjects=[place.subject("a")])
    await place.put("a")
    [message] = await place.pull("c", 1)
    await place.answer(message, b"+ACK")
    for _ in range(5):
        await place.put("b")
    info = await place.consumer_info("c")
    assert (info["ack_floor"]["stream_seq"], info["num_pending"], info["num_ack_pending"]) == (1, 0, 0)


async def test_a_late_ack_of_an_earlier_delivery_counts(place: Place) -> None:
    """Acks are not fenced: the marker is."""
    await place.consumer("c", ack_wait=int(0.3e9))
    await place.put("a")
    [first] = await place.pull("c", 1)
    [second] = await place.pull("c", 1)
    assert (delivered(first), delivered(second)) == (1, 2)
    await place.answer(first, b"+ACK")
    assert (await place.consumer_info("c"))["num_ack_pending"] == 0


async def test_an_ack_is_believed_whatever_message_it_was_about(place: Place) -> None:
    """Only the sequence counts, also that of a stream which is gone: therefore a runtime must know its stream."""
    await place.consumer("c")
    await place.put("a")
    [old] = await place.pull("c", 1)
    await place.js.api(f"STREAM.DELETE.{place.name}")
    await place.make()
    await place.consumer("c")
    await place.put("another")
    assert len(await place.pull("c", 1)) == 1
    await place.answer(old, b"+ACK")
    assert (await place.consumer_info("c"))["num_ack_pending"] == 0


async def test_a_word_in_time_keeps_an_event_in_hand(place: Place) -> None:
    await place.consumer("c", ack_wait=int(0.6e9))
    await place.put("a")
    [message] = await place.pull("c", 1)
    for _ in range(8):
        await place.answer(message, b"+WPI")
        assert await place.pull("c", 1, seconds=0.2) == []
    [again] = await place.pull("c", 1)
    assert delivered(again) == 2


async def test_a_nak_brings_it_back_at_once(place: Place) -> None:
    await place.consumer("c")
    await place.put("a")
    [message] = await place.pull("c", 1)
    await place.answer(message, b"-NAK")
    [again] = await place.pull("c", 1, seconds=3)
    assert delivered(again) == 2


async def test_a_nak_with_a_delay_uses_up_a_place_meanwhile(place: Place) -> None:
    """Therefore retries are schedules: these stall a consumer with work waiting."""
    await place.consumer("c", max_ack_pending=2)
    for _ in range(3):
        await place.put("a")
    for message in await place.pull("c", 2):
        await place.answer(message, b"-NAK " + json.dumps({"delay": int(20e9)}).encode())
    assert (await place.consumer_info("c"))["num_ack_pending"] == 2
    assert await place.pull("c", 1, seconds=0.5) == []


async def test_no_more_are_delivered_than_may_be_pending(place: Place) -> None:
    await place.consumer("c", max_ack_pending=3)
    for _ in range(5):
        await place.put("a")
    held = await place.pull("c", 5, seconds=0.5)
    assert len(held) == 3
    await place.answer(held[0], b"+ACK")
    assert len(await place.pull("c", 1, seconds=3)) == 1


CHANGES = {
    "filter_subjects": ["{name}.a", "{name}.b"],
    "max_ack_pending": 77,
    "ack_wait": int(5e9),
    "metadata": {"x": "y"},
    "max_deliver": 9,
}


@pytest.mark.parametrize("field", CHANGES)
async def test_changed_in_place(place: Place, field: str) -> None:
    await place.consumer("c", filter_subjects=[place.subject("a")])
    await place.put("a")
    await place.pull("c", 1)
    wanted = CHANGES[field]
    if isinstance(wanted, list):
        wanted = [subject.format(name=place.name) for subject in wanted]
    await place.consumer("c", **{"filter_subjects": [place.subject("a")], field: wanted})
    info = await place.consumer_info("c")
    found = info["config"][field]
    assert wanted.items() <= found.items() if isinstance(wanted, dict) else found == wanted
    assert info["num_ack_pending"] == 1, "its position stays"


@pytest.mark.parametrize(
    "change",
    [
        {"deliver_policy": "new"},
        {"deliver_policy": "by_start_sequence", "opt_start_seq": 3},
        {"ack_policy": "none"},
        {"replay_policy": "original"},
        {"max_waiting": 7},
    ],
    ids=lambda change: next(reversed(change)),
)
async def test_never_changed(place: Place, change: dict[str, object]) -> None:
    await place.consumer("c")
    with pytest.raises(errors.BrokerRefused):
        await place.consumer("c", **change)


async def test_a_topic_that_leaves_the_filter_takes_its_backlog_along(place: Place) -> None:
    both, one = [place.subject("a"), place.subject("b")], [place.subject("a")]
    await place.consumer("c", filter_subjects=both)
    await place.put("b")
    await place.put("a")
    [first] = await place.pull("c", 1)
    await place.answer(first, b"+ACK")
    await place.put("b")
    await place.put("a")
    await place.consumer("c", filter_subjects=one)
    for message in await place.pull("c", 2, seconds=1):
        await place.answer(message, b"+ACK")
    await place.consumer("c", filter_subjects=both)
    assert await place.pull("c", 1, seconds=0.5) == []
    assert len(await place.all("b")) == 2


async def test_filters_of_one_consumer_may_not_overlap(place: Place) -> None:
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.consumer("c", filter_subjects=[place.subject("*"), place.subject("a")])
    assert refused.value.code == OVERLAPPING


async def test_consumers_of_one_stream_may(place: Place) -> None:
    for durable in ("c", "d"):
        await place.consumer(durable, filter_subjects=[place.subject("*")])
    await place.put("a")
    assert [len(await place.pull(durable, 1)) for durable in ("c", "d")] == [1, 1]


async def test_a_paused_consumer_delivers_nothing_and_still_takes_answers(place: Place) -> None:
    await place.consumer("c", ack_wait=int(0.3e9))
    await place.put("a")
    await place.put("b")
    [message] = await place.pull("c", 1)
    pause = f"CONSUMER.PAUSE.{place.name}.c"
    await place.js.api(pause, {"pause_until": "2099-01-01T00:00:00Z"})
    assert await place.pull("c", 1, seconds=1) == [], "no redelivery either"
    await place.answer(message, b"+ACK")
    assert (await place.consumer_info("c"))["num_ack_pending"] == 0
    await place.js.api(pause, {})
    assert [message.subject for message in await place.pull("c", 1, seconds=3)] == [place.subject("b")]


async def test_a_consumer_begins_where_it_is_told_to(place: Place) -> None:
    for _ in range(4):
        await place.put("a")
    await place.consumer("c", deliver_policy="by_start_sequence", opt_start_seq=3)
    assert len(await place.pull("c", 4, seconds=0.5)) == 2


async def test_a_deleted_consumer_tells_who_waits(place: Place) -> None:
    await place.consumer("c")
    inbox = place.js.connection.new_inbox()
    heard: list[str] = []
    await place.js.connection.listen(inbox, lambda burst: heard.extend(str(message.status) for message in burst))
    body = json.dumps({"batch": 1, "expires": int(20e9)}).encode()
    command = facts.publish_command(f"$JS.API.CONSUMER.MSG.NEXT.{place.name}.c", body, reply=inbox)
    await place.js.connection.write(command)

    async def waiting() -> bool:
        return bool((await place.consumer_info("c"))["num_waiting"])

    await waits.until(waiting, "the request to be waiting")
    await place.js.api(f"CONSUMER.DELETE.{place.name}.c")
    await waits.until(lambda: heard, "a word")
    assert heard == ["409"]
