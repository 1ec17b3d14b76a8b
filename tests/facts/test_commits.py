"""What a commit rests on: atomic batches, expected sequences, and what message ids are not."""

from __future__ import annotations

import secrets
import signal

import pytest

from bema.contract import errors
from bema.ports.jetstream import BATCH_ID, WRONG_SEQUENCE, Outgoing
from tests.support import facts, waits
from tests.support.brokers import NatsServer
from tests.support.facts import Place, raw_batch

GAP = 10176
TOO_LARGE = 10199


async def test_a_batch_is_stored_whole_with_all_it_expected(place: Place) -> None:
    first = await place.put("value", b"1")
    last = await place.js.publish_batch(
        [
            Outgoing(place.subject("end"), b"", expected=0),
            Outgoing(place.subject("value"), b"2", expected=first),
            Outgoing(place.subject("event"), b"3"),
        ]
    )
    assert (last, await place.count()) == (first + 3, 4)


async def test_a_batch_of_one_is_told_by_its_id_like_any_other(place: Place) -> None:
    sequence = await place.js.publish_batch([Outgoing(place.subject("alone"), b"1")], id="one", always=True)
    stored = await place.last("alone")
    assert stored is not None
    assert (stored.sequence, stored.headers[BATCH_ID], await place.count()) == (sequence, "one", 1)


@pytest.mark.parametrize("wrong", [0, 1, 2], ids=["first", "middle", "last"])
async def test_one_member_that_met_another_sequence_refuses_all(place: Place, wrong: int) -> None:
    await place.put("value", b"1")
    batch = [Outgoing(place.subject(f"s{number}")) for number in range(3)]
    batch[wrong] = Outgoing(place.subject("value"), b"2", expected=77)
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.js.publish_batch(batch)
    assert refused.value.code in WRONG_SEQUENCE
    assert await place.count() == 1


async def test_a_marker_that_expects_to_be_the_first_refuses_a_second_commit(place: Place) -> None:
    batch = [Outgoing(place.subject("end"), expected=0), Outgoing(place.subject("event"))]
    await place.js.publish_batch(batch)
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.js.publish_batch(batch)
    assert refused.value.code in WRONG_SEQUENCE
    assert await place.count() == 2


async def test_a_gap_refuses_all(place: Place) -> None:
    batch = secrets.token_hex(4)
    block = f"NATS/1.0\r\nNats-Batch-Id: {batch}\r\nNats-Batch-Sequence: 3\r\nNats-Batch-Commit: 1\r\n\r\n".encode()
    before = raw_batch(place, batch, [(1, "a")], commit=False)
    answer = await place.js.connection.request(place.subject("c"), b"", headers=block, before=before)
    assert str(GAP).encode() in answer.data
    assert await place.count() == 0


async def test_a_batch_holds_a_thousand_messages(place: Place) -> None:
    await place.js.publish_batch([Outgoing(place.subject(f"s{number}")) for number in range(1000)])
    assert await place.count() == 1000


async def test_and_not_one_more(place: Place) -> None:
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.js.publish_batch([Outgoing(place.subject(f"s{number}")) for number in range(1001)])
    assert refused.value.code == TOO_LARGE
    assert await place.count() == 0


async def test_fifty_batches_may_be_open_and_the_next_one_is_refused(place: Place) -> None:
    opened = b"".join(raw_batch(place, f"open{number}", [(1, "a")], commit=False) for number in range(50))
    await place.js.connection.write(opened)
    with pytest.raises(errors.BrokerRefused) as refused:
        await place.js.publish_batch([Outgoing(place.subject("b")), Outgoing(place.subject("c"))])
    assert refused.value.code == GAP, "its first message was refused, and only the last one has an answer"
    assert await place.count() == 0


async def test_a_batch_that_is_never_ended_leaves_nothing_and_is_forgotten_after_ten_seconds(place: Place) -> None:
    await place.js.connection.write(
        b"".join(raw_batch(place, f"open{number}", [(1, "a")], commit=False) for number in range(50))
    )

    async def accepted() -> bool:
        try:
            await place.js.publish_batch([Outgoing(place.subject("b")), Outgoing(place.subject("c"))])
        except errors.BrokerRefused:
            return False
        return True

    await waits.until(accepted, "room for a batch again", timeout=25)
    assert {stored.subject.rpartition(".")[2] for stored in await place.all(">")} == {"b", "c"}


async def test_a_message_id_is_forgotten_after_its_window(place: Place) -> None:
    await place.js.api(f"STREAM.UPDATE.{place.name}", place.config(duplicate_window=int(0.2e9)))
    await place.put("a", Nats_Msg_Id="one")

    async def stored_again() -> bool:
        await place.put("a", Nats_Msg_Id="one")
        return await place.count() == 2

    await waits.until(stored_again, "the id to be taken again")


async def test_a_message_id_is_forgotten_by_a_restart_when_its_message_was_replaced(own: NatsServer) -> None:
    async with facts.connected(own.url, "IDS") as place:
        await place.make()
        await place.put("a", b"1", Nats_Msg_Id="one", Nats_Rollup="sub")
        await place.put("a", b"2", Nats_Msg_Id="two", Nats_Rollup="sub")
    own.stop(signal.SIGKILL)
    own.start()
    async with facts.connected(own.url, "IDS") as place:
        await place.put("a", b"1 again", Nats_Msg_Id="one", Nats_Rollup="sub")
        found = await place.last("a")
    assert found is not None
    assert found.data == b"1 again"


async def test_one_known_message_id_refuses_a_whole_batch(place: Place) -> None:
    await place.put("a", Nats_Msg_Id="one")
    known = Outgoing(place.subject("a"), headers={"Nats-Msg-Id": "one"})
    with pytest.raises(errors.BrokerRefused):
        await place.js.publish_batch([Outgoing(place.subject("b")), known])
    assert await place.count() == 1
