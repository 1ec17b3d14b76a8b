"""Dead letters with a real runtime: redriven once, again and again, edited, discarded; and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bema.contract import envelopes, errors, letters, names
from bema.contract.letters import DeadLetter, Filter
from bema.ports import admin, connections, dead_letters, rounds
from bema.ports.dead_letters import Place
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing
from bema.ports.rounds import Outcome
from tests.support import waits
from tests.support.brokers import NatsServer
from tests.support.proxies import Proxy
from tests.support.runtimes import NAMESPACE, App

PLACE = Place.of(NAMESPACE)
NOW = "2026-01-01T00:00:00.000Z"
PAY = """
config = {"triggers": [{"event": {"topics": ["reserved"]}}], "emits": ["paid"], "concurrency": 8,
          "retry": {"maxAttempts": 2, "initialSeconds": 0.01, "jitter": 0}}
async def handler(data, ctx):
    await ctx.state.increment("paid", data["id"])
    await ctx.state.set("by", data["id"], {"run": ctx.run_id, "attempt": ctx.attempt, "trace": ctx.trace_id,
                                           "headers": dict(ctx.headers), "data": data})
    await ctx.emit("paid", {"id": data["id"]})
    if not await ctx.state.get("bank", "open", data.get("ok")):
        raise ValueError(f"the bank is closed: {data['id']}")
