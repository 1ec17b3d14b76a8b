"""What reading and clearing away rest on: reads by the leader, direct reads in pages, purges with a bound."""

from __future__ import annotations

import pytest

from bema.contract import errors
from bema.ports.jetstream import Outgoing
from tests.support.facts import Place


async def test_the_leader_gives_the_last_message_of_a_subject_with_its_headers(place: Place) -> None:
    await place.put("a", b"1")
    sequence = await place.put("a", b"2", X_Ours="yes")
    found = await place.last("a")
    assert found is not None
    assert (found.sequence, found.data, found.headers["X-Ours"]) == (sequence, b"2", "yes")
    assert await place.last("b") is None


async def test_the_leader_gives_the_next_message_that_a_filter_matches(place: Place) -> None:
    for number in range(6):
        await place.put(f"{'ab'[number % 2]}.{number}")
    found = await place.js.get_next(place.name, place.subject("b.*"), start=3)
    assert found is not None
    assert found.sequence == 4
    assert await place.js.get_next(place.name, place.subject("b.*"), start=7) is None


async def test_direct_reads_page_through_a_filter_in_order(place: Place) -> None:
    """Each page is one request; more than a thousand subjects are no limit to them."""
    for start in range(0, 1500, 500):
        batch = [
            Outgoing(place.subject("key", str(number)), str(number).encode()) for number in range(start, start + 500)
        ]
        await place.js.publish_batch(batch)
        await place.put("other")
    found = await place.all("key.*")
    assert [int(stored.data) for stored in found] == list(range(1500))


async def test_the_last_of_many_subjects_at_once_ends_at_1024(place: Place) -> None:
    """Therefore lists page by sequence."""
    for start in (0, 600):
        await place.js.publish_batch([Outgoing(place.subject("key", str(start + number))) for number in range(600)])
    endpoint = f"$JS.API.DIRECT.GET.{place.name}"
    body = b'{"multi_last": ["%s"]}' % place.subject("key.*").encode()
    answer = await place.js.connection.request(endpoint, body)
    assert answer.status == "413"


async def test_a_purge_stays_below_its_bound_and_within_its_filter(place: Place) -> None:
    for number in range(10):
        await place.put("ab"[number % 2])
    assert await place.js.purge(place.name, place.subject("a"), below=6) == 3
    assert [stored.sequence for stored in await place.all("a")] == [7, 9]
    assert len(await place.all("b")) == 5


async def test_a_purge_has_a_bound_or_a_number_to_keep_and_not_both(place: Place) -> None:
    await place.put("a")
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.js.api(f"STREAM.PURGE.{place.name}", {"filter": place.subject("a"), "seq": 5, "keep": 1})
    assert refused.value.code == 10003
    assert await place.count() == 1


async def test_what_was_purged_is_not_the_last_of_its_subject_any_more(place: Place) -> None:
    """`expected 0` is met again: a marker may only go when nobody can commit its run again."""
    sequence = await place.put("end", expected=0)
    await place.js.purge(place.name, place.subject("end"), below=sequence + 1)
    await place.put("end", expected=0)


@pytest.mark.parametrize(
    "change",
    [{"storage": "memory"}, {"retention": "workqueue"}, {"allow_msg_ttl": False}, {"allow_msg_schedules": False}],
    ids=lambda change: next(iter(change)),
)
async def test_what_a_stream_is_made_with_for_good(place: Place, change: dict[str, object]) -> None:
    with pytest.raises(errors.BrokerRefused):
        await place.js.api(f"STREAM.UPDATE.{place.name}", place.config(**change))


@pytest.mark.since("2.14.6")
async def test_a_stream_with_schedules_cannot_refuse_when_it_is_full(place: Place) -> None:
    with pytest.raises(errors.BrokerRefused):
        await place.js.api(f"STREAM.UPDATE.{place.name}", place.config(discard="new", max_msgs=10))
