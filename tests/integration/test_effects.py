"""Effects beyond the plain ones: ids, timers, lifetimes, expected revisions, pages."""

from __future__ import annotations

import datetime
import json
import time

from bema.contract import names
from bema.ports.jetstream import Outgoing
from tests.support import waits

ONCE = """
config = {"triggers": [{"event": {"topics": ["ask"]}}], "emits": ["mail", "other"]}
async def handler(data, ctx):
    assert await ctx.emit("mail", data, id=data["id"]) == data["id"]
    await ctx.emit("other", data, id=data["id"])
    await ctx.state.increment("asked", data["id"])
"""
COUNT = """
config = {"triggers": [{"event": {"topics": ["mail", "other"]}}]}
async def handler(data, ctx):
    await ctx.state.increment("heard", ctx.trigger.topic)
    await ctx.state.append("runs", ctx.trigger.topic, ctx.run_id)
"""


async def test_of_all_emits_with_an_id_one_is_sent_and_nothing_else_is_dropped(start_app) -> None:
    app = await start_app({"steps/once_step.py": ONCE, "steps/count_step.py": COUNT}, workers=2)
    for number in range(40):
        await app.emit("ask", {"id": "welcome é", "n": number})
    await app.wait_state("asked", "welcome é", 40)
    await app.wait_state("heard", "mail", 1)
    await app.wait_state("heard", "other", 1)
    assert len(await app.messages(names.event_filter(app.root, "mail"))) == 1
    assert await app.dead_letters() == []


TIMER = """
import datetime, time
config = {"triggers": [{"event": {"topics": ["do"]}}], "emits": ["later"]}
async def handler(do, ctx):
    for name, args in do.items():
        if name == "emit":
            data = {"id": args["id"], "due": time.time() + args["delay"]}
            await ctx.emit("later", data, id=args["id"], delay=args["delay"])
        elif name == "plain":
            due = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=args)
            id = await ctx.emit("later", {"id": "plain", "due": due.timestamp()}, at=due)
            await ctx.state.set("ids", "plain", id)
        elif name == "cancel":
            await ctx.timers.cancel(args)
        elif name == "reschedule":
            await ctx.timers.reschedule(args["id"], delay=args["delay"])
    await ctx.state.increment("done", "count")
"""
LATE = """
import time

import pytest
config = {"triggers": [{"event": {"topics": ["later"]}}]}
async def handler(data, ctx):
    await ctx.state.append("late", data["id"], time.time() - data["due"])
"""


async def _do(app, count, **what) -> None:  # type: ignore[no-untyped-def]
    await app.emit("do", what)
    await app.wait_state("done", "count", count)


async def _timers(app) -> list[str]:  # type: ignore[no-untyped-def]
    found = await app.messages(f"{app.root}.timer.>")
    return [stored.subject for stored in found if "Nats-Schedule" in stored.headers]


async def test_an_event_for_later_comes_once_and_not_early(start_app) -> None:
    app = await start_app({"steps/timer_step.py": TIMER, "steps/late_step.py": LATE})
    await _do(app, 1, emit={"id": "a", "delay": 1.0}, plain=0.5)
    for key in ("a", "plain"):
        [late] = await waits.until(lambda key=key: app.state("late", key), f"timer {key}", explain=app.explain)
        assert 0 <= late < 5
    assert await _timers(app) == []


async def test_a_timer_is_taken_back_moved_and_replaced_by_its_id(start_app) -> None:
    app = await start_app({"steps/timer_step.py": TIMER, "steps/late_step.py": LATE})
    await _do(app, 1, emit={"id": "cancelled", "delay": 2.0}, plain=3600)
    plain = await app.state("ids", "plain")
    assert sorted(await _timers(app)) == sorted(names.timer(app.root, id) for id in ("cancelled", plain))
    await _do(app, 2, cancel="cancelled")
    await _do(app, 3, cancel=plain)
    assert await _timers(app) == []
    await _do(app, 4, emit={"id": "cancelled", "delay": 3600})
    await _do(app, 5, emit={"id": "cancelled", "delay": 1})
    assert await _timers(app) == [names.timer(app.root, "cancelled")], "an id that is used again is dropped"
    await _do(app, 6, reschedule={"id": "cancelled", "delay": 0.5})
    await waits.until(lambda: app.state("late", "cancelled"), "the moved timer", explain=app.explain)
    await _do(app, 7, reschedule={"id": "cancelled", "delay": 0}, cancel="never there")
    assert len(await app.state("late", "cancelled")) == 1
    assert await app.dead_letters() == []


