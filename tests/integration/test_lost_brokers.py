"""A broker that comes back empty: nothing of the stream before is written or acknowledged in the new one, and it is
told that its data is lost."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable

import pytest

from bema.contract import bindings, names
from bema.contract.bindings import Broker, Installation, Owner
from bema.ports import admin
from bema.ports.jetstream import Outgoing
from bema_operator import brokers as operator_brokers
from bema_operator import metrics
from bema_operator.facts import Key
from bema_operator.settings import Settings
from tests.support import operator_parts, waits
from tests.support.brokers import NatsServer
from tests.support.facts import Place
from tests.support.runtimes import NAMESPACE, App

FILES = {
    "steps/slow_step.py": """
import asyncio, os
config = {"triggers": [{"event": {"topics": ["order"]}}], "concurrency": 1}
async def handler(order, ctx):
    ctx.logger.info("Begun")
    while os.path.exists(order["until"]):
        await asyncio.sleep(0.05)
    if order.get("writes"):
        await ctx.state.set("orders", "last", order)
"""
}
EXIT_REPLACED = 76


def empty(nats: NatsServer) -> None:
    """Lose everything that it stored, and start again."""
    nats.stop(signal.SIGKILL)
    shutil.rmtree(nats.folder / "jetstream")
    nats.start()


async def make_anew(app: App, nats: NatsServer) -> None:
    """As the operator does, or `bema dev`."""
    stream = bindings.app_stream(Owner(namespace=NAMESPACE), Installation(broker=Broker(urls=[nats.url])))
    await app.wait_ensured(stream, "the stream made anew")


@pytest.mark.parametrize("writes", [False, True], ids=["without effects", "with effects"])
async def test_a_run_in_hand_is_not_settled_in_the_new_stream(
    start_app: Callable[..., Awaitable[App]], nats: NatsServer, writes: bool
) -> None:
    app = await start_app(FILES)
    gate = app.folder / "gate"
    gate.touch()
    await app.emit("order", {"until": str(gate), "writes": writes})
    await waits.until(lambda: "Begun" in app.explain(), "a begun run", explain=app.explain)
    before = await admin.stream_created(app.js, app.stream)
    sequence = await admin.last_sequence(app.js, app.stream)
    empty(nats)
    await make_anew(app, nats)
    assert await admin.stream_created(app.js, app.stream) != before
    # Another event takes the sequence of the one in hand, and is in the hands of somebody else
    for _ in range(sequence):
        await app.emit("order", {"until": "nowhere", "new": True})
    held = await Place(app.js, app.stream).pull("slow", sequence, seconds=10)
    assert len(held) == sequence
    gate.unlink()
    assert await app.worker.wait_exit(60) == EXIT_REPLACED
    assert "was made anew" in app.worker.output
    assert (await admin.consumer_states(app.js, app.stream))["slow"].unacked == sequence
    assert await app.state("orders", "last") is None


async def test_what_follows_in_the_new_stream_has_ids_of_its_own(
    start_app: Callable[..., Awaitable[App]], nats: NatsServer
) -> None:
    """Events that carry none: their id is made of sequence and time, which repeat."""
    files = {"steps/count_step.py": FILES["steps/slow_step.py"].replace('order.get("writes")', "True")}
    app = await start_app(files)
    runs = []
    for _ in range(2):
        await app.js.publish(Outgoing(names.event(app.root, "order"), b'{"until": "nowhere"}'))
        ends = await waits.until(lambda: app.messages(f"{app.root}.end.>"), "the run's end", explain=app.explain)
        runs += [end.subject for end in ends]
        if len(runs) == 1:
            empty(nats)
            await make_anew(app, nats)
            assert await app.worker.wait_exit(60) == EXIT_REPLACED
            await app.spawn().wait_ready()
    assert len(set(runs)) == 2


async def test_the_operator_is_told_of_another_stream(
    start_app: Callable[..., Awaitable[App]], nats: NatsServer
) -> None:
    app = await start_app(FILES, workers=0)
    broker = operator_brokers.Broker(Settings(nats_urls=(nats.url,)), metrics.Metrics(), lambda key: None)
    running = asyncio.create_task(broker.run())
    key, binding = Key(NAMESPACE, "slow"), app.binding("slow")
    try:
        await broker.wait_connected(10)
        first = await operator_parts.ensure(broker, key, binding)
        assert first.created == await admin.stream_created(app.js, app.stream)
        empty(nats)

        async def made() -> str:
            return (await operator_parts.ensure(broker, key, binding)).created if broker.is_connected else ""

        async def another() -> bool:
            return await made() not in ("", first.created)

        await waits.until(another, "another stream, told by its time")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
