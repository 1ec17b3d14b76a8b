"""A nats-server that is too old is named everywhere, with the version that is needed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bema.contract import errors
from bema.contract.statuses import Reason
from bema_operator import brokers as operator_brokers
from bema_operator import metrics
from bema_operator.facts import Key
from bema_operator.settings import Settings
from tests.support import brokers, operator_parts, waits
from tests.support.brokers import NatsServer
from tests.support.runtimes import App
from tools import servers

OLD = servers.VERSIONS[0]
SENTENCE = f"Bema needs nats-server 2.14.0 or later, found {OLD}; upgrade the server"
FILES = {
    "steps/count_step.py": """
config = {"triggers": [{"event": {"topics": ["order"]}}]}
async def handler(order, ctx):
    await ctx.state.increment("orders", "count")
"""
}


@pytest.fixture
def old(tmp_path: Path) -> Iterator[NatsServer]:
    try:
        program = servers.binary(OLD)
    except servers.Unavailable as error:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(f"SKIPPED, an old server is not met: {error}")
    with brokers.running(tmp_path / "nats", program=program) as server:
        yield server


async def test_by_the_runtime_until_it_is_upgraded(old: NatsServer, tmp_path: Path) -> None:
    app = App(old.url, tmp_path / "app", FILES)
    try:
        with pytest.raises(errors.BrokerTooOld, match=SENTENCE):
            await app.start()
        worker = app.spawn()
        await waits.until(lambda: SENTENCE in worker.readiness()[1], "unreadiness, said why", explain=app.explain)
        assert worker.readiness()[0] == 503
        assert any(line["level"].lower() == "warning" and SENTENCE in line["message"] for line in worker.lines)
        old.stop()
        old.program = None
        old.start()
        await app.connection.close()
        app.bindings.clear()
        await app.start(workers=0)
        await worker.wait_ready()
        await app.emit("order", {})
        await app.wait_state("orders", "count", 1)
    finally:
        await app.close()


async def test_by_the_operator_in_a_step_s_status(old: NatsServer, tmp_path: Path) -> None:
    app = App(old.url, tmp_path / "app", FILES)
    try:
        with pytest.raises(errors.BrokerTooOld):
            await app.start()
        settings = Settings(nats_urls=(old.url,))
        broker = operator_brokers.Broker(settings, metrics.Metrics(), lambda key: None)
        running = asyncio.create_task(broker.run())
        await broker.wait_connected(10)
        found = await operator_parts.ensure(broker, Key("shop", "count"), app.binding("count"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert found.problem is not None
        assert (found.problem.reason, found.problem.message) == (Reason.BROKER_TOO_OLD, SENTENCE)
    finally:
        await app.close()