REPLACE = """
config = {"triggers": [{"event": {"topics": ["do"]}}], "emits": ["later", "another"]}
async def handler(data, ctx):
    if data == "cancel":
        await ctx.emit("later", {"id": "x", "due": 0}, id="x", delay=3600)
        await ctx.timers.cancel("x")
    elif data == "move":
        await ctx.emit("later", {"id": "x", "due": 0}, id="x", delay=3600)
        await ctx.timers.reschedule("x", delay=7200)
    elif data == "other":
        await ctx.timers.cancel("x")
        await ctx.emit("another", 1, id="x", delay=3600)
    elif data == "plain":
        await ctx.emit("later", {"id": "x", "due": 0}, id="x", delay=3600)
    else:
        await ctx.timers.cancel("x")
        await ctx.emit("later", {"id": "x", "due": data}, id="x", delay=3600 if data == 1 else None)
    await ctx.state.increment("done", "count")
"""


async def test_cancelled_and_sent_again_in_one_run_takes_the_timers_place(start_app) -> None:
    app = await start_app({"steps/replace_step.py": REPLACE, "steps/late_step.py": LATE})
    for number, data in enumerate(["cancel", 1, 1, 2], start=1):
        await app.emit("do", data)
        await app.wait_state("done", "count", number)
        assert await _timers(app) == ([names.timer(app.root, "x")] if data == 1 else [])
    await waits.until(lambda: app.state("late", "x"), "the event that was sent at once", explain=app.explain)
    assert len(await app.messages(names.event_filter(app.root, "later"))) == 1


async def test_what_waits_already_is_meant_too_by_a_run_with_a_timer_of_its_own(start_app) -> None:
    app = await start_app({"steps/replace_step.py": REPLACE})
    asked = [(1, 3600), ("cancel", None), (1, 3600), ("move", 7200), ("other", 3600), ("cancel", None)]
    asked.append(("plain", 3600))  # not dropped: the id was given back on both topics
    for number, (data, seconds) in enumerate(asked, start=1):
        await app.emit("do", data)
        await app.wait_state("done", "count", number)
        stored = await app.js.get_last(app.stream, names.timer(app.root, "x"))
        schedule = stored.headers.get("Nats-Schedule") if stored else None
        assert (schedule is None) == (seconds is None), f"{number}: {data}"
        if schedule and seconds:
            due = datetime.datetime.fromisoformat(schedule.removeprefix("@at ")).timestamp()
            assert abs(due - time.time() - seconds) < 60, f"{number}: {data}"
    assert await app.dead_letters() == []


DEBOUNCE = """
config = {"triggers": [{"event": {"topics": ["do"]}}], "emits": ["later"]}
async def handler(data, ctx):
    await ctx.timers.cancel("quiet")
    await ctx.emit("later", {"id": "quiet", "due": 0}, id="quiet", delay=0.5)
"""


async def test_a_timer_that_is_put_off_again_and_again_comes_after_each_silence(start_app) -> None:
    app = await start_app({"steps/debounce_step.py": DEBOUNCE, "steps/late_step.py": LATE})
    for silences in (1, 2):
        for number in range(5):
            await app.emit("do", number)

        async def came(silences=silences):  # type: ignore[no-untyped-def]
            return len(await app.state("late", "quiet") or []) == silences

        await waits.until(came, f"silence {silences}", explain=app.explain)
        await app.wait_idle()


LONG_AGO = """
import datetime
config = {"triggers": [{"event": {"topics": ["go"]}}], "emits": ["past"]}
async def handler(data, ctx):
    for at in (datetime.datetime.min.replace(tzinfo=datetime.UTC), -6e10, -1, 0, 1e9):
        await ctx.emit("past", str(at), at=at)
"""