"""


@contextlib.asynccontextmanager
async def person(url: str) -> AsyncIterator[JetStream]:
    """Somebody with a connection of their own."""
    connection = await connections.connect([url], name="person", wait=5)
    try:
        yield JetStream(connection)
    finally:
        await connection.close()


async def open_bank(app: App) -> None:
    await app.js.publish(Outgoing(names.state(app.root, "bank", "open"), b"true"))


async def dead(app: App, number: int = 1) -> list[DeadLetter]:
    """Wait for so many dead letters."""
    await app.wait_dead(number)
    runs = [summary.run async for summary in dead_letters.scan(app.js, PLACE)]
    found = [await dead_letters.find(app.js, PLACE, run) for run in runs]
    return [letter for letter in found if letter is not None]


async def bury(app: App, run: str, data: bytes = b'{"id":"x"}', *, step: str = "pay", **more: str) -> DeadLetter:
    """A dead letter as a runtime writes it."""
    event = envelopes.Event(f"e-{run}", "reserved", "/test", NOW, data)
    headers = {**envelopes.encode(event), "Bema-Run": run, "Bema-Kind": "event", "Bema-Attempt": "2"}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    await app.js.publish(Outgoing(names.dead_letter(app.root, step, run), data, headers))
    found = await dead_letters.find(app.js, PLACE, run)
    assert found is not None
    return found


async def last(app: App) -> int:
    return await admin.last_sequence(app.js, app.stream)


async def test_a_redrive_runs_the_event_anew_and_commits_once(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    event = envelopes.Event("e1", "reserved", "/test", NOW, b'{"id":"x"}', "ann", trace, {"X-Tenant": "acme"})
    await app.js.publish(Outgoing(names.event(app.root, "reserved"), event.data, envelopes.encode(event)))
    [letter] = await dead(app)
    assert (letter.step, letter.topic, letter.event, letter.source, letter.key, letter.trace, letter.ancestors) == (
        "pay",
        "reserved",
        "e1",
        "/test",
        "ann",
        "a" * 32,
        [],
    )
    assert (letter.attempts, letter.reason, letter.data) == (2, "AttemptsExhausted", b'{"id":"x"}')
    assert [error["message"] for error in letter.errors] == ["the bank is closed: x"] * 2
    await open_bank(app)
    run = await dead_letters.redrive(app.js, PLACE, letter)
    assert run == f"{letter.run}~1"
    await waits.until(lambda: app.events("paid"), "the payment", explain=app.explain)
    await app.wait_idle()
    assert await app.state("by", "x") == {
        "run": run,
        "attempt": 1,
        "trace": "a" * 32,
        "headers": {"X-Tenant": "acme"},
        "data": {"id": "x"},
    }
    assert await app.state("paid", "x") == 1
    assert len(await app.events("paid")) == 1
    ends = {stored.subject: json.loads(stored.data)["outcome"] for stored in await app.messages(f"{app.root}.end.>")}
    assert ends == {
        names.end(app.root, "pay", "event", letter.run): "dead",
        names.end(app.root, "pay", "event", run): "ok",
    }
    assert await dead_letters.find(app.js, PLACE, letter.run) is None
    assert await dead_letters.count(app.js, PLACE) == 0
    [tombstone] = await app.messages(names.dead_letter_filter(app.root))
    assert (tombstone.headers["Nats-TTL"], tombstone.headers["Bema-Run"], tombstone.data) == ("60s", run, b"")


async def test_of_two_who_redrive_at_once_one_starts_a_run(start_app: Callable[..., Any], nats: NatsServer) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    for number in range(15):
        await app.emit("reserved", {"id": f"x{number}"})
    found = await dead(app, 15)
    await open_bank(app)
    async with person(nats.url) as one, person(nats.url) as other:
        for letter in found:
            first, second = await asyncio.gather(
                dead_letters.redrive(one, PLACE, letter),
                dead_letters.redrive(other, PLACE, letter),
                return_exceptions=True,
            )
            [started] = [result for result in (first, second) if isinstance(result, str)]
            [refused] = [result for result in (first, second) if isinstance(result, errors.DeadLetterMoved)]
            assert started == f"{letter.run}~1"
            assert str(refused) == f"the dead letter of run {letter.run} was redriven as run {started} by somebody " + (
                "else meanwhile"
            )
    for number in range(15):
        await app.wait_state("paid", f"x{number}", 1)
    await app.wait_idle()
    assert [await app.state("paid", f"x{number}") for number in range(15)] == [1] * 15
    assert len(await app.events("paid")) == 15
    with pytest.raises(errors.DeadLetterMoved):
        await dead_letters.redrive(app.js, PLACE, found[0])
    redriven = [stored for stored in await app.messages(f"{app.root}.retry.>") if "Bema-Ancestor" in stored.headers]
    assert len(redriven) == 15


async def test_a_redrive_that_fails_again_points_at_its_ancestors(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    await app.emit("reserved", {"id": "x"})
    [letter] = await dead(app)
    first = letter.run
    for number in (1, 2, 3):
        before = letter
        run = await dead_letters.redrive(app.js, PLACE, before)
        found = await waits.until(
            lambda run=run: dead_letters.find(app.js, PLACE, run), f"dead letter {number}", explain=app.explain
        )
        letter = found
        assert (letter.run, letter.raw["Bema-Ancestor"]) == (f"{first}~{number}", before.run)
        assert letter.ancestors == [before.run, *before.ancestors]
        assert [error["attempt"] for error in letter.errors] == [1, 2], "attempts are counted anew"
        assert (letter.data, letter.event, letter.trace) == (before.data, before.event, before.trace)
    assert letter.ancestors == [f"{first}~2", f"{first}~1", first]
    assert [each.run for each in await dead(app)] == [f"{first}~3"], "one of them is left: the latest"
    await open_bank(app)
    await dead_letters.redrive(app.js, PLACE, letter)
    await app.wait_state("by", "x", (await paid_by(app, f"{first}~4")))
    assert await app.state("paid", "x") == 1


async def paid_by(app: App, run: str) -> Any:
    """What the handler wrote, once it has."""
    found = await waits.until(lambda: app.state("by", "x"), "the payment", explain=app.explain)
    assert found["run"] == run
    return found


@pytest.mark.parametrize("before", [True, False], ids=["the batch never arrived", "the batch was stored"])
async def test_a_redrive_whose_answer_was_cut_off_happens_once(
    start_app: Callable[..., Any], proxy: Proxy, before: bool
) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    await app.emit("reserved", {"id": "x"})
    [letter] = await dead(app)
    await open_bank(app)
    async with person(proxy.url) as js:
        proxy.cut_at(b"Nats-Batch-Commit", before=before)
        run = await dead_letters.redrive(js, PLACE, letter)
    assert proxy.cuts == 1
    assert run == f"{letter.run}~1"
    await app.wait_state("paid", "x", 1)
    await app.wait_idle()
    assert await app.state("paid", "x") == 1
    redriven = [stored for stored in await app.messages(f"{app.root}.retry.>") if "Bema-Ancestor" in stored.headers]
    assert [stored.subject for stored in redriven] == [names.retry(app.root, "pay", run)]


@pytest.mark.parametrize("before", [True, False], ids=["it never arrived", "it was stored"])
async def test_an_edit_and_a_discard_whose_answers_were_cut_off_happen_once(
    start_app: Callable[..., Any], proxy: Proxy, before: bool
) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    letter = await bury(app, "r1")
    async with person(proxy.url) as js:
        proxy.cut_at(b"Bema-Edited", before=before)
        sequence = await dead_letters.edit(js, PLACE, letter, b"1", now=NOW)
        edited = await dead_letters.find(app.js, PLACE, "r1")
        assert edited is not None
        assert (edited.sequence, edited.data) == (sequence, b"1")
        proxy.cut_at(b"Bema-Deleted", before=before)
        await dead_letters.discard(js, PLACE, edited)
    assert proxy.cuts == 2
    assert await dead_letters.find(app.js, PLACE, "r1") is None
    assert await last(app) == letter.sequence + 2


async def test_a_broker_that_stays_away_leaves_it_open_and_says_so(start_app: Callable[..., Any], proxy: Proxy) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    letter = await bury(app, "r1")
    async with person(proxy.url) as js:
        proxy.cut_at(b"Bema-Deleted", before=True, times=99)
        proxy.matches = lambda piece: b"Bema-Deleted" in piece or b"STREAM.MSG.GET" in piece
        with pytest.raises(errors.BrokerUnavailable, match="run r1: whether its dead letter was changed is unknown"):
            await dead_letters.discard(js, PLACE, letter, patience=0.5)
    assert await dead_letters.find(app.js, PLACE, "r1") == letter


async def test_a_run_that_left_traces_is_not_started_again(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    letter = await bury(app, "r1")
    await app.js.publish(Outgoing(names.end(app.root, "pay", "event", "r1~1"), b'{"outcome":"ok"}'))
    await bury(app, "r1~2")
    await open_bank(app)
    assert await dead_letters.redrive(app.js, PLACE, letter) == "r1~3"
    await app.wait_state("paid", "x", 1)


AUDIT = """
config = {"triggers": [{"state": {"group": "accounts"}}], "retry": {"maxAttempts": 1}}
async def handler(change, ctx):
    if not await ctx.state.get("bank", "open"):
        raise ValueError("the bank is closed")
    await ctx.state.increment("audited", change.key)
