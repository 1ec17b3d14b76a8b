"""Batches: several events in one execution, each with an end of its own."""

from __future__ import annotations

import asyncio
import json

import pytest

from bema.contract import envelopes, names
from tests.support import waits

STEP = """
from bema import NonRetryable
config = {"triggers": [{"event": {"topics": ["click"], "batch": {"size": 10, "timeoutSeconds": 0.3},
                        "input": {"type": "object", "required": ["n"]},
                        "condition": {"properties": {"n": {"minimum": 0}}}}}],
          "emits": ["seen"], "concurrency": 2, "retry": {"maxAttempts": 2, "initialSeconds": 0.05, "maxSeconds": 0.05}}
async def handler(clicks, ctx):
    assert len(ctx.items) == len(clicks) and isinstance(clicks, list)
    for place, (click, item) in enumerate(zip(clicks, ctx.items)):
        if click["n"] == 666:
            ctx.fail(place, NonRetryable("the number of the beast"))
        elif click["n"] == 13 and item.attempt == 1:
            ctx.fail(place, "bad luck")
        elif click["n"] == 500:
            raise ValueError("all of them")
        else:
            await ctx.state.increment("total", "n", click["n"])
            await ctx.state.append("handled", "n", click["n"])
            await ctx.emit("seen", {"run": item.run_id, "n": click["n"]})
    await ctx.state.append("sizes", "all", len(clicks))
"""


async def _markers(app, step: str) -> list[str]:  # type: ignore[no-untyped-def]
    found = await app.messages(names.end_filter(app.root, step))
    return [json.loads(stored.data)["outcome"] for stored in found]


async def test_events_come_in_batches_and_each_has_its_marker(start_app) -> None:
    app = await start_app({"steps/click_step.py": STEP})
    for number in range(25):
        await app.emit("click", {"n": number + 20})
    await app.wait_idle()
    sizes = await app.state("sizes", "all")
    assert sum(sizes) == 25
    assert max(sizes) <= 10
    assert len(sizes) < 15
    assert sorted(await app.state("handled", "n")) == [number + 20 for number in range(25)]
    assert await _markers(app, "click") == ["ok"] * 25
    assert len(await app.events("seen")) == 25


async def test_items_fail_one_by_one(start_app) -> None:
    app = await start_app({"steps/click_step.py": STEP})
    for click in ({"n": 1}, {"n": 13}, {"n": 666}, {"n": -5}, {"wrong": True}, {"n": 2}):
        await app.emit("click", click)
    await waits.until(lambda: _letters(app, 2), "two dead letters", explain=app.explain)
    await app.wait_idle()
    assert sorted(await app.state("handled", "n")) == [1, 2, 13]
    assert await app.state("total", "n") == 16
    letters = {letter.headers["Bema-Reason"]: json.loads(letter.data) for letter in await app.dead_letters()}
    assert letters == {"NonRetryable": {"n": 666}, "Invalid": {"wrong": True}}
    assert sorted(await _markers(app, "click")) == ["dead", "dead", "ok", "ok", "ok"]


async def _letters(app, count: int) -> bool:  # type: ignore[no-untyped-def]
    return len(await app.dead_letters()) == count


async def test_a_handler_that_raises_fails_all_and_each_is_tried_again(start_app) -> None:
    app = await start_app({"steps/click_step.py": STEP})
    for number in (500, 1, 2):
        await app.emit("click", {"n": number})
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    await app.wait_idle()
    assert (json.loads(letter.data), letter.headers["Bema-Attempt"]) == ({"n": 500}, "2")
    assert sorted(await app.state("handled", "n")) == [1, 2]
    assert sorted(await _markers(app, "click")) == ["dead", "ok", "ok"]


async def test_batches_of_killed_and_drained_workers_count_each_event_once(start_app) -> None:
    app = await start_app({"steps/click_step.py": STEP}, workers=2)
    total = 300
    for number in range(total):
        await app.emit("click", {"n": 1000 + number})
        if number == 100:
            app.workers[0].process.kill()
            app.spawn()
        if number == 200:
            app.workers[1].process.terminate()
        await asyncio.sleep(0)
    await app.wait_idle(timeout=60)
    assert sorted(await app.state("handled", "n")) == [1000 + number for number in range(total)]
    assert len(await app.events("seen")) == total
    assert await app.dead_letters() == []


TYPED = """
from pydantic import BaseModel
class Click(BaseModel):
    n: int
config = {"triggers": [{"event": {"topics": ["click"], "batch": {"size": 3, "timeoutSeconds": 0.2}}}]}
def handler(clicks: list[Click], ctx):
    ctx.state.increment("total", "n", sum(click.n for click in clicks))
"""


async def test_a_plain_handler_gets_a_list_of_its_models(start_app) -> None:
    app = await start_app({"steps/click_step.py": TYPED})
    for number in range(7):
        await app.emit("click", {"n": number})
    await app.emit("click", {"n": "many"})
    await app.wait_state("total", "n", 21)
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert letter.headers["Bema-Reason"] == "Invalid"


ASKS = """
{kind} asks(data, ctx):
    if data % 2 == 0:
        {wait}ctx.state.set("g", "k", data)
    if data == 4:
        raise ValueError("too late")
    return True
config = {{"triggers": [{{"event": {{"topics": ["asks"], "condition": asks,
                        "batch": {{"size": 5, "timeoutSeconds": 5}}}}}}], "retry": {{"maxAttempts": 1}}}}
{kind} handler(items, ctx):
    {wait}ctx.state.set("handled", "n", items)
"""


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_condition_asks_for_fails_its_item_alone_and_is_not_done(start_app, is_async: bool) -> None:
    kind, wait = ("async def", "await ") if is_async else ("def", "")
    app = await start_app({"steps/asks_step.py": ASKS.format(kind=kind, wait=wait)}, workers=0)
    for number in range(1, 6):
        await app.emit("asks", number)
    app.spawn()
    await waits.until(lambda: app.state("handled", "n"), "the handled items", explain=app.explain)
    await app.wait_idle()
    assert await app.state("handled", "n") == [1, 3, 5]
    letters = {json.loads(letter.data): letter.headers["Bema-Reason"] for letter in await app.dead_letters()}
    assert letters == {2: "NonRetryable", 4: "AttemptsExhausted"}
    assert await app.state("g", "k") is None


BILL = """
config = {"triggers": [{"event": {"topics": ["bill"], "batch": {"size": 2, "timeoutSeconds": 5}}}],
          "emits": ["due"], "retry": {"maxAttempts": 1}}
async def handler(bills, ctx):
    await ctx.state.set("timers", "id", await ctx.emit("due", {}, delay=3600))
    ctx.fail(1, "this one is no bill")
"""
PAID = """
config = {"triggers": [{"event": {"topics": ["paid"]}}]}
async def handler(data, ctx):
    await ctx.timers.cancel(await ctx.state.get("timers", "id"))
"""


async def test_what_a_batch_emits_has_the_id_that_its_handler_was_told_though_an_item_fails(start_app) -> None:
    app = await start_app({"steps/bill_step.py": BILL, "steps/paid_step.py": PAID})
    for number in range(2):
        await app.emit("bill", number)
    id = await waits.until(lambda: app.state("timers", "id"), "the timer", explain=app.explain)
    [timer] = await app.messages(f"{app.root}.timer.*")
    assert timer.subject == names.timer(app.root, id)
    await app.emit("paid", {})

    async def cancelled() -> bool:
        [left] = await app.messages(f"{app.root}.timer.*")
        return envelopes.DELETED in left.headers

    await waits.until(cancelled, "the timer's end", explain=app.explain)
