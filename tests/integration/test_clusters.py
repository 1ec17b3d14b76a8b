"""A Step on a stream of three replicas, while its servers change places."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bema.contract import bindings, errors
from bema.contract.bindings import Broker, Installation, Owner
from tests.support import clusters, waits
from tests.support.brokers import NatsServer
from tests.support.clusters import Cluster
from tests.support.runtimes import NAMESPACE, App

RELAY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], "concurrency": 8}
async def handler(data, ctx):
    await ctx.state.set("last", "n", await ctx.state.get("last", "n", 0) + 1)
    await ctx.emit("b", data)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with clusters.running(tmp_path / "cluster") as cluster:
        yield cluster


async def emit(app: App, first: int, last: int) -> None:
    """Numbered events; one that nobody confirmed is sent again, under the same id."""

    async def sent(number: int) -> bool:
        try:
            await app.emit("a", {"n": number}, id=f"e{number}")
        except errors.BrokerError:
            return False
        return True

    for number in range(first, last):
        await waits.until(lambda n=number: sent(n), f"event {number} accepted", timeout=60, explain=app.explain)


async def test_leaders_that_leave_die_and_return_lose_and_double_nothing(cluster: Cluster, tmp_path: Path) -> None:
    app = App(cluster.urls, tmp_path / "app", {"steps/relay_step.py": RELAY})
    try:
        await app.start(workers=2, replicas=3)
        first = await cluster.wait_leader(app.stream)
        sending = asyncio.create_task(emit(app, 0, 60))
        await cluster.step_down(app.stream)
        second = await cluster.wait_leader(app.stream, other_than=first)
        await sending
        sending = asyncio.create_task(emit(app, 60, 120))
        second.stop(signal.SIGKILL)
        third = await cluster.wait_leader(app.stream, other_than=second)
        await sending
        second.start()
        await cluster.wait_current(app.stream)
        third.pause()
        await cluster.wait_leader(app.stream, other_than=third)
        third.go_on()
        await emit(app, 120, 150)
        await app.wait_state("last", "n", 150, timeout=60)
        await app.wait_idle(timeout=60)
        assert len(await app.events("b")) == 150
    finally:
        await app.close()


FIRST = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], "concurrency": 32}
async def handler(data, ctx):
    await ctx.state.set("seen", str(data["n"]), 1)
    await ctx.emit("b", data)
"""
SECOND = """
config = {"triggers": [{"event": {"topics": ["b"]}}], "concurrency": 32}
async def handler(data, ctx):
    found = await ctx.state.get("seen", str(data["n"]))
    await ctx.state.increment("reads", "old" if found is None else "new")
"""


async def hinder(cluster: Cluster, leader: NatsServer) -> None:
    """Stop and continue those who follow, one after the other, so that they are always behind."""
    followers = [node for node in cluster.nodes if node is not leader]
    try:
        while True:
            for node in followers:
                node.pause()
                await asyncio.sleep(0.1)
                node.go_on()
    finally:
        for node in followers:
            node.go_on()


async def test_a_run_sees_what_the_run_before_it_committed(cluster: Cluster, tmp_path: Path) -> None:
    app = App(cluster.urls, tmp_path / "app", {"steps/first_step.py": FIRST, "steps/second_step.py": SECOND})
    try:
        await app.start(workers=2, replicas=3)
        hindering = asyncio.create_task(hinder(cluster, await cluster.wait_leader(app.stream)))
        await asyncio.gather(*(emit(app, 100 * part, 100 * part + 100) for part in range(8)))
        hindering.cancel()
        await asyncio.gather(hindering, return_exceptions=True)
        await app.wait_idle(timeout=90)
        assert (await app.state("reads", "new"), await app.state("reads", "old")) == (800, None)
    finally:
        await app.close()


async def test_one_replica_becomes_three_and_one_again_while_events_flow(cluster: Cluster, tmp_path: Path) -> None:
    app = App(cluster.urls, tmp_path / "app", {"steps/relay_step.py": RELAY})
    try:
        await app.start(workers=2, replicas=1)
        done = 0
        for replicas in (3, 1):
            sending = asyncio.create_task(emit(app, done, done + 80))
            await waits.until(lambda n=done: _came(app, n), "the first events", timeout=60, explain=app.explain)
            await _resize(app, replicas)
            await sending
            done += 80
            await waits.until(
                lambda n=replicas: _spread_over(app, n),
                f"{replicas} replicas of stream and consumer",
                timeout=60,
                explain=cluster.last_words,
            )
        await app.wait_state("last", "n", done, timeout=60)
        await app.wait_idle(timeout=60)
        numbers = [json.loads(stored.data)["n"] for stored in await app.events("b")]
        assert sorted(numbers) == list(range(done))
    finally:
        await app.close()


async def _came(app: App, number: int) -> bool:
    try:
        return len(await app.events("b")) > number
    except errors.BrokerError:
        return False


async def _resize(app: App, replicas: int) -> None:
    """As the operator does when its installation's replicas are another number."""
    installation = Installation(broker=Broker(urls=app.nats_urls), replicas=replicas)
    stream = bindings.app_stream(Owner(namespace=NAMESPACE), installation)
    await app.wait_ensured(stream, f"{replicas} replicas accepted", timeout=60)


async def _spread_over(app: App, replicas: int) -> bool:
    try:
        answers = [await app.js.api(f"{what}.INFO.{app.stream}{of}") for what, of in PARTS]
    except errors.BrokerError:
        return False
    found = [answer.get("cluster") or {} for answer in answers]
    return all(
        bool(one.get("leader"))
        and 1 + len(one.get("replicas") or []) == replicas
        and all(follower["current"] for follower in one.get("replicas") or [])
        for one in found
    )


PARTS = (("STREAM", ""), ("CONSUMER", ".relay"))