"""
OPEN = """
config = {"triggers": [{"event": {"topics": ["opened"]}}]}
async def handler(data, ctx):
    await ctx.state.set("accounts", data, 1)
"""


async def test_the_letter_of_a_change_that_the_server_brings_back_starts_a_run_again(
    start_app: Callable[..., Any],
) -> None:
    """Its run before has ended, which the marker of a change's run says."""
    app = await start_app({"steps/audit_step.py": AUDIT, "steps/open_step.py": OPEN})
    await app.emit("opened", "ann")
    [letter] = await dead(app)
    assert letter.kind == "state"
    await open_bank(app)
    first = await dead_letters.redrive(app.js, PLACE, letter)
    await app.wait_state("audited", "ann", 1)
    await app.wait_idle()
    await app.js.purge(app.stream, names.retries(app.root), below=None)  # as the janitor does
    kept = {name: value for name, value in letter.raw.items() if not name.startswith("Nats-")}
    subject = names.dead_letter(app.root, letter.step, letter.run)
    await app.js.publish(Outgoing(subject, letter.data, {**kept, ROLLUP: "sub"}))
    [back] = await dead(app)
    second = await dead_letters.redrive(app.js, PLACE, back)
    await app.wait_state("audited", "ann", 2)
    assert (first, second) == (f"{letter.run}~1", f"{letter.run}~2")


