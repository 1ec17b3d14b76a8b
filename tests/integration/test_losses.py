"""A consumer that is lost while its Step works, and made again: nothing is lost and nothing counts twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bema.contract import floors, names
from bema.contract.retentions import Retentions
from bema.ports import admin
from bema.ports.janitors import Janitor
from tests.support import waits
from tests.support.runtimes import App

FILES = {
    "steps/count_step.py": """
config = {"triggers": [{"event": {"topics": ["order"]}}], "emits": ["counted"], "concurrency": 4}
async def handler(order, ctx):
    ctx.logger.info("Handled", extra={"order": order["id"]})
    await ctx.state.increment("orders", "count")
    await ctx.emit("counted", order)
"""
}


async def test_nothing_is_lost_and_nothing_counts_twice(start_app: Callable[..., Awaitable[App]]) -> None:
    app = await start_app(FILES)
    kept = Retentions(storage_bytes=2**30, events=3600, dead_letters=3600)
    janitor = Janitor(app.js, app.stream, kept)
    await _emit(app, 0, 20)
    await app.wait_idle()
    await janitor.sweep()
    stored = await app.js.get_last(app.stream, names.floor(app.root, "count"))
    assert stored is not None
    floor = floors.read(stored.data).floor

    await _emit(app, 20, 40)
    await app.wait_idle()
    await app.js.api(f"CONSUMER.DELETE.{app.stream}.count")
    await _emit(app, 40, 60)
    consumer = app.binding("count").consumer
    assert consumer is not None
    await admin.ensure_consumer(app.js, app.stream, consumer)
    await waits.until(lambda: app.worker.readiness()[0] == 200, "a worker that pulls again", explain=app.explain)
    await app.wait_state("orders", "count", 60)
    await app.wait_idle()

    assert await app.state("orders", "count") == 60
    assert len(await app.events("counted")) == 60
    config = (await app.js.api(f"CONSUMER.INFO.{app.stream}.count"))["config"]
    assert config["opt_start_seq"] == floor + 1
    handled = [line["order"] for line in app.worker.lines if line["message"] == "Handled"]
    assert sorted(set(handled)) == list(range(60))
    assert all(handled.count(order) == 1 for order in range(20)), "what lay below the floor was given again"


async def _emit(app: App, first: int, last: int) -> None:
    for number in range(first, last):
        await app.emit("order", {"id": number})
