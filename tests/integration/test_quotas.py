"""What happens when an app's storage fills up, with real bytes: who is refused, who waits, and that it all goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from bema.contract import names, retentions
from bema.contract.retentions import Level, Quota, Retentions
from bema.ports import admin, subscriptions
from bema.ports.janitors import Janitor
from bema.ports.jetstream import ROLLUP, Outgoing
from tests.support import waits
from tests.support.brokers import NatsServer
from tests.support.proxies import Proxy
from tests.support.runtimes import App

StartApp = Callable[..., Awaitable[App]]

STORAGE = 1_000_000
LARGE = "x" * 10_000

FILES = {
    "steps/order_step.py": """
config = {
    "triggers": [{"api": {"method": "POST", "path": "/orders"}}],
    "emits": ["order"],
}
async def handler(request, ctx):
    await ctx.state.increment("orders", "taken")
    await ctx.emit("order", request.body)
    return {"ok": True}
""",
    "steps/note_step.py": """
config = {"triggers": [{"api": {"method": "POST", "path": "/notes"}}]}
async def handler(request, ctx):
    await ctx.state.set("notes", "last", request.body)
    return {"ok": True}
""",
    "steps/pay_step.py": """
config = {"triggers": [{"event": {"topics": ["order"]}}], "emits": ["paid"], "concurrency": 4}
async def handler(order, ctx):
    await ctx.state.increment("orders", "paid")
    await ctx.emit("paid", {"id": 1})
""",
}


def janitor(app: App) -> Janitor:
    return Janitor(app.js, app.stream, Retentions(storage_bytes=STORAGE, events=86_400, dead_letters=86_400))


async def fill(app: App, count: int) -> None:
    """Events that nobody hears, of 1 % of the storage each."""
    for number in range(count):
        await app.emit("fill", LARGE, id=f"fill-{number}-{app.root}")


async def drop(app: App) -> None:
    await app.js.purge(app.stream, names.event_filter(app.root, "fill"), below=None)


async def shown(app: App, level: Level) -> None:
    """Until the worker's metrics show a level."""
    gauge = 'bema_app_storage_level{app="shop"}'
    await waits.until(
        lambda: app.worker.metrics().get(gauge) == list(Level).index(level), f"level {level}", explain=app.explain
    )


async def test_nearly_full_requests_that_add_events_are_refused_and_all_else_goes_on(start_app: StartApp) -> None:
    app = await start_app(FILES)
    look = janitor(app)
    await look.sweep()
    assert app.request("POST", "/orders", {"id": 1})[0] == 200
    await app.wait_state("orders", "paid", 1)

    await fill(app, 82)
    assert (await look.sweep()).quota.level is Level.HIGH
    await shown(app, Level.HIGH)
    status, body, headers = app.request("POST", "/orders", {"id": 2})
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "30")
    assert body["title"] == "App storage full"
    assert "of 977Ki used" in body["detail"]
    assert await app.state("orders", "taken") == 1, "a refused request has written something"
    assert app.request("POST", "/notes", {"text": "no event"})[0] == 200
    assert app.worker.readiness() == (200, f"ok\napp storage high: {await _quota(app)}\n")

    await app.emit("order", {"id": 3})
    await app.wait_state("orders", "paid", 2)
    assert len(await app.events("paid")) == 2

    await drop(app)
    assert (await look.sweep()).quota.level is Level.NORMAL
    await shown(app, Level.NORMAL)
    assert app.request("POST", "/orders", {"id": 2})[0] == 200
    assert sum("storage is nearly full" in line["message"] for line in app.worker.lines) == 1
    assert sum("has room again" in line["message"] for line in app.worker.lines) == 1