async def test_an_edited_letter_runs_with_its_new_data(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    await app.emit("reserved", {"id": "x"})
    [letter] = await dead(app)
    sequence = await dead_letters.edit(app.js, PLACE, letter, b'{"id":"x","ok":true}', now=NOW)
    [edited] = await dead(app)
    changed = {"data", "raw", "edited", "size", "sequence"}
    assert all(getattr(edited, name) == getattr(letter, name) for name in letter.__slots__ if name not in changed)
    assert (edited.time, edited.edited, edited.sequence, edited.size) == (letter.time, NOW, sequence, 20)
    with pytest.raises(errors.DeadLetterMoved, match="was changed by somebody else meanwhile"):
        await dead_letters.edit(app.js, PLACE, letter, b"1", now="2026-02-01T00:00:00.000Z")
    with pytest.raises(errors.DeadLetterMoved, match="was changed by somebody else meanwhile"):
        await dead_letters.redrive(app.js, PLACE, letter)
    with pytest.raises(errors.PayloadInvalid):
        await dead_letters.edit(app.js, PLACE, edited, b"{", now=NOW)
    await dead_letters.redrive(app.js, PLACE, edited)
    assert (await paid_by(app, f"{letter.run}~1"))["data"] == {"id": "x", "ok": True}


async def test_a_discarded_letter_is_gone_for_good(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    letter = await bury(app, "r1")
    await dead_letters.discard(app.js, PLACE, letter)
    assert await dead_letters.find(app.js, PLACE, "r1") is None
    assert await dead_letters.count(app.js, PLACE) == 0
    for change in (dead_letters.redrive(app.js, PLACE, letter), dead_letters.discard(app.js, PLACE, letter)):
        with pytest.raises(errors.DeadLetterMoved, match="dead letter of run r1 was discarded by somebody else"):
            await change
    assert await app.messages(f"{app.root}.retry.>") == []


REPORT = """
config = {"triggers": [{"cron": {"schedule": "0 0 1 1 *"}}], "retry": {"maxAttempts": 1}}
def handler(data, ctx):
    raise ValueError("no")
"""


async def test_what_could_not_help_is_refused_by_name(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY, "steps/report_step.py": REPORT}, workers=0)
    job = app.spawn(only=["report"], once=True, env={"BEMA_JOB_NAME": "report-by-hand"})
    assert await job.wait_exit() == 1
    [letter] = await dead(app)
    assert letter.kind == "cron"
    before = await last(app)
    with pytest.raises(errors.NotRedrivable, match=r"was started by a schedule: .* \(kubectl create job --from=c"):
        await dead_letters.redrive(app.js, PLACE, letter)
    other = await bury(app, "r1", step="ship")
    with pytest.raises(errors.NotRedrivable, match="run r1: expected a consumer of Step 'ship', found none, so nobody"):
        await dead_letters.redrive(app.js, PLACE, other)
    assert await last(app) == before + 1


async def test_data_that_was_left_out_comes_from_the_event_or_from_a_person(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    await open_bank(app)
    await app.emit("reserved", {"id": "large", "text": "x" * 800_000})
    [large] = await dead(app)
    assert (large.reason, large.size, large.omitted is not None) == ("PayloadTooLarge", 0, True)
    with pytest.raises(errors.NotRedrivable, match="expected at most 786,432 bytes of data, found 800,027, so it"):
        await dead_letters.redrive(app.js, PLACE, large)
    await dead_letters.redrive(app.js, PLACE, large, data=b'{"id":"large"}')
    await app.wait_state("paid", "large", 1)

    event = envelopes.Event("e-r1", "elsewhere", "/test", NOW, b'{"id":"kept"}')
    sequence = await app.js.publish(Outgoing(names.event(app.root, event.topic), event.data, envelopes.encode(event)))
    kept = await bury(app, "r1", b"", Bema_Omitted=str(sequence))
    await dead_letters.redrive(app.js, PLACE, kept)
    await app.wait_state("paid", "kept", 1)

    for omitted in (sequence + 10_000, sequence, 0):
        gone = await bury(app, "r2", b"", Bema_Omitted=str(omitted))
        with pytest.raises(errors.NotRedrivable, match="run r2: its data was too large to be kept: expected event 'e-"):
            await dead_letters.redrive(app.js, PLACE, gone)
    gone = await bury(app, "r2", b"", Bema_Omitted="0")
    await dead_letters.edit(app.js, PLACE, gone, b'{"id":"edited"}', now=NOW)
    edited = await dead_letters.find(app.js, PLACE, "r2")
    assert edited is not None
    await dead_letters.redrive(app.js, PLACE, edited)
    await app.wait_state("paid", "edited", 1)


async def test_a_round_keeps_to_its_rate_and_ends_though_letters_come_back(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY})
    for number in range(7):
        await app.emit("reserved", {"id": f"x{number}"})
    before = {letter.run for letter in await dead(app, 7)}
    through = await last(app)
    begun = time.monotonic()
    chosen = dead_letters.scan(app.js, PLACE, through=through)
    results = [result async for result in rounds.redrive(app.js, PLACE, chosen, rate=5)]
    assert time.monotonic() - begun >= 6 / 5
    assert {(result.run, result.started, result.outcome) for result in results} == {
        (run, f"{run}~1", Outcome.REDRIVEN) for run in before
    }
    after = {letter.run for letter in await dead(app, 7)}
    assert after == {f"{run}~1" for run in before}


async def test_a_round_goes_on_after_what_it_cannot_redrive(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    stale = await bury(app, "r1")
    tick = await bury(app, "r2", Bema_Kind="cron")
    good = await bury(app, "r3")
    gone = await bury(app, "r4")
    await dead_letters.edit(app.js, PLACE, stale, b"1", now=NOW)
    await dead_letters.discard(app.js, PLACE, gone)

    async def chosen() -> AsyncIterator[DeadLetter]:
        for letter in (stale, tick, good, gone):
            yield letter

    results = [result async for result in rounds.redrive(app.js, PLACE, chosen(), rate=1000)]
    assert [(result.run, result.outcome, result.started) for result in results] == [
        ("r1", Outcome.MOVED, None),
        ("r2", Outcome.REFUSED, None),
        ("r3", Outcome.REDRIVEN, "r3~1"),
        ("r4", Outcome.MOVED, None),
    ]
    assert [summary.run async for summary in dead_letters.scan(app.js, PLACE)] == ["r2", "r1"]


async def test_a_dry_run_changes_nothing(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    await bury(app, "r1")
    await bury(app, "r2", Bema_Kind="cron")
    before = await app.messages(f"{app.root}.>")
    redriven = rounds.redrive(app.js, PLACE, dead_letters.scan(app.js, PLACE), dry_run=True)
    assert [(result.outcome, result.started) async for result in redriven] == [
        (Outcome.REDRIVEN, "r1~1"),
        (Outcome.REFUSED, None),
    ]
    discarded = rounds.discard(app.js, PLACE, dead_letters.scan(app.js, PLACE), dry_run=True)
    assert [result.outcome async for result in discarded] == [Outcome.DISCARDED] * 2
    assert await app.messages(f"{app.root}.>") == before
    assert await last(app) == before[-1].sequence


async def test_lists_are_paged_and_filtered(start_app: Callable[..., Any]) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    for number in range(300):
        error = json.dumps([{"attempt": 1, "type": "KeyError" if number % 3 else "IOError", "message": str(number)}])
        step = "pay" if number % 2 else "ship"
        await bury(app, f"r{number}", step=step, Bema_Errors=error, Bema_Reason="Invalid" if number < 5 else "Other")
    runs = [f"r{number}" for number in range(300)]
    found: list[str] = []
    cursor: int | None = 0
    while cursor is not None:
        page = await dead_letters.page(app.js, PLACE, limit=70, after=cursor)
        found += [item.run for item in page.items]
        cursor = page.cursor
    assert found == runs
    assert len((await dead_letters.page(app.js, PLACE, limit=300)).items) == 300
    assert (await dead_letters.page(app.js, PLACE, limit=300)).cursor is None, "a full page may be the last"

    async def chosen(**wanted: Any) -> list[str]:
        return [summary.run async for summary in dead_letters.scan(app.js, PLACE, Filter(**wanted))]

    assert await chosen(step="pay") == runs[1::2]
    assert await chosen(step="none") == []
    assert await chosen(reason="Invalid", step="ship") == ["r0", "r2", "r4"]
    assert await chosen(error="ioerror") == runs[::3]
    assert await chosen(topic="reserved") == runs
    assert await chosen(topic="other") == []
    middle = await dead_letters.find(app.js, PLACE, "r150")
    assert middle is not None
    assert await chosen(since=letters.moment(middle.time)) == runs[150:]
    assert await chosen(until=letters.moment(middle.time)) == runs[:150]
    assert await dead_letters.count(app.js, PLACE, through=middle.sequence) == 151
    await dead_letters.edit(app.js, PLACE, middle, b"1", now=NOW)
    assert await chosen(since=letters.moment(middle.time)) == [*runs[151:], "r150"], "an edit keeps its time"
    assert sorted(await chosen(until=letters.moment(middle.time))) == sorted(runs[:150])
    listed = next(item for item in (await dead_letters.page(app.js, PLACE, limit=1)).items)
    whole = await dead_letters.find(app.js, PLACE, listed.run)
    assert whole is not None
    assert all(getattr(whole, name) == getattr(listed, name) for name in listed.__slots__)
    consumers = await admin.consumer_states(app.js, app.stream)
    assert list(consumers) == ["pay"], "a page leaves no consumer behind"


async def test_a_count_loads_no_data(start_app: Callable[..., Any], nats: NatsServer) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    for number in range(10):
        await bury(app, f"r{number}", b"x" * 500_000)
    async with person(nats.url) as js:
        assert await dead_letters.count(js, PLACE) == 10
        assert js.connection._client.stats["in_bytes"] < 20_000