async def test_what_is_to_be_sent_at_a_time_long_ago_is_sent_now(start_app) -> None:
    app = await start_app({"steps/past_step.py": LONG_AGO})
    await app.emit("go", 1)

    async def sent() -> bool:
        return len(await app.events("past")) == 5

    await waits.until(sent, "five events", explain=app.explain)


REVISION = """
from bema import RevisionConflict
config = {"triggers": [{"event": {"topics": ["do"]}}, {"api": {"method": "POST", "path": "/x"}}]}
async def handler(data, ctx):
    if ctx.trigger.kind == "api":
        await ctx.state.set("g", "k", "api", if_revision=data.body)
        return {"ok": True}
    s = ctx.state
    await s.set("g", "k", "first", if_revision=0)
    try:
        await s.set("g", "other", 1, if_revision=7)
    except RevisionConflict as error:
        await s.set("g", "error", [str(error), error.expected, error.found])
"""


async def test_a_write_may_expect_a_revision(start_app) -> None:
    app = await start_app({"steps/rev_step.py": REVISION})
    await app.emit("do", 1)
    await app.wait_state("g", "k", "first")
    assert await app.state("g", "error") == ["state g/other: expected revision 7, found nothing", 7, 0]
    await app.emit("do", 2)
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert "RevisionConflict" in letter.headers["Bema-Errors"]
    assert letter.headers["Bema-Reason"] == "AttemptsExhausted", "the next attempt may find another revision"
    revision = (await app.js.get_last(app.stream, names.state(app.root, "g", "k"))).sequence
    status, body = app.request("POST", "/x", revision + 1)[:2]
    assert (status, body["title"]) == (409, f"state g/k: expected revision {revision + 1}, found {revision}")
    status, body = app.request("POST", "/x", -1)[:2]
    assert (status, body["title"]) == (409, f"state g/k: expected revision -1, found {revision}")
    assert app.request("POST", "/x", revision)[0] == 200
    assert await app.state("g", "k") == "api"


ITEMS = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    s = ctx.state
    if data == 1:
        await s.set("g", "stored", 1)
        await s.set("g", "gone", 1)
        await s.set("g", "null", None)
    elif data == 2:
        await s.delete("g", "gone")
    else:
        for key in ("stored", "gone", "new"):
            await s.set("g", key, 2)
            before = await s.item("g", key)
            await s.set("g", key, 3, if_revision=before.revision)
            [listed] = await s.list("g", prefix=key)
            found = [before.revision, listed.revision, before.value, listed.value]
            await s.set("found", key, found)
        null = await s.item("g", "null")
        await s.set("found", "null", [await s.get("g", "null", "default"), null.value, null.revision > 0])
        await s.set("found", "none", [await s.get("g", "none", "default"), await s.item("g", "none")])
"""


async def test_an_entry_that_the_run_has_written_has_the_revision_to_expect(start_app) -> None:
    app = await start_app({"steps/items_step.py": ITEMS})
    await app.emit("do", 1)
    await app.wait_state("g", "gone", 1)
    stored = await app.js.get_last(app.stream, names.state(app.root, "g", "stored"))
    await app.emit("do", 2)
    await app.wait_state("g", "gone", None)
    await app.emit("do", 3)
    await app.wait_state("found", "none", ["default", None])
    assert await app.state("found", "null") == [None, None, True], "null is a value"
    assert await app.state("found", "stored") == [stored.sequence, stored.sequence, 2, 3]
    assert await app.state("found", "gone") == [0, 0, 2, 3]
    assert await app.state("found", "new") == [0, 0, 2, 3]


PAGES = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    if isinstance(data, list):
        for key in data:
            await ctx.state.set("g", key, key)
        await ctx.state.set("other", "x", 1)
        return
    for key in ("k03", "new1", "gone1", "gone2", "new2"):
        await ctx.state.set("g", key, "mine")
    for key in ("gone1", "gone2", "k01"):
        await ctx.state.delete("g", key)
    pages, cursor = [], None
    while True:
        page = await ctx.state.list("g", prefix=data["prefix"], limit=4, cursor=cursor)
        pages.append([[item.key, item.value] for item in page])
        cursor = page.cursor
        if cursor is None:
            break
    found = [item for page in pages for item in page]
    count = await ctx.state.clear("g")
    await ctx.state.set("result", data["prefix"], [found, list(map(len, pages)), await ctx.state.groups(), count])
"""