async def test_full_events_wait_and_are_all_handled_when_there_is_room(start_app: StartApp) -> None:
    app = await start_app(FILES)
    look = janitor(app)
    await fill(app, 97)
    assert (await look.sweep()).quota.level is Level.FULL
    await shown(app, Level.FULL)
    await _nobody_pulls(app, "pay")
    for number in range(20):
        await app.emit("order", {"id": number})
    state = (await admin.consumer_states(app.js, app.stream))["pay"]
    assert (state.pending, state.unacked) == (20, 0), "events are taken although the storage is full"

    await drop(app)
    await look.sweep()
    await app.wait_state("orders", "paid", 20)
    await app.wait_idle()
    assert len(await app.events("paid")) == 20


async def test_full_steps_that_emit_nothing_go_on_and_make_room(start_app: StartApp) -> None:
    archive = """
config = {"triggers": [{"event": {"topics": ["fill"]}}]}
async def handler(text, ctx):
    await ctx.state.increment("filled", "bytes", len(text))
"""
    app = await start_app({**FILES, "steps/archive_step.py": archive}, workers=0)
    look = janitor(app)
    await fill(app, 97)
    await app.emit("order", {"id": 1})
    assert (await look.sweep()).quota.level is Level.FULL
    await app.emit("order", {"id": 2})
    app.spawn()
    await app.worker.wait_ready()
    await shown(app, Level.FULL)
    await app.wait_state("filled", "bytes", 97 * len(LARGE))
    assert await app.state("orders", "paid") is None

    async def has_room() -> bool:
        return (await look.sweep()).quota.level is Level.NORMAL

    await waits.until(has_room, "room, once what was settled is gone", explain=app.explain)
    await app.wait_state("orders", "paid", 2)


WATCHED = {
    "steps/note_step.py": FILES["steps/note_step.py"],
    "steps/draft_step.py": FILES["steps/note_step.py"].replace("notes", "drafts"),
    "steps/write_step.py": """
config = {"triggers": [{"event": {"topics": ["write"]}}], "concurrency": 1}
async def handler(number, ctx):
    await ctx.state.increment("notes", "written")
""",
    "steps/audit_step.py": """
config = {"triggers": [{"state": {"group": "notes"}}]}
async def handler(change, ctx):
    await ctx.state.increment("audit", change.key)
""",
}


async def test_nearly_full_a_request_that_writes_what_is_watched_adds_an_event(start_app: StartApp) -> None:
    app = await start_app(WATCHED)
    await tell(app, Level.HIGH, at=1)
    await shown(app, Level.HIGH)
    assert app.request("POST", "/notes", {"text": "told"})[0] == 503
    assert app.request("POST", "/drafts", {"text": "not told"})[0] == 200
    assert await app.state("notes", "last") is None
    await app.emit("write", 1)
    await app.wait_state("audit", "written", 1)
    await tell(app, Level.NORMAL, at=2)
    await shown(app, Level.NORMAL)
    assert app.request("POST", "/notes", {"text": "told"})[0] == 200
    await app.wait_state("audit", "last", 1)


async def test_full_a_step_that_was_seen_to_write_what_is_watched_waits(start_app: StartApp) -> None:
    app = await start_app(WATCHED)
    await app.emit("write", 0)
    await app.wait_state("audit", "written", 1)
    await tell(app, Level.FULL, at=1)
    await shown(app, Level.FULL)
    await _nobody_pulls(app, "write")
    for number in range(20):
        await app.emit("write", number)
    assert (await admin.consumer_states(app.js, app.stream))["write"].pending == 20

    await subscriptions.unwatch(app.js, app.stream, "audit")
    await app.wait_state("notes", "written", 21)
    assert await app.state("audit", "written") == 1, "what is not watched any more adds no events"


async def test_full_a_step_writes_what_is_watched_with_what_it_has_in_hand_and_then_waits(start_app: StartApp) -> None:
    app = await start_app(WATCHED, workers=0)
    for number in range(100):
        await app.emit("write", number)
    await tell(app, Level.FULL, at=1)
    app.spawn()
    await app.worker.wait_ready()
    await shown(app, Level.FULL)
    await waits.until(lambda: app.state("audit", "written"), "the first change", explain=app.explain)
    await _nobody_pulls(app, "write")
    in_hand = app.binding("write").in_hand
    assert (await admin.consumer_states(app.js, app.stream))["write"].pending >= 100 - in_hand > 50
    await tell(app, Level.NORMAL, at=2)
    await app.wait_state("audit", "written", 100)


