"""State triggers: every write of a watched group, with what was there before, in order, and loops that end."""

from __future__ import annotations

import json

from bema.contract import names
from bema.contract.triggers import Kind
from bema.ports import dead_letters, subscriptions
from tests.support import waits
from tests.support.proxies import Proxy

WRITE = """
config = {"triggers": [{"event": {"topics": ["write"]}}]}
async def handler(data, ctx):
    for group, key, how, value in data:
        if how == "set":
            await ctx.state.set(group, key, value)
        elif how == "delete":
            await ctx.state.delete(group, key)
        elif how == "increment":
            await ctx.state.increment(group, key, value)
        else:
            found = await ctx.state.get(group, key, 0)
            await ctx.state.set(group, key, found + value)
"""
AUDIT = """
from bema import StateChange
def is_small(change):
    return change.new is None or change.new < 1000
config = {"triggers": [{"state": {"group": "orders", "condition": is_small}}, {"state": {"group": "one", "key": "k"}}]}
async def handler(change: StateChange, ctx):
    assert ctx.trigger.kind == "state" and ctx.trigger.index == (1 if change.group == "one" else 0)
    found = await ctx.state.item(change.group, change.key)
    entry = [change.type, change.old, change.new, change.revision]
    await ctx.state.append("audit", change.group + "/" + change.key, entry)
"""


async def _audit(app, key: str, count: int):  # type: ignore[no-untyped-def]
    async def found():  # type: ignore[no-untyped-def]
        entries = await app.state("audit", key) or []
        return entries if len(entries) >= count else None

    return await waits.until(found, f"{count} changes of {key}", explain=app.explain, timeout=20)


async def test_every_write_is_told_with_what_was_there_before(start_app) -> None:
    app = await start_app({"steps/write_step.py": WRITE, "steps/audit_step.py": AUDIT})
    writes = [
        ["orders", "a", "set", 1],
        ["orders", "a", "increment", 4],
        ["orders", "a", "add", 10],
        ["orders", "a", "set", 5000],
        ["orders", "a", "delete", None],
        ["orders", "a", "delete", None],
        ["orders", "never", "delete", None],
        ["orders", "a", "set", 7],
        ["orders", "b", "set", 1],
        ["other", "a", "set", 1],
        ["one", "x", "set", 1],
        ["one", "k", "set", 2],
    ]
    revisions = []
    for write in writes:
        before = (await app.js.get_last(app.stream, names.state(app.root, write[0], write[1]))) or None
        await app.emit("write", [write])

        async def written(write=write, before=before):  # type: ignore[no-untyped-def]
            found = await app.js.get_last(app.stream, names.state(app.root, write[0], write[1]))
            return found if found is not None and (before is None or found.sequence > before.sequence) else None

        found = await waits.until(written, "the write", explain=app.explain)
        revisions.append(found.sequence)
    entries = await _audit(app, "orders/a", 5)
    assert entries == [
        ["created", None, 1, revisions[0]],
        ["updated", 1, 5, revisions[1]],
        ["updated", 5, 15, revisions[2]],
        ["deleted", 5000, None, revisions[4]],
        ["created", None, 7, revisions[7]],
    ]
    assert await _audit(app, "orders/b", 1) == [["created", None, 1, revisions[8]]]
    assert await _audit(app, "one/k", 1) == [["created", None, 2, revisions[11]]]
    assert await app.state("audit", "one/x") is None
    assert await app.state("audit", "orders/never") is None, "what was not there was not deleted"
    changes = await app.messages(names.changes(app.root))
    assert len(changes) == 9, "a group that nobody watches is not told"


ORDER = """
config = {"triggers": [{"state": {"group": "counter"}}], "retry": {"maxAttempts": 3, "initialSeconds": 0.02}}
async def handler(change, ctx):
    if change.new % 7 == 0 and ctx.attempt == 1:
        raise ValueError("once more")
    await ctx.state.append("seen", change.key, change.new)
"""


async def test_the_changes_of_a_key_come_in_order_over_replicas_and_retries(start_app) -> None:
    app = await start_app({"steps/write_step.py": WRITE, "steps/order_step.py": ORDER}, workers=2)
    for _ in range(60):
        for key in ("a", "b"):
            await app.emit("write", [["counter", key, "increment", 1]])
    for key in ("a", "b"):

        async def all_seen(key=key):  # type: ignore[no-untyped-def]
            return len(await app.state("seen", key) or []) >= 60

        await waits.until(all_seen, f"60 changes of {key}", timeout=60, explain=app.explain)
        assert await app.state("seen", key) == list(range(1, 61))


