"""The janitor of `bema dev`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bema.contract import names
from bema.ports import connections
from bema.ports.jetstream import JetStream
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


async def test_a_step_that_comes_back_keeps_its_consumer(app: App) -> None:
    await app.subscribe("ship", "order")
    steps = [frozenset[str](), frozenset({"ship"}), frozenset[str](), frozenset[str]()]
    cleaner = Cleaner(app.js, app.janitor, app.stream, steps=lambda: steps.pop(0))
    for now in (0, GONE_SECONDS - 1, GONE_SECONDS, 2 * GONE_SECONDS - 1):
        assert await cleaner.remove_orphans(now) == []
    assert set(await app.states()) == {"ship"}
