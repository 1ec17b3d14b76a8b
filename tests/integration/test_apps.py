"""What an App says, at a real broker: as many copies as there are servers for, and a `bema dev` that goes by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bema.contract import bindings, names, retentions
from bema.contract.bindings import Binding, Owner
from bema.contract.statuses import Reason
from bema.contract.steps import Step
from bema.ports import admin, connections
from bema.ports.jetstream import JetStream
from bema_operator.brokers import Broker
from bema_operator.facts import Key, Subscription
from bema_operator.metrics import Metrics
from bema_operator.settings import Settings
from tests.support import clusters, devs, operator_parts, waits
from tests.support.brokers import NatsServer

KEY = Key("shop", "work")
STREAM = names.stream("shop")


class Place:
    """The operator's side of a broker, and what it says of an app."""

    def __init__(self, broker: Broker, settings: Settings, looked: list[str]) -> None:
        self.broker = broker
        self.looked = looked
        spec: Any = {"triggers": [{"event": {"topics": ["a"]}}], "code": {"entrypoint": "a_step.py", "image": "none"}}
        self.binding: Binding = bindings.bind(
            Step(name=KEY.name, spec=spec), Owner(namespace="shop", namespace_uid="n"), settings.as_installation()
        )

    async def ensure(self, replicas: int, key: Key = KEY) -> Subscription:
        """As for a Step whose App asks for so many copies."""
        stream = self.binding.stream.model_copy(update={"replicas": replicas})
        return await operator_parts.ensure(self.broker, key, self.binding, stream=stream)


@asynccontextmanager
async def operating(urls: Sequence[str]) -> AsyncIterator[Place]:
    settings = Settings(nats_urls=tuple(urls))
    looked: list[str] = []
    broker = Broker(settings, Metrics(), lambda key: None, look_at_app=looked.append)
    task = asyncio.create_task(broker.run())
    try:
        await waits.until(lambda: broker.is_connected, "the operator's connection")
        yield Place(broker, settings, looked)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[JetStream]:
    connection = await connections.connect([url], name="test", wait=10)
    try:
        yield JetStream(connection)
    finally:
        await connection.close()


async def test_a_stream_that_is_not_there_is_not_made_with_fewer_copies(nats: NatsServer) -> None:
    async with operating([nats.url]) as place, connected(nats.url) as js:
        problem = (await place.ensure(3)).problem
        assert problem is not None
        assert problem.reason is Reason.TOO_FEW_SERVERS
        assert problem.message == (
            "expected 3 NATS servers that take a copy of the app each, found fewer: replicas > 1 not supported in "
            "non-clustered mode; add servers, or ask for fewer copies (replicas) (10074)"
        )
        assert not await admin.stream_exists(js, STREAM)
        assert (place.broker.shortfall("shop"), place.looked) == (problem.message, ["shop"])
        assert (await place.ensure(1)).problem is None
        assert (place.broker.shortfall("shop"), place.looked) == ("", ["shop", "shop"])


async def test_a_stream_that_is_there_serves_on(nats: NatsServer) -> None:
    async with operating([nats.url]) as place, connected(nats.url) as js:
        assert (await place.ensure(1)).problem is None
        assert (await place.ensure(3)).problem is None
        assert "expected 3 NATS servers" in place.broker.shortfall("shop")
        assert place.broker.shortfall("blog") == ""
        assert place.broker.backlog(KEY) is None
        await place.broker.look()
        assert (await admin.stream_state(js, STREAM)).replicas == 1
        assert place.looked == ["shop"], "it is said once"
        other = Key("shop", "other")
        assert (await place.ensure(3, other)).problem is None
        place.broker.forget(KEY)
        assert place.broker.shortfall("shop"), "somebody is left to make the stream for"
        place.broker.forget(other)
        assert place.broker.shortfall("shop") == "", "nobody is left to make the stream for"