LOOP = """
config = {"triggers": [{"state": {"group": "loop"}}, {"event": {"topics": ["go"]}}], "emits": ["go"]}
async def handler(data, ctx):
    if ctx.trigger.kind == "event":
        await ctx.state.increment("loop", "n")
    else:
        await ctx.emit("go", 1)
"""


THROUGH_BATCH = {
    "steps/tell_step.py": """
config = {"triggers": [{"state": {"group": "loop"}}], "emits": ["go"]}
async def handler(change, ctx):
    await ctx.emit("go", 1)
""",
    "steps/batch_step.py": """
config = {"triggers": [{"event": {"topics": ["go"], "batch": {"size": 5, "timeoutSeconds": 0.02}}}]}
async def handler(ones, ctx):
    await ctx.state.increment("loop", "n")
""",
}


async def test_changes_that_cause_each_other_through_a_batch_come_to_an_end(start_app) -> None:
    app = await start_app(THROUGH_BATCH)
    await app.emit("go", 1)
    [letter] = await waits.until(app.dead_letters, "a dead letter", timeout=30, explain=app.explain)
    assert letter.headers["Bema-Reason"] == "StateLoop"
    await app.wait_idle()
    assert await app.state("loop", "n") == 17


async def test_changes_that_cause_each_other_come_to_an_end(start_app) -> None:
    app = await start_app({"steps/loop_step.py": LOOP})
    await app.emit("go", 1)
    [letter] = await waits.until(app.dead_letters, "a dead letter", timeout=30, explain=app.explain)
    assert (letter.headers["Bema-Reason"], letter.headers["Bema-Kind"]) == ("StateLoop", "state")
    [error] = json.loads(letter.headers["Bema-Errors"])
    assert error["message"].startswith("expected at most 16 changes to watched groups that cause each other, found one")
    await app.wait_idle()
    assert await app.state("loop", "n") == 17
    place = dead_letters.Place(app.stream, app.root)
    found = await dead_letters.find(app.js, place, names.dead_letter_of(app.root, letter.subject)[1])
    await dead_letters.redrive(app.js, place, found)

    async def is_back() -> bool:
        return bool(await app.state("loop", "n") == 34)

    await waits.until(is_back, "the loop once more, from the change that was redriven", explain=app.explain, timeout=30)


FAIL = """
config = {"triggers": [{"state": {"group": "orders"}}], "retry": {"maxAttempts": 3, "initialSeconds": 0.05}}
async def handler(change, ctx):
    raise ValueError("never")
"""


async def test_a_change_that_is_redriven_with_what_is_none_is_invalid_at_once(start_app) -> None:
    app = await start_app({"steps/write_step.py": WRITE, "steps/fail_step.py": FAIL})
    await app.emit("write", [["orders", "a", "set", 1]])
    [stored] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    place = dead_letters.Place(app.stream, app.root)
    letter = await dead_letters.find(app.js, place, names.dead_letter_of(app.root, stored.subject)[1])
    run = await dead_letters.redrive(app.js, place, letter, data=b'{"group": 5}')

    async def again() -> bool:
        return await dead_letters.find(app.js, place, run) is not None

    await waits.until(again, "the dead letter of the redrive", explain=app.explain)
    ended = await dead_letters.find(app.js, place, run)
    assert (ended.reason, ended.attempts) == ("Invalid", 1)
    assert ended.last_error["message"].startswith("group: Input should be a valid string, found 5; key: Field required")


HELD = """
import asyncio, pathlib
config = {"triggers": [{"event": {"topics": ["write"]}}]}
async def handler(data, ctx):
    ctx.logger.info("begun")
    while not pathlib.Path(data["gate"]).exists():
        await asyncio.sleep(0.02)
    await ctx.state.increment("counter", "a")
"""
SEEN = """
config = {"triggers": [{"state": {"group": "counter"}}]}
async def handler(change, ctx):
    await ctx.state.append("seen", change.key, change.new)
"""


