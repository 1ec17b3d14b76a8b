"""How long a value of the state lives: by the broker's clock, whatever is changed and whatever other clocks say."""

from __future__ import annotations

import time

import pytest

from bema.contract import names
from tests.support import skews, waits

LONGEST = 601
"""What the broker may be told of a value that has 600 seconds: what it last said about its clock was on its way for a
moment, so the worker's idea of it is late, and a whole number of seconds is rounded up. The value's exact end is kept
beside it, and holds for whoever reads."""


async def _lifetime(app, key: str) -> int:  # type: ignore[no-untyped-def]
    stored = await app.js.get_last(app.stream, names.state(app.root, "g", key))
    assert stored is not None
    return int(stored.headers["Nats-TTL"].removesuffix("s"))


LIFETIME = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    s = ctx.state
    if data == "set":
        for key in ("short", "kept", "grown", "read"):
            await s.set("g", key, [1], ttl=3)
    else:
        await s.set("g", "kept", [2])
        await s.append("g", "grown", 2)
        assert await s.get("g", "read") == [1]
        await s.append("g", "read", 2)
    await s.increment("done", "count")
"""


async def test_a_value_goes_away_by_itself_and_a_change_keeps_the_time(start_app) -> None:
    app = await start_app({"steps/life_step.py": LIFETIME})
    await app.emit("do", "set")
    await app.wait_state("done", "count", 1)
    await app.emit("do", "change")
    await app.wait_state("done", "count", 2)
    assert [await app.state("g", key) for key in ("kept", "grown", "read")] == [[2], [1, 2], [1, 2]]

    async def gone() -> bool:
        return [await app.state("g", key) for key in ("short", "grown", "read")] == [None] * 3

    await waits.until(gone, "three values to go away", explain=app.explain)
    assert await app.state("g", "kept") == [2]


WINDOW = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    if data == "set":
        await ctx.state.set("g", "count", 0, ttl=3)
        return
    if data == "read":
        await ctx.state.get("g", "count")
    await ctx.state.increment("g", "count")
"""
TOLD = """
config = {"triggers": [{"state": {"group": "g"}}]}
async def handler(change, ctx):
    await ctx.state.append("told", "types", change.type)
"""


@pytest.mark.parametrize("how", ["blind", "read"])
async def test_a_value_that_is_changed_all_the_time_goes_away_in_its_time(start_app, how: str) -> None:
    app = await start_app({"steps/window_step.py": WINDOW, "steps/told_step.py": TOLD})
    await app.emit("do", "set")
    await app.wait_state("g", "count", 0)
    began, last = time.monotonic(), 0

    async def another() -> int | None:
        found = await app.state("g", "count")
        return None if found == last else found

    async def begins_anew() -> bool:
        nonlocal last
        await app.emit("do", how)
        before, last = last, await waits.until(another, "the change", explain=app.explain)
        return last < before

    await waits.until(begins_anew, "a count that begins anew", explain=app.explain)
    assert last == 1
    assert 2 < time.monotonic() - began < 8
    stored = await app.js.get_last(app.stream, names.state(app.root, "g", "count"))
    assert stored is not None
    assert "Nats-TTL" not in stored.headers
    types = await waits.until(lambda: _told(app), "the second creation", explain=app.explain)
    assert types.count("updated") == len(types) - 2


async def _told(app) -> list[str] | None:  # type: ignore[no-untyped-def]
    types = await app.state("told", "types") or []
    return types if types.count("created") == 2 else None


LONG_LIFE = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    s = ctx.state
    if data == "set":
        for key in ("blind", "read"):
            await s.set("g", key, [1], ttl=600)
    else:
        await s.append("g", "blind", 2)
        assert await s.get("g", "read") == [1]
        await s.append("g", "read", 2)
    await s.increment("done", "count")
"""


@pytest.mark.parametrize("skew", [-3600, 3600], ids=["an hour behind", "an hour ahead"])
async def test_the_time_of_a_value_is_the_brokers_whatever_the_workers_clock_says(start_app, skew: int) -> None:
    app = await start_app({"steps/life_step.py": LONG_LIFE}, workers=0)
    worker = app.spawn(env={skews.VARIABLE: str(skew)}, module="tests.support.skews")
    await worker.wait_ready()
    for count, what in enumerate(["set", "change"], start=1):
        await app.emit("do", what)
        await app.wait_state("done", "count", count)
    for key in ("blind", "read"):
        assert await app.state("g", key) == [1, 2]
        assert 540 <= await _lifetime(app, key) <= LONGEST


TOUCH = """
config = {"triggers": [{"event": {"topics": ["set", "change"]}}]}
async def handler(key, ctx):
    if ctx.trigger.topic == "set":
        await ctx.state.set("g", key, 0, ttl=600)
    else:
        await ctx.state.increment("g", key)
"""


@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["back", "forward"])
async def test_a_clock_that_is_set_while_a_worker_runs_changes_no_lifetime(start_app, tmp_path, seconds: int) -> None:
    app = await start_app({"steps/touch_step.py": TOUCH}, workers=0)
    jump = tmp_path / "jump"
    worker = app.spawn(env={skews.JUMP: str(jump)}, module="tests.support.skews")
    await worker.wait_ready()
    await app.emit("set", "k")
    await app.wait_state("g", "k", 0)
    jump.write_text(str(seconds))
    await app.emit("change", "k")
    await app.wait_state("g", "k", 1)
    assert 540 <= await _lifetime(app, "k") <= LONGEST


async def test_after_a_sleep_of_the_machine_the_brokers_clock_is_asked_anew(start_app, tmp_path) -> None:
    app = await start_app({"steps/touch_step.py": TOUCH}, workers=0)
    sleep = tmp_path / "sleep"
    worker = app.spawn(env={skews.SLEEP: str(sleep)}, module="tests.support.skews")
    await worker.wait_ready()
    await app.emit("set", "k")
    await app.wait_state("g", "k", 0)
    sleep.write_text("3600")
    count = 0

    async def changed() -> bool:
        nonlocal count
        count += 1
        await app.emit("set", f"k{count}")
        await app.wait_state("g", f"k{count}", 0)
        await app.emit("change", f"k{count}")
        await app.wait_state("g", f"k{count}", 1)
        return await _lifetime(app, f"k{count}") <= LONGEST

    await waits.until(changed, "a lifetime by the broker's clock", timeout=30, explain=app.explain)


RETRY = """
config = {"triggers": [{"event": {"topics": ["do"]}}], "retry": {"initialSeconds": 0.1}}
async def handler(data, ctx):
    if ctx.attempt == 1:
        raise ValueError("once more")
    await ctx.state.set("g", "attempt", ctx.attempt)
"""


async def test_a_retry_comes_in_its_time_whatever_the_workers_clock_says(start_app) -> None:
    app = await start_app({"steps/retry_step.py": RETRY}, workers=0)
    worker = app.spawn(env={skews.VARIABLE: "3600"}, module="tests.support.skews")
    await worker.wait_ready()
    await app.emit("do", 1)
    await app.wait_state("g", "attempt", 2)