async def test_a_group_is_read_page_by_page_with_the_runs_own_writes(start_app) -> None:
    app = await start_app({"steps/pages_step.py": PAGES})
    keys = [f"k{number:02}" for number in range(10)]
    await app.emit("do", keys)
    await app.wait_state("g", "k09", "k09")
    await app.emit("do", {"prefix": ""})
    found, sizes, groups, count = await waits.until(lambda: app.state("result", ""), "the pages", explain=app.explain)
    expected = [[key, "mine" if key == "k03" else key] for key in keys if key != "k01"]
    assert found == [*expected, ["new1", "mine"], ["new2", "mine"]]
    assert (sizes, groups, count) == ([4, 4, 3], ["other"], 11)
    assert [await app.state("g", key) for key in (*keys, "new1")] == [None] * 11


GROUPS = """
config = {"triggers": [{"api": {"method": "POST", "path": "/g"}}]}
async def handler(request, ctx):
    for how, group, key in request.body:
        await (ctx.state.set(group, key, 1) if how == "set" else ctx.state.delete(group, key))
    return list(await ctx.state.groups())
"""


async def test_the_groups_are_those_that_hold_something(start_app) -> None:
    app = await start_app({"steps/groups_step.py": GROUPS})

    def after(*writes: tuple[str, str, str]) -> list[str]:
        return app.request("POST", "/g", writes)[1]  # type: ignore[no-any-return]

    assert after() == []
    assert after(("set", "a", "k"), ("set", "a", "l"), ("set", "b é", "k")) == ["a", "b é"], "its own writes count"
    assert after() == ["a", "b é"]
    assert after(("delete", "a", "k")) == ["a", "b é"]
    assert after(("delete", "a", "l"), ("delete", "b é", "k"), ("set", "b é", "m")) == ["b é"]
    assert after() == ["b é"], "what was removed holds nothing, though the stream has it still"
    assert after(("delete", "b é", "m"), ("set", "c", "k")) == ["c"]
    assert after(("delete", "c", "k"), ("delete", "never", "k")) == []


MATCH = """
config = {"triggers": [{"event": {"topics": ["a", "b"]}}, {"event": {"topics": ["c"]}}, {"api": {"path": "/m"}}],
          "retry": {"maxAttempts": 1}}
async def is_a(data):
    return ["a", data]
async def handler(data, ctx):
    branches = {"a": is_a, "event": lambda data: ["event", data]}
    if ctx.trigger.topic == "c":
        branches = {"api": is_a}
    result = await ctx.match({**branches, "api": lambda request: ["api", request.path]})
    if ctx.trigger.kind == "api":
        return result
    await ctx.state.set("branch", ctx.trigger.topic, result)
"""


async def test_a_branch_is_picked_by_what_fired(start_app) -> None:
    app = await start_app({"steps/match_step.py": MATCH})
    for topic in ("a", "b", "c"):
        await app.emit(topic, topic)
    await app.wait_state("branch", "a", ["a", "a"])
    await app.wait_state("branch", "b", ["event", "b"])
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    [error] = json.loads(letter.headers["Bema-Errors"])
    assert error["message"] == "match: ctx.match: expected a branch 'c' or 'event' or 'default', found 'api'"
    assert app.request("GET", "/m")[1] == ["api", "/m"]


async def test_ten_timers_of_a_run_that_fails_are_not_set(start_app) -> None:
    app = await start_app(
        {
            "steps/fail_step.py": """
config = {"triggers": [{"event": {"topics": ["do"]}}], "emits": ["later"], "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    for number in range(10):
        await ctx.emit("later", number, delay=60)
    raise ValueError("no")
"""
        }
    )
    began = time.time()
    await app.emit("do", 1)
    await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert await _timers(app) == []
    assert time.time() - began < 30


SHRINKING = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    seen, cursor = [], None
    for key in "abc":
        await ctx.state.set("g", key, key)
    while True:
        page = await ctx.state.list("g", limit=1, cursor=cursor)
        for item in page:
            seen.append(item.key)
            await ctx.state.delete("g", item.key)
        cursor = page.cursor
        if cursor is None:
            break
    await ctx.state.set("result", "seen", seen)
