"""The janitor of `bema dev`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bema.contract import names
from bema.ports import connections
from bema.ports.jetstream import JetStream, Outgoing
from bema_cli.janitors import GONE_SECONDS, Cleaner
from tests.support import brokers, devs, janitors, waits
from tests.support.janitors import App

COUNT = """
config = {"triggers": [{"event": {"topics": ["greeted"]}}]}
async def handler(data, ctx):
    await ctx.state.increment("greetings", "all")
"""


@pytest.fixture
async def app(nats: brokers.NatsServer) -> AsyncIterator[App]:
    async with janitors.app(nats.url) as found:
        yield found


async def test_a_running_app_is_swept(tmp_path: Path) -> None:
    folder = devs.write(tmp_path / "shop", {"steps/count_step.py": COUNT})
    with devs.running(folder) as dev:
        url = (await asyncio.to_thread(dev.next, "ready"))["nats"]
        connection = await connections.connect([url], name="test", wait=5)
        js, root = JetStream(connection), names.root("shop")
        for subject in (names.floor(root, "count"), names.quota(root)):
            await waits.until(lambda s=subject: js.get_last("BEMA-shop", s), subject, timeout=devs.SECONDS)  # type: ignore[misc]
        await connection.close()
        await asyncio.to_thread(dev.stop)


async def test_the_consumer_of_a_step_that_stays_gone_is_removed_and_what_it_held_is_said(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.subscribe("ship", "order")
    await app.emit("order", 3)
    steps: list[frozenset[str] | None] = [frozenset({"pay", "ship"})]
    cleaner = Cleaner(app.js, app.janitor, app.stream, steps=lambda: steps[0])
    assert await cleaner.remove_orphans(0) == []
    steps[0] = frozenset({"pay"})
    assert await cleaner.remove_orphans(GONE_SECONDS) == []
    steps[0] = None
    assert await cleaner.remove_orphans(GONE_SECONDS * 3) == [], "nobody knows which Steps there are"
    steps[0] = frozenset({"pay"})
    [note] = await cleaner.remove_orphans(GONE_SECONDS * 3)
    assert note.text == "removed the consumer of ship, which is gone; it still held 3 events"
    assert set(await app.states()) == {"pay"}


async def test_a_step_that_hears_no_events_any_more_lets_go_once_nothing_waits_for_it(app: App) -> None:
    await app.subscribe("pay", "order")
    await app.subscribe("ship", "order")
    await app.put(
        "timer.retry.pay.run",
        Nats_Schedule="@at 2999-01-01T00:00:00Z",
        Nats_Schedule_Target=f"{app.root}.retry.pay.run",
    )
    silent = frozenset({"pay", "noop"})
    cleaner = Cleaner(app.js, app.janitor, app.stream, steps=lambda: None, silent=lambda: silent)
    await cleaner.let_go()
    assert set(await app.states()) == {"pay", "ship"}, "a retry waits"
    await app.js.purge(app.stream, names.retry_timers(app.root, "pay"), below=None)
    await cleaner.let_go()
    assert set(await app.states()) == {"ship"}


FAIL_ONCE = """
config = {"triggers": [%s], "retry": {"maxAttempts": 5, "initialSeconds": 3, "jitter": 0}}
async def handler(data, ctx):
    if ctx.attempt > 1:
        await ctx.state.increment("greetings", "all")
        return
    raise ValueError("once")
"""
HEARS, ANSWERS = '{"event": {"topics": ["greeted"]}}', '{"api": {"path": "/greet"}}'


async def test_a_retry_waits_for_a_step_that_hears_no_events_meanwhile(tmp_path: Path) -> None:
    folder = devs.write(tmp_path / "shop", {"steps/count_step.py": FAIL_ONCE % HEARS})
    root = names.root("shop")
    with devs.running(folder) as dev:
        url = (await asyncio.to_thread(dev.next, "ready"))["nats"]
        connection = await connections.connect([url], name="test", wait=5)
        js = JetStream(connection)

        async def wait(pattern: str, what: str) -> None:
            async def there() -> bool:
                return await js.get_next("BEMA-shop", pattern) is not None

            await waits.until(there, what, timeout=devs.SECONDS)

        async def edit(trigger: str) -> None:
            devs.write(folder, {"steps/count_step.py": FAIL_ONCE % trigger})
            await asyncio.to_thread(dev.next, "ready")

        try:
            await js.publish(Outgoing(names.event(root, "greeted"), b"{}"))
            await wait(names.retry_timers(root, "count"), "the retry's timer")
            await edit(ANSWERS)
            await wait(names.retry_filter(root, "count"), "the retry to come")
            await edit(HEARS)
            await wait(names.state(root, "greetings", "all"), "the run to end")
        finally:
            await connection.close()
        await asyncio.to_thread(dev.stop)


async def test_a_step_that_comes_back_keeps_its_consumer(app: App) -> None:
    await app.subscribe("ship", "order")
    steps = [frozenset[str](), frozenset({"ship"}), frozenset[str](), frozenset[str]()]
    cleaner = Cleaner(app.js, app.janitor, app.stream, steps=lambda: steps.pop(0))
    for now in (0, GONE_SECONDS - 1, GONE_SECONDS, 2 * GONE_SECONDS - 1):
        assert await cleaner.remove_orphans(now) == []
    assert set(await app.states()) == {"ship"}
