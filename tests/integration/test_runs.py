"""Runs of event Steps: effects committed once, conflicts, retries, dead letters."""

from __future__ import annotations

import json

from bema.contract import names
from tests.support import waits

RELAY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"]}
async def handler(data, ctx):
    await ctx.state.set("seen", data["id"], {"attempt": ctx.attempt, "run": ctx.run_id})
    await ctx.emit("b", {"id": data["id"]}, key="k")
"""


async def test_a_run_commits_its_state_its_emits_and_its_marker(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY})
    event_id = await app.emit("a", {"id": "x"})
    seen = await waits.until(lambda: app.state("seen", "x"), "the state of x", explain=app.explain)
    [emitted] = await app.events("b")
    assert json.loads(emitted.data) == {"id": "x"}
    assert emitted.headers["ce-id"] == f"{seen['run']}.1"
    assert emitted.headers["ce-partitionkey"] == "k"
    [marker] = await app.messages(f"{app.root}.end.>")
    assert marker.subject == f"{app.root}.end.relay.event.{seen['run']}"
    assert json.loads(marker.data)["outcome"] == "ok"
    await app.wait_idle()
    assert event_id


COUNTER = """
import asyncio
config = {"triggers": [{"event": {"topics": ["sold"]}}], "concurrency": 16}
async def handler(data, ctx):
    stock = await ctx.state.get("stock", "apple", 100)
    await asyncio.sleep(0.001)
    await ctx.state.set("stock", "apple", stock - 1)
"""


async def test_a_plain_read_modify_write_loses_no_update_across_two_workers(start_app) -> None:
    app = await start_app({"steps/sell_step.py": COUNTER}, workers=2)
    for number in range(60):
        await app.emit("sold", {}, id=f"e{number}")
    await app.wait_state("stock", "apple", 40, timeout=30)
    await app.wait_idle(timeout=30)
    assert await app.dead_letters() == []
    metrics = [worker.metrics() for worker in app.workers]
    assert sum(m['bema_conflicts_total{app="shop",step="sell"}'] for m in metrics) > 0


BLIND = """
from bema import operations
config = {"triggers": [{"event": {"topics": ["hit"]}}]}
async def handler(data, ctx):
    await ctx.state.increment("hits", "total")
    await ctx.state.update("hits", "last", operations.merge({"n": data["n"]}), operations.append(data["n"], "all"))
"""


async def test_blind_changes_are_applied_again_without_running_the_handler_again(start_app) -> None:
    app = await start_app({"steps/hit_step.py": BLIND}, workers=2)
    for number in range(40):
        await app.emit("hit", {"n": number})
    await app.wait_state("hits", "total", 40, timeout=30)
    await app.wait_idle(timeout=30)
    assert sorted((await app.state("hits", "last"))["all"]) == list(range(40))
    for worker in app.workers:
        assert worker.metrics()['bema_conflicts_total{app="shop",step="hit"}'] == 0


FLAKY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["done"],
          "retry": {"maxAttempts": 3, "initialSeconds": 0.05, "jitter": 0}}
def handler(data, ctx):
    ctx.state.set("half", "done", ctx.attempt)
    if ctx.attempt < data["succeeds"]:
        raise RuntimeError(f"no {ctx.attempt}")
    ctx.emit("done", {"attempt": ctx.attempt})
"""


async def test_a_failed_attempt_leaves_nothing_and_the_next_one_is_counted(start_app) -> None:
    app = await start_app({"steps/flaky_step.py": FLAKY})
    await app.emit("a", {"succeeds": 3})
    await waits.until(lambda: app.events("done"), "the event", explain=app.explain)
    [done] = await app.events("done")
    assert json.loads(done.data) == {"attempt": 3}
    assert await app.state("half", "done") == 3
    await app.wait_idle()
    assert await app.dead_letters() == []


async def test_a_run_that_fails_for_good_becomes_a_dead_letter_with_its_history(start_app) -> None:
    app = await start_app({"steps/flaky_step.py": FLAKY})
    event_id = await app.emit("a", {"succeeds": 9})
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert letter.data == b'{"succeeds": 9}'
    assert letter.headers["Bema-Reason"] == "AttemptsExhausted"
    assert letter.headers["ce-id"] == event_id
    history = json.loads(letter.headers["Bema-Errors"])
    assert [(entry["attempt"], entry["type"], entry["message"]) for entry in history] == [
        (1, "RuntimeError", "no 1"),
        (2, "RuntimeError", "no 2"),
        (3, "RuntimeError", "no 3"),
    ]
    [marker] = await app.messages(f"{app.root}.end.>")
    assert json.loads(marker.data)["outcome"] == "dead"
    assert await app.state("half", "done") is None
    await app.wait_idle()


MODEL = """
from pydantic import BaseModel
class Order(BaseModel):
    id: str
    count: int
config = {"triggers": [{"event": {"topics": ["order"]}}]}
async def handler(order: Order, ctx):
    await ctx.state.set("orders", order.id, order)
"""


async def test_malformed_events_are_dead_letters_at_once_with_the_reason(start_app) -> None:
    app = await start_app({"steps/order_step.py": MODEL})
    await app.emit("order", b"{not json", id="broken")
    await app.emit("order", {"id": "x", "count": "many"}, id="wrong")
    await app.emit("order", {"id": "good", "count": 2})

    async def two() -> bool:
        return len(await app.dead_letters()) == 2

    await waits.until(two, "two dead letters", explain=app.explain)
    letters = {letter.headers["ce-id"]: letter for letter in await app.dead_letters()}
    assert {letter.headers["Bema-Reason"] for letter in letters.values()} == {"Invalid"}
    assert "expected JSON" in letters["broken"].headers["Bema-Errors"]
    assert json.loads(letters["wrong"].headers["Bema-Errors"])[0]["details"] == [
        {
            "field": "count",
            "message": "Input should be a valid integer, unable to parse string as an integer",
            "found": '"many"',
        }
    ]
    await app.wait_state("orders", "good", {"id": "good", "count": 2})