async def test_nothing_is_written_before_it_is_known_what_is_watched(start_app, proxy: Proxy) -> None:
    app = await start_app({"steps/held_step.py": HELD, "steps/seen_step.py": SEEN}, workers=0)
    asked: dict[str, list[bytes]] = {"STREAM.MSG.GET": [], "DIRECT.GET": []}
    for endpoint, bodies in asked.items():
        await app.connection.listen(
            f"$JS.API.{endpoint}.>", lambda burst, bodies=bodies: bodies.extend(message.data for message in burst)
        )
    watched = names.watch(app.root).encode()
    proxy.swallow(watched + b'"')
    writer = app.spawn(only=["held"], urls=[proxy.url])
    await waits.until(lambda: proxy.swallowed == 1, "a question that gets no answer", explain=app.explain)
    await app.emit("write", {"gate": str(app.folder)})
    app.spawn(only=["seen"])
    await app.wait_state("seen", "a", [1])
    assert writer.readiness()[0] == 200
    assert sum(watched in body for body in asked["STREAM.MSG.GET"]) > 0
    assert sum(watched in body for body in asked["DIRECT.GET"]) == 0, "another replica may not have it yet"


async def test_after_a_lost_connection_nothing_is_written_before_it_is_known_what_is_watched(
    start_app, proxy: Proxy
) -> None:
    app = await start_app({"steps/held_step.py": HELD, "steps/seen_step.py": SEEN}, workers=0)
    await subscriptions.unwatch(app.js, app.stream, "seen")
    app.spawn(only=["held"], urls=[proxy.url])
    gate = app.folder / "gate"
    await app.emit("write", {"gate": str(gate)})
    await waits.until(lambda: "begun" in app.worker.output, "a run in hand", explain=app.explain)
    proxy.cut()
    await waits.until(lambda: app.worker.readiness()[0] == 503, "a lost connection", explain=app.explain)
    await subscriptions.ensure(app.js, app.binding("seen"))
    gate.touch()
    proxy.swallow(names.watch(app.root).encode() + b'"')
    proxy.mend()
    app.spawn(only=["seen"])
    await app.wait_state("seen", "a", [1], timeout=40)
    assert proxy.swallowed == 1


async def test_a_step_that_watches_nothing_any_more_is_not_told(start_app) -> None:
    app = await start_app({"steps/write_step.py": WRITE, "steps/order_step.py": ORDER})
    await app.emit("write", [["counter", "a", "set", 1]])
    await waits.until(lambda: app.state("seen", "a"), "the change", explain=app.explain)
    await app.wait_idle()
    assert "order" in (await subscriptions.let_go(app.js, app.stream, "order")).removed
    await app.emit("write", [["counter", "a", "set", 2]])
    await app.wait_state("counter", "a", 2)
    assert len(await app.messages(names.changes(app.root))) == 1


EDITED = """
config = {"triggers": [{"event": {"topics": ["told"]}}, {"state": {"group": "orders"}}]}
async def handler(data, ctx):
    await ctx.state.set("ran", "with", [data])
"""


async def test_an_event_that_still_comes_to_a_step_that_hears_none_is_a_dead_letter(start_app) -> None:
    """A workload may be rolled out while the broker is away: its consumer is as it was."""
    app = await start_app({"steps/edited_step.py": EDITED}, workers=0)
    [before] = app.bindings
    seconds = {kind: timeout for kind, timeout in before.timeout_seconds.items() if kind is not Kind.EVENT}
    limits = before.limits.model_copy(update={"unheard_deliveries": 2})
    app.bindings = [before.model_copy(update={"events": [], "timeout_seconds": seconds, "limits": limits})]
    await app.emit("told", 1)
    app.spawn()
    ends = names.end_filter(app.root, "edited")
    [end] = await waits.until(lambda: app.messages(ends), "the end of the run", explain=app.explain)
    assert json.loads(end.data)["outcome"] == "dead"
    [letter] = await app.dead_letters()
    assert (letter.headers["Bema-Reason"], letter.data) == ("NotHeard", b"1")
    assert await app.state("ran", "with") is None


LARGE = """
config = {"triggers": [{"event": {"topics": ["large"]}}]}
async def handler(data, ctx):
    for letter in "ab":
        await ctx.state.set("blobs", letter, letter * (768 * 1024 - 2))
"""
SIZES = """
config = {"triggers": [{"state": {"group": "blobs"}}]}
async def handler(change, ctx):
    await ctx.state.set("sizes", change.key, len(change.new))
"""


async def test_the_largest_value_that_the_state_takes_is_told(start_app) -> None:
    app = await start_app({"steps/large_step.py": LARGE, "steps/sizes_step.py": SIZES})
    await app.emit("large", 1)
    for key in ("a", "b"):
        await app.wait_state("sizes", key, 768 * 1024 - 2)
    assert await app.dead_letters() == []
