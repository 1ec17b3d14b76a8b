"""What the janitor removes from a real stream, and what it never does. Time is its clock's, which runs ahead."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bema.contract import errors, floors, names, retentions
from bema.contract.retentions import Level
from bema.ports import admin, timers
from bema.ports.jetstream import Stored
from tests.support import brokers, janitors, waits
from tests.support.janitors import DAY, HOUR, App

Log = pytest.LogCaptureFixture


@pytest.fixture
async def app(nats: brokers.NatsServer) -> AsyncIterator[App]:
    async with janitors.app(nats.url) as found:
        yield found


async def test_events_that_are_settled_and_old_go_and_others_stay(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.emit("order", 10)
    await app.settle("pay", 7)

    young = await app.sweep()
    assert young.purged["events"] == 0
    old = await app.sweep(ahead=DAY + 60)
    assert old.purged["events"] == 7
    assert await app.count("evt.>") == 3


async def test_events_are_kept_while_they_are_young(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.emit("order", 10)
    await app.settle("pay", 10)
    await app.sweep(ahead=DAY - 60)
    assert await app.count("evt.>") == 10


async def test_a_topic_waits_for_the_subscriber_that_is_behind(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.subscribe("ship", "order", "parcel")
    await app.emit("order", 10)
    await app.settle("pay", 10)
    await app.settle("ship", 4)
    await app.sweep(ahead=90 * DAY)
    assert await app.count("evt.>") == 6
    await app.settle("ship", 6)
    await app.sweep()
    assert await app.count("evt.>") == 0


async def test_a_step_that_never_ran_holds_its_topics_in_every_partition(app: App) -> None:
    await app.subscribe("suspended", "order")
    for partition in range(3):
        await app.emit("order", 5, partition=partition)
    await app.emit("nobody.hears", 5)
    await app.sweep(ahead=90 * DAY)
    assert await app.count("evt.*.*.order") == 15
    assert await app.count("evt.*.*.nobody.hears") == 0


async def test_an_idle_consumer_holds_nothing_although_its_ack_floor_stays_behind(app: App) -> None:
    """`pay` handled one event of a topic that then fell silent; it hears another that is busy elsewhere."""
    await app.subscribe("pay", "order", "refund")
    await app.subscribe("ship", "parcel")
    await app.emit("order")
    await app.settle("pay", 1)
    last = await app.emit("parcel", 50)
    await app.settle("ship", 50)
    assert (await app.states())["pay"].ack_floor < last - 40
    await app.sweep()
    record = await _record(app, "pay")
    assert record.floor >= last


async def test_a_consumer_that_was_idle_and_has_work_again_keeps_its_floor(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.emit("order")
    await app.settle("pay", 1)
    last = await app.emit("other", 50)
    await app.sweep()
    await app.emit("order")
    [message] = await app.take("pay", 1)
    await app.sweep()
    assert (await app.states())["pay"].ack_floor < last
    assert (await _record(app, "pay")).floor == last
    await app.answer("pay", [message])


async def test_an_idle_app_is_not_written_to(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.emit("order", 3)
    await app.settle("pay", 3)
    await app.sweep()
    last = (await app.js.api(f"STREAM.INFO.{app.stream}"))["state"]["last_seq"]
    for ahead in (30, 60, 90):
        await app.sweep(ahead=ahead)
    assert (await app.js.api(f"STREAM.INFO.{app.stream}"))["state"]["last_seq"] == last


async def test_markers_go_below_the_floor_as_it_stood_an_hour_ago(app: App) -> None:
    await app.subscribe("pay", "order")
    await _handle(app, "pay", 5)
    await app.sweep()
    await _handle(app, "pay", 5)
    await app.sweep(ahead=HOUR / 2)
    assert await app.count("end.pay.event.>") == 10, "nobody knows yet what the floor was an hour ago"

    await app.sweep(ahead=HOUR + 1)
    left = await app.count("end.pay.event.>")
    assert left == 5, "those below the floor of the first sweep are an hour behind it"
    await app.sweep(ahead=1.5 * HOUR + 1)
    assert await app.count("end.pay.event.>") == 0


async def test_the_floor_of_an_hour_ago_is_known_after_a_restart(app: App) -> None:
    await app.subscribe("pay", "order")
    await _handle(app, "pay", 5)
    await app.sweep()
    app.janitor = app.new_janitor()
    await _handle(app, "pay", 5)
    await app.sweep(ahead=HOUR + 1)
    assert await app.count("end.pay.event.>") == 5


async def test_markers_of_runs_that_no_consumer_started_stay(app: App) -> None:
    await app.subscribe("pay", "order")
    for kind in ("api", "cron"):
        await app.put(f"end.pay.{kind}.r1")
    await _handle(app, "pay", 1)
    await app.sweep()
    await app.sweep(ahead=2 * HOUR)
    assert await app.count("end.pay.event.>") == 0
    assert await app.count("end.pay.*.>") == 2


async def test_retries_go_below_the_floor_and_no_others(app: App) -> None:
    await app.subscribe("pay", "order")
    for run in range(5):
        await app.put(f"retry.pay.r{run}")
    await app.settle("pay", 3)
    await app.sweep()
    assert await app.count("retry.pay.>") == 2


async def test_what_is_not_the_janitors_stays_for_ever(app: App) -> None:
    kept = ["state.g.k", "stream.s.g.i", "dedup.t.i", "meta.owner"]
    for subject in kept:
        await app.put(subject)
    await app.put("timer.t", Nats_Schedule="@at 2099-01-01T00:00:00Z", Nats_Schedule_Target=f"{app.root}.retry.pay.r")
    await app.subscribe("pay", "order")
    await app.emit("order", 3)
    await app.settle("pay", 3)
    app.janitor = app.new_janitor(storage_bytes=100)
    await app.sweep()
    await app.sweep(ahead=400 * DAY)
    assert await app.count("evt.>") == 0
    assert [await app.count(subject) for subject in [*kept, "timer.>"]] == [1] * 5


async def test_dead_letters_are_kept_for_their_own_time(app: App) -> None:
    await app.put("dlq.pay.r1")
    await app.sweep(ahead=30 * DAY - 60)
    assert await app.count("dlq.>") == 1
    report = await app.sweep(ahead=30 * DAY + 60)
    assert report.purged["dead letters"] == 1


async def test_no_purge_removes_more_than_publishes_can_wait_for(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retentions, "MAX_PURGE", 20)
    counts: list[int] = []
    purge = app.js.purge

    async def counted(stream: str, subject_filter: str, *, below: int | None) -> int:
        counts.append(await purge(stream, subject_filter, below=below))
        return counts[-1]

    monkeypatch.setattr(app.js, "purge", counted)
    for _ in range(25):
        await app.emit("order", 4)
        await app.emit("other", 1)
    await app.sweep(ahead=2 * DAY)
    assert await app.count("evt.>") == 0
    assert sum(counts) == 125
    assert max(counts) <= 20


async def test_a_lost_consumer_begins_behind_its_floor_and_loses_nothing(app: App) -> None:
    await app.subscribe("pay", "order", uid="u1")
    await app.emit("order", 10)
    await app.settle("pay", 4)
    await app.sweep()
    await app.js.api(f"CONSUMER.DELETE.{app.stream}.pay")
    await app.sweep(ahead=90 * DAY)
    assert await app.count("evt.>") == 6, "what it had not settled is held while it is gone"

    await app.subscribe("pay", "order", uid="u1")
    again = await app.take("pay", 6)
    assert (await app.states())["pay"].pending == 0
    await app.answer("pay", again)
    await app.sweep()
    assert await app.count("evt.>") == 0


async def test_a_lost_consumer_is_not_given_again_what_it_had_settled(app: App) -> None:
    await app.subscribe("pay", "order", uid="u1")
    await app.emit("order", 10)
    await app.settle("pay", 4)
    await app.sweep()
    await app.settle("pay", 2)
    await app.js.api(f"CONSUMER.DELETE.{app.stream}.pay")
    await app.subscribe("pay", "order", uid="u1")
    assert (await app.states())["pay"].pending == 6, "all that came after the recorded floor, and nothing before it"


async def test_a_consumer_that_was_removed_on_purpose_begins_as_a_new_one(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.emit("order", 10)
    await app.settle("pay", 4)
    await app.sweep()
    await admin.delete_consumer(app.js, app.stream, "pay")
    await app.subscribe("pay", "order")
    assert (await app.states())["pay"].pending == 10


async def test_a_new_step_of_the_same_name_does_not_begin_where_the_other_was(app: App) -> None:
    await app.subscribe("pay", "order", uid="u1")
    await app.emit("order", 10)
    await app.settle("pay", 4)
    await app.sweep()
    await app.js.api(f"CONSUMER.DELETE.{app.stream}.pay")
    await app.subscribe("pay", "order", uid="u2")
    assert (await app.states())["pay"].pending == 10


async def test_a_consumer_that_stays_lost_holds_nothing_for_ever(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.subscribe("ship", "order")
    await _handle(app, "pay", 3)
    await app.emit("order", 7)
    await app.settle("ship", 10)
    await app.sweep()
    await app.js.api(f"CONSUMER.DELETE.{app.stream}.pay")
    await app.sweep(ahead=2 * DAY)
    assert await app.count("evt.>") == 7
    await app.sweep(ahead=2 * DAY + HOUR + 60)
    assert (await app.count("evt.>"), await app.count("end.pay.>")) == (0, 0)
    assert await app.count("meta.floor.pay") == 0


async def test_a_consumer_of_somebody_else_is_waited_for_too(app: App) -> None:
    config = {"durable_name": "audit", "ack_policy": "explicit", "deliver_policy": "all"}
    await app.js.api(f"CONSUMER.CREATE.{app.stream}.audit", {"stream_name": app.stream, "config": config})
    await app.emit("order", 3)
    await app.sweep(ahead=90 * DAY)
    assert await app.count("evt.>") == 3


async def test_a_stream_that_was_made_anew_is_looked_at_with_fresh_eyes(app: App, nats: brokers.NatsServer) -> None:
    await app.subscribe("pay", "order")
    await app.emit("order", 50)
    await app.settle("pay", 50)
    await app.set_timer("of.before", time.time() + 1000)
    await app.sweep()
    await app.js.api(f"STREAM.DELETE.{app.stream}")
    await app.make_stream(nats.url)
    await app.subscribe("pay", "order")
    await app.emit("order", 5)
    await app.set_timer("of.now", time.time() + 1000)
    assert (await app.sweep(ahead=90 * DAY)).timers == 1, "the timers of the stream before are still counted"
    assert await app.count("evt.>") == 5
    assert (await _record(app, "pay")).floor == 0


async def _handle(app: App, step: str, count: int) -> None:
    """Events that a Step handles, each run leaving its marker before the ack."""
    await app.emit("order", count)
    messages = await app.take(step, count)
    for message in messages:
        await app.put(f"end.{step}.event.{message.reply.split('.')[5]}")
    await app.answer(step, messages)


async def _fill(app: App) -> None:
    """Events until the server has no room."""
    for _ in range(1000):
        try:
            await app.emit("fill", size=60_000)
        except errors.BrokerRefused as refused:
            if refused.code == 10023:
                return
            raise
    raise AssertionError("expected a server without room, found one that took 60 MB")


async def _record(app: App, step: str) -> floors.Record:
    stored = await app.js.get_last(app.stream, names.floor(app.root, step))
    assert stored is not None
    return floors.read(stored.data)


async def test_timers_that_fell_due_while_the_store_was_full_fire_after_all(tmp_path: Path) -> None:
    with brokers.running(tmp_path / "small", store_bytes=4 * 2**20) as server:
        async with janitors.app(server.url) as app:
            due = time.time() + 1.5
            await app.set_timer("late", due)
            await app.set_timer("later", due + 1000)
            await _fill(app)
            assert time.time() < due, "the store was full too late for this test"
            await waits.until(lambda: time.time() > due + 1, "the timer's time")
            assert await app.count("timer.late") == 1, "the server fires it by itself: the janitor need not"

            await app.sweep(ahead=2 * DAY)
            await waits.until(lambda: app.count("retry.pay.>"), "the late timer's message")
            assert (await app.count("evt.>"), await app.count("timer.late")) == (0, 0)
            assert await app.count("timer.later") == 1
            assert (await app.sweep(ahead=20)).timers == 0


async def test_a_timer_that_is_set_anew_or_has_fired_is_left_alone(app: App) -> None:
    await app.set_timer("moved", time.time() + 500)
    await app.set_timer("fired", time.time() + 500)
    assert (await app.sweep()).timers == 0
    again = await app.set_timer("moved", time.time() + 5000)
    await app.js.purge(app.stream, f"{app.root}.timer.fired", below=None)
    assert (await app.sweep(ahead=1000)).timers == 0
    assert await app.sequences("timer.>") == [again]
    assert (await app.sweep(ahead=5100)).timers == 1


PAID = "evt.live.0.paid"


async def test_a_timer_that_has_fired_and_is_there_all_the_same_is_removed(app: App, caplog: Log) -> None:
    due = time.time() + 30
    for name in ("one", "two"):
        await app.set_timer(name, due, PAID)
    forgotten = await app.set_timer("forgotten", due, PAID)
    for name in ("one", "two"):
        await app.fire(name, PAID)
    assert await app.count("timer.>") == 3
    with caplog.at_level("INFO"):
        report = await app.sweep(ahead=45)
    assert (report.leftovers, report.timers) == (2, 1)
    assert (await app.count("timer.>"), await app.count(PAID)) == (1, 2)
    assert await app.sequences("timer.forgotten") > [forgotten], "what has not fired is set again"
    said = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert [text for text in said if "had fired" in text and text.endswith(f"{app.root}.timer.one")]


async def test_what_was_sent_is_read_once_for_all_timers_of_a_target(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    scan = app.js.scan

    def counted(stream: str, subject_filter: str, *, start: int = 1) -> AsyncIterator[Stored]:
        if ".meta." not in subject_filter:
            read.append(subject_filter)
        return scan(stream, subject_filter, start=start)

    due = time.time() + 30
    for number in range(20):
        await app.set_timer(f"t{number}", due, PAID)
        await app.set_timer(f"r{number}", due)
        await app.fire(f"t{number}", PAID)
        await app.fire(f"r{number}", f"retry.pay.r{number}")
    monkeypatch.setattr(app.js, "scan", counted)
    assert (await app.sweep(ahead=45)).leftovers == 40
    assert read == [f"{app.root}.timer.>", f"{app.root}.{PAID}", f"{app.root}.retry.pay.>"]


async def test_what_an_earlier_timer_of_an_id_has_sent_says_nothing_of_the_next(app: App) -> None:
    due = time.time() + 30
    await app.set_timer("again", due, PAID)
    await app.fire("again", PAID)
    await app.set_timer("again", due + 1, PAID)
    report = await app.sweep(ahead=45)
    assert (report.leftovers, report.timers) == (0, 1)
    assert await app.count("timer.again") == 1


async def test_a_timer_that_is_set_anew_while_its_leftover_is_removed_stays(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, delete, anew = time.time() + 30, app.js.delete, []
    await app.set_timer("t", due, PAID)
    await app.fire("t", PAID)

    async def late(stream: str, sequence: int) -> bool:
        anew.append(await app.set_timer("t", due + 1000, PAID))
        return await delete(stream, sequence)

    monkeypatch.setattr(app.js, "delete", late)
    assert (await app.sweep(ahead=45)).leftovers == 0
    assert await app.sequences("timer.>") == anew


@pytest.mark.parametrize("run", ["r1", "r1~1"])
async def test_the_timer_of_a_run_that_has_ended_is_removed_though_its_retry_is_gone(app: App, run: str) -> None:
    name, other = f"retry.pay.{run}", "retry.pay.r2"
    for timer in (name, other):
        await app.set_timer(timer, time.time() + 500, timer)
    await app.put(f"end.pay.event.{run}")
    report = await app.sweep(ahead=600)
    assert (report.leftovers, report.timers) == (1, 1)
    assert (await app.count(f"timer.{name}"), await app.count(f"timer.{other}")) == (0, 1)


async def test_a_timer_that_a_killed_server_brings_back_is_found(tmp_path: Path) -> None:
    with brokers.running(tmp_path / "own") as server:
        async with janitors.app(server.url) as app:
            await _leave_forgotten(app)
            assert (await app.sweep()).leftovers == 0, "what was read once is not read again without a reason"
            server.stop(signal.SIGKILL)
            server.start()
            connection = app.js.connection
            await waits.until(lambda: connection.losses and connection.is_connected, "the connection", timeout=20)
            assert (await app.sweep()).leftovers == 1


async def test_a_timer_that_a_server_brings_back_out_of_sight_is_found_in_the_end(app: App) -> None:
    await _leave_forgotten(app)
    found = [(await app.sweep()).leftovers for _ in range(timers.WHOLE)]
    assert (sum(found), found[0]) == (1, 0)


async def _leave_forgotten(app: App) -> None:
    """A timer that was gone when the janitor looked for it at its time, and is back: it has fired."""
    sequence = await app.set_timer("back", time.time() + 30, PAID)
    await app.fire("back", PAID)
    get = app.js.get

    async def gone(stream: str, which: int) -> Stored | None:
        return None if which == sequence else await get(stream, which)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.js, "get", gone)
        assert (await app.sweep(ahead=45)).leftovers == 0
    assert await app.count("timer.back") == 1


async def test_a_store_without_any_room_is_cleaned_all_the_same(tmp_path: Path) -> None:
    with brokers.running(tmp_path / "small", store_bytes=2 * 2**20) as server:
        async with janitors.app(server.url) as app:
            await app.subscribe("pay", "order")
            await app.emit("order", 3)
            await app.settle("pay", 3)
            await _fill(app)
            await app.sweep(ahead=2 * DAY)
            assert await app.count("evt.>") == 0
            await app.sweep()
            assert (await _record(app, "pay")).floor > 3


async def test_nearly_full_settled_events_go_however_young_they_are(app: App) -> None:
    app.janitor = app.new_janitor(storage_bytes=1_000_000)
    await app.subscribe("pay", "order")
    await app.emit("order", 85, size=10_000)
    await app.settle("pay", 40)
    report = await app.sweep()
    assert report.purged["events"] == 40
    assert report.quota.level is Level.NORMAL
    assert await app.count("evt.>") == 45


async def test_the_level_rises_and_falls_with_the_bytes(app: App) -> None:
    app.janitor = app.new_janitor(storage_bytes=1_000_000)
    await app.subscribe("pay", "order")
    await app.emit("order", 50, size=10_000)
    assert (await app.sweep()).quota.level is Level.NORMAL
    await app.emit("order", 32, size=10_000)
    assert (await app.sweep()).quota.level is Level.HIGH
    app.janitor = app.new_janitor(storage_bytes=1_000_000)
    await app.settle("pay", 4)
    assert (await app.sweep()).quota.level is Level.HIGH, "a new process forgets that the level was high"
    await app.emit("order", 17, size=10_000)
    assert (await app.sweep()).quota.level is Level.FULL
    await app.settle("pay", 21)
    assert (await app.sweep()).quota.level is Level.NORMAL
    stored = await app.js.get_last(app.stream, names.quota(app.root))
    assert stored is not None
    assert retentions.read_quota(stored.data).level is Level.NORMAL


async def test_nearly_full_events_without_a_subscriber_go_when_none_can_be_on_its_way(app: App) -> None:
    app.janitor = app.new_janitor(storage_bytes=1_000_000)
    await app.emit("nobody.hears", 90, size=10_000)
    assert (await app.sweep()).quota.level is Level.HIGH
    assert (await app.sweep(ahead=660)).quota.level is Level.NORMAL