"""


async def test_pages_skip_nothing_while_their_entries_are_removed(start_app) -> None:
    app = await start_app({"steps/shrinking_step.py": SHRINKING})
    await app.emit("do", 1)
    await app.wait_state("result", "seen", ["a", "b", "c"])


UNAWAITED = """
async def branch(data):
    raise AssertionError("nobody awaits this")
config = {"triggers": [{"event": {"topics": ["do"]}}]}
def handler(data, ctx):
    return ctx.match({"do": branch})
"""


async def test_a_branch_that_nobody_would_await_fails_its_run(start_app) -> None:
    app = await start_app({"steps/unawaited_step.py": UNAWAITED})
    await app.emit("do", 1)
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert letter.headers["Bema-Reason"] == "NonRetryable"
    assert "expected a plain function beside a plain handler" in letter.headers["Bema-Errors"]


async def test_an_attempt_of_a_kind_that_the_step_is_not_started_by_is_a_dead_letter(start_app) -> None:
    app = await start_app({"steps/unawaited_step.py": UNAWAITED}, workers=0)
    [binding] = app.bindings
    limits = binding.limits.model_copy(update={"unheard_deliveries": 2})
    app.bindings = [binding.model_copy(update={"limits": limits})]
    app.spawn()
    headers = {"Bema-Kind": "state", "Bema-Run": "r1", "Bema-Attempt": "2", "ce-id": "c1", "ce-type": "state.changed"}
    data = b'{"group":"g","key":"k","type":"created","old":null,"new":1}'
    await app.js.publish(Outgoing(names.retry(app.root, "unawaited", "r1"), data, headers))
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert letter.headers["Bema-Reason"] == "NotHeard"
    assert "expected a Step with a trigger for this change of the state, found none" in letter.headers["Bema-Errors"]
    await app.wait_idle()


CHANGED_LATER = """
import threading
from bema import operations
from pydantic import BaseModel, field_serializer
config = {"triggers": [{"event": {"topics": ["do"]}}]}
class Told(BaseModel):
    x: int = 0
    @field_serializer("x")
    def write(self, value):
        print("WRITTEN BY", threading.current_thread().name, flush=True)
        return value
async def handler(data, ctx):
    line = {}
    for number in range(3):
        line["n"] = number
        await ctx.state.append("g", "lines", line)
        await ctx.state.update("g", "set", operations.set("a", line))
    line["n"] = 99
    await ctx.state.append("g", "told", Told())
"""


async def test_a_change_is_committed_as_it_was_asked_for_whatever_becomes_of_the_value(start_app) -> None:
    app = await start_app({"steps/later_step.py": CHANGED_LATER})
    await app.emit("do", 1)
    await app.wait_state("g", "lines", [{"n": 0}, {"n": 1}, {"n": 2}])
    assert await app.state("g", "set") == {"a": {"n": 2}}
    assert await app.state("g", "told") == [{"x": 0}]
    written = [line for line in app.worker.output.splitlines() if line.startswith("WRITTEN BY")]
    assert written == ["WRITTEN BY handlers"], "user code has no business on the engine's thread"


NOTHING = """
from bema import operations
config = {"triggers": [{"event": {"topics": ["do"]}}, {"state": {"group": "watched"}}]}
async def handler(data, ctx):
    if ctx.trigger.kind == "state":
        await ctx.state.append("told", "keys", data.key)
        return
    for group in ("g", "watched"):
        await ctx.state.update(group, "blind", operations.remove("x"))
        await ctx.state.update(group, "empty")
        assert await ctx.state.get(group, "read") is None
        await ctx.state.update(group, "read", operations.remove("x"))
    assert await ctx.state.list("g") == []
    assert await ctx.state.groups() == []
    await ctx.state.set("watched", "last", 1)
"""


async def test_a_change_with_nothing_to_change_makes_no_key(start_app) -> None:
    app = await start_app({"steps/nothing_step.py": NOTHING})
    await app.emit("do", 1)
    await app.wait_state("told", "keys", ["last"])
    await app.wait_idle()
    written = {message.subject for message in await app.messages(f"{app.root}.state.>")}
    assert written == {names.state(app.root, "watched", "last"), names.state(app.root, "told", "keys")}