async def test_an_app_gets_its_copies_in_place_and_as_soon_as_there_are_servers(tmp_path: Path) -> None:
    cluster = clusters.Cluster(tmp_path / "cluster")
    first, second, third = cluster.nodes
    try:
        for node in (first, second):
            node.launch()
        for node in (first, second):
            node.wait(clusters.PATIENCE)
        async with operating([first.url]) as place, connected(first.url) as js:

            async def settled(replicas: int, *, shortfall: bool) -> bool:
                # A stream that moves may answer late
                problem = (await place.ensure(replicas)).problem
                assert problem is None or problem.reason is Reason.BROKER_UNAVAILABLE, problem
                return problem is None and bool(place.broker.shortfall("shop")) is shortfall

            async def stretched() -> bool:
                await place.broker.look()
                return place.broker.shortfall("shop") == ""

            await waits.until(lambda: settled(1, shortfall=False), "a stream", timeout=clusters.PATIENCE)
            await waits.until(lambda: settled(3, shortfall=True), "three copies refused", timeout=clusters.PATIENCE)
            third.launch()
            await waits.until(stretched, "three copies without anybody's doing", timeout=clusters.PATIENCE)
            await cluster.wait_current(STREAM)
            await waits.until(lambda: settled(5, shortfall=True), "five copies refused", timeout=clusters.PATIENCE)
            assert (await admin.stream_state(js, STREAM)).replicas == 3
            message = place.broker.shortfall("shop")
            assert message.startswith("expected 5 NATS servers that take a copy of the app each, found fewer: ")
    finally:
        cluster.stop()


COUNT = """
config = {"triggers": [{"api": {"path": "/region"}}], "retry": {"maxAttempts": 4}}
import os
async def handler(request, ctx):
    return {"region": os.environ.get("REGION")}
"""
APP = "apiVersion: bema.dev/v1alpha1\nkind: App\nmetadata: {name: app}\nspec: %s\n"


async def test_dev_goes_by_the_app_of_its_folder(tmp_path: Path) -> None:
    spec = "{replicas: 3, storage: 3Mi, defaults: {concurrency: 2, pod: {env: [{name: REGION, value: eu}]}}}"
    folder = devs.write(tmp_path / "shop", {"steps/count_step.py": COUNT, "app.yaml": APP % spec})
    with devs.running(folder) as dev:
        note = await asyncio.to_thread(dev.next, "note", lambda event: event["level"] == "warning")
        assert note["text"] == "app.yaml: replicas: 3 counts on a cluster only; one nats-server runs here"
        ready = await asyncio.to_thread(dev.next, "ready")
        async with connected(ready["nats"]) as js:

            async def storage() -> int:
                stored = await js.get_last(STREAM, names.quota(names.root("shop")))
                return retentions.read_quota(stored.data).storage if stored else 0

            await waits.until(storage, "the quota to be told", timeout=devs.SECONDS)
            assert await storage() == 3 * 2**20

        def binding() -> dict[str, Any]:
            found: dict[str, Any] = bindings.read(
                (folder / ".bema/bindings/count.json").read_text(), where="count"
            ).dump()
            return found

        url = f"{ready['url']}/region"
        assert await asyncio.to_thread(devs.get, url) == {"region": "eu"}
        assert (binding()["concurrency"], binding()["retry"]["maxAttempts"]) == (2, 4)

        # One that is not well leaves everything as it is.
        devs.write(folder, {"app.yaml": APP % "{hosts: [a]}"})
        [problem] = (await asyncio.to_thread(dev.next, "problems", lambda event: bool(event["problems"])))["problems"]
        assert problem["file"] == "app.yaml"
        assert problem["message"].startswith("unknown key 'hosts'; valid keys are eventRetention, ")
        assert await asyncio.to_thread(devs.get, url) == {"region": "eu"}

        devs.write(folder, {"app.yaml": APP % spec.replace("eu", "us")})
        await asyncio.to_thread(dev.next, "ready")
        assert await asyncio.to_thread(devs.get, url) == {"region": "us"}
        assert len(dev.heard("ready")) == 2, "the first worker went on until then"

        # Without it, as if it had never been.
        (folder / "app.yaml").unlink()
        ready = await asyncio.to_thread(dev.next, "ready")
        assert await asyncio.to_thread(devs.get, url) == {"region": None}
        assert binding()["concurrency"] == 16
        await asyncio.to_thread(dev.stop)