UNDECLARED = """
from bema import NonRetryable
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    await ctx.state.set("g", "k", 1)
    if data == "topic":
        await ctx.emit("c", {})
    if data == "header":
        await ctx.emit("b", {}, headers={"Nats-Rollup": "all"})
    if data == "large":
        await ctx.state.set("g", "big", "x" * 800_000)
    if data == "many":
        for number in range(501):
            await ctx.emit("b", number)
    if data == "json":
        await ctx.emit("b", object())
    if data == "key":
        await ctx.state.set("g", "k" * 2000, 1)
    raise NonRetryable("stop")
"""


async def test_refused_effects_are_named_and_nothing_is_written(start_app) -> None:
    app = await start_app({"steps/bad_step.py": UNDECLARED})
    cases = {
        "topic": ("UndeclaredTopic", "bad emits 'c', which its config does not declare; declared are b"),
        "header": ("ReservedHeader", "found 'Nats-Rollup'"),
        "large": ("PayloadTooLarge", "state g/big: expected at most 786432 bytes of JSON, found 800002"),
        "many": ("TooManyEffects", "expected at most 500 effects in one run, found one more"),
        "json": ("PayloadInvalid", "event b: expected a value that JSON can hold, found"),
        "key": ("NameInvalid", "key is too long: expected at most 1024 characters"),
        "else": ("NonRetryable", "stop"),
    }
    for case in cases:
        await app.emit("a", case, id=case)
    for case, [entry] in (await app.wait_dead(len(cases))).items():
        kind, message = cases[case]
        assert entry["type"] == kind
        assert message in entry["message"]
    assert await app.messages(f"{app.root}.state.>") == []
    assert await app.events("b") == []


async def test_a_foreign_message_without_cloudevents_headers_is_an_event(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY})
    await app.connection.publish(f"{app.root}.evt.live.0.a", b'{"id": "bare"}')
    seen = await waits.until(lambda: app.state("seen", "bare"), "the state", explain=app.explain)
    assert len(seen["run"]) == 32


STRANGE = """
config = {"triggers": [{"event": {"topics": ["weird topic.> \\u00e9"]}}]}
async def handler(data, ctx):
    for key in data:
        await ctx.state.set("group with .>* \\u2603", key, key)
        assert await ctx.state.get("group with .>* \\u2603", key) == key
    items = await ctx.state.list("group with .>* \\u2603")
    await ctx.state.set("result", "keys", [item.key for item in items])
"""


async def test_topics_groups_and_keys_may_be_any_text(start_app) -> None:
    app = await start_app({"steps/strange_step.py": STRANGE})
    keys = ["a b", "a.b", ">", "*", "é", "x" * 300, "", "☃"]
    await app.emit("weird topic.> é", keys)
    await waits.until(lambda: app.state("result", "keys"), "the result", explain=app.explain)
    assert await app.state("result", "keys") == keys


STATE = """
config = {"triggers": [{"event": {"topics": ["a"]}}]}
async def handler(data, ctx):
    s = ctx.state
    await s.set("g", "x", {"n": 1})
    assert await s.get("g", "x") == {"n": 1}
    await s.increment("g", "x", 2, "n")
    assert await s.get("g", "x") == {"n": 3}
    assert await s.increment_and_get("g", "count", 5) == 5
    assert await s.increment_and_get("g", "x", 1, "n") == 4
    await s.set("g", "gone", 1)
    await s.delete("g", "gone")
    assert await s.get("g", "gone", "none") == "none"
    await s.delete("g", "old")
    assert [i.key for i in await s.list("g")] == ["x", "count"]
    assert [i.key for i in await s.list("g", prefix="c")] == ["count"]
    first = await s.list("g", limit=1)
    second = await s.list("g", limit=1, cursor=first.cursor)
    assert [[i.key for i in first], [i.key for i in second], second.cursor] == [["x"], ["count"], None]
    await s.set("g", "ok", ctx.trigger.topic)
"""


async def test_reads_see_the_runs_own_writes(start_app) -> None:
    app = await start_app({"steps/state_step.py": STATE})
    await app.js.publish(_state(app, "old", b"7"))
    await app.emit("a", {})
    await app.wait_state("g", "ok", "a")
    assert await app.state("g", "x") == {"n": 4}
    assert await app.state("g", "old") is None
    assert await app.state("g", "gone") is None


def _state(app, key, value):  # type: ignore[no-untyped-def]
    from bema.ports.jetstream import Outgoing

    return Outgoing(f"{app.root}.state.g.{key}", value)


READS = """
config = {"triggers": [{"event": {"topics": ["a"]}}]}
async def handler(data, ctx):
    await ctx.state.set("seen", "value", await ctx.state.get("stock", "apple"))
    await ctx.state.set("done", "x", 1)
"""


async def test_the_leader_is_asked_for_the_state(start_app) -> None:
    """Another replica may not have it yet: what the run before committed would be missing, now and then."""
    app = await start_app({"steps/reads_step.py": READS})
    asked: dict[str, list[bytes]] = {"STREAM.MSG.GET": [], "DIRECT.GET": []}
    for endpoint, bodies in asked.items():
        await app.connection.listen(
            f"$JS.API.{endpoint}.>", lambda burst, bodies=bodies: bodies.extend(message.data for message in burst)
        )
    await app.emit("a", 1)
    await app.wait_state("done", "x", 1)
    subject = names.state(app.root, "stock", "apple").encode()
    assert [sum(subject in body for body in bodies) for bodies in asked.values()] == [1, 0]