async def test_what_a_worker_has_in_hand_when_the_storage_is_full_ends_well(start_app: StartApp) -> None:
    slow = {
        "steps/slow_step.py": """
import asyncio, pathlib
config = {"triggers": [{"event": {"topics": ["order"]}}], "concurrency": 3, "emits": ["done"]}
async def handler(order, ctx):
    while not pathlib.Path(order["gate"]).exists():
        await asyncio.sleep(0.02)
    await ctx.state.increment("orders", "done")
"""
    }
    app = await start_app(slow)
    gate = app.folder / "open"
    for _ in range(10):
        await app.emit("order", {"gate": str(gate)})

    async def taken() -> bool:
        return (await admin.consumer_states(app.js, app.stream))["slow"].unacked == 3

    await waits.until(taken, "three events in hand")
    await tell(app, Level.FULL, at=1)
    await shown(app, Level.FULL)
    await _nobody_pulls(app, "slow")
    gate.touch()
    await app.wait_state("orders", "done", 3)
    await tell(app, Level.NORMAL, at=2)
    await app.wait_state("orders", "done", 10)


async def test_a_worker_that_starts_or_comes_back_learns_the_level(start_app: StartApp, nats: NatsServer) -> None:
    proxy = Proxy(nats.port)
    await proxy.start()
    app = await start_app(FILES, workers=0, nats_url=proxy.url)
    await tell(app, Level.FULL, at=1)
    app.spawn()
    await app.worker.wait_ready()
    await shown(app, Level.FULL)
    await app.emit("order", {"id": 1})
    await _nobody_pulls(app, "pay")

    await proxy.close()
    await waits.until(lambda: app.worker.readiness()[0] == 503, "a worker without a connection", explain=app.explain)
    await tell(app, Level.NORMAL, at=2)
    await proxy.start()
    await app.wait_state("orders", "paid", 1)
    await proxy.close()


async def test_a_tick_that_adds_events_is_tried_again_until_there_is_room(start_app: StartApp) -> None:
    app = await start_app(
        {
            "steps/report_step.py": """
config = {
    "triggers": [{"cron": {"schedule": "0 0 1 1 *"}}],
    "emits": ["report"],
    "retry": {"maxAttempts": 50, "backoff": "Fixed", "initialSeconds": 0.1},
}
async def handler(tick, ctx):
    await ctx.emit("report", {"at": 1})
"""
        },
        workers=0,
    )
    await tell(app, Level.HIGH, at=1)
    worker = app.spawn(once=True, env={"BEMA_JOB_NAME": "by-hand"})
    await waits.until(lambda: "AppStorageFull" in worker.output, "a refused commit", explain=lambda: worker.output)
    assert await app.events("report") == []
    await tell(app, Level.NORMAL, at=2)
    assert await worker.wait_exit() == 0
    assert len(await app.events("report")) == 1


async def tell(app: App, level: Level, *, at: float) -> None:
    """What a janitor would say."""
    quota = Quota(level, used=97, storage=100, time=at)
    await app.js.publish(Outgoing(names.quota(app.root), quota.to_json(), {ROLLUP: "sub"}))


async def _quota(app: App) -> Quota:
    stored = await app.js.get_last(app.stream, names.quota(app.root))
    assert stored is not None
    return retentions.read_quota(stored.data)


async def _nobody_pulls(app: App, step: str) -> None:
    """Until the server has nobody left who asks for a Step's events."""

    async def waiting() -> Any:
        info = await app.js.api(f"CONSUMER.INFO.{app.stream}.{step}")
        return info["num_waiting"] == 0

    await waits.until(waiting, f"no pull requests for {step}", explain=app.explain)
