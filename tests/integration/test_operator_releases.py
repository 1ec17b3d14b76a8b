"""What the operator removes of a Step that hears no events any more. The broker is real, the API server a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bema.contract import bindings, names
from bema.contract.bindings import Binding, Owner
from bema.contract.steps import Step
from bema.ports import admin, connections, subscriptions
from bema.ports.jetstream import JetStream, Outgoing
from bema_operator import caches, kinds, reconciles
from bema_operator.brokers import Broker
from bema_operator.facts import Key
from bema_operator.metrics import Metrics
from bema_operator.settings import Settings
from tests.support import brokers, waits

KEY = Key("shop", "work")
UID = "n-uid"
PLAIN = {"event": {"topics": ["a"]}}
HEARS = {"event": {"topics": ["a"], "ordering": {}}}
ANSWERS = {"api": {"path": "/a"}}
CODE = {"entrypoint": "a_step.py", "image": "none"}


class Api:
    """Knows the namespace, and takes whatever it is given."""

    async def get(self, kind: kinds.Kind, name: str, namespace: str | None = None) -> Any:
        return {"metadata": {"uid": UID}}

    async def apply_status(self, kind: kinds.Kind, namespace: str, name: str, uid: str, status: Any) -> Any:
        return step()


def step(**spec: Any) -> dict[str, Any]:
    """As the API server has it."""
    who = {"namespace": KEY.namespace, "name": KEY.name, "uid": "u"}
    metadata = {**who, "generation": 1, "resourceVersion": "1", "creationTimestamp": ""}
    return {"metadata": metadata, "spec": spec}


def bound(*triggers: dict[str, Any], settings: Settings, name: str = KEY.name) -> Binding:
    spec: Any = {"triggers": list(triggers), "code": CODE}
    owner = Owner(namespace=KEY.namespace, namespace_uid=UID)
    return bindings.bind(Step(name=name, spec=spec), owner, settings.as_installation())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Broker]:
    """The operator's side of the broker, as a new process has it."""
    broker = Broker(settings, Metrics(), lambda key: None)
    task = asyncio.create_task(broker.run())
    try:
        await waits.until(lambda: broker.is_connected, "the operator's connection")
        yield broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def settings(nats: brokers.NatsServer) -> Settings:
    return Settings(nats_urls=(nats.url,), memory_streams=True)


@pytest.fixture
async def js(nats: brokers.NatsServer) -> AsyncIterator[JetStream]:
    connection = await connections.connect([nats.url], name="test", wait=5)
    yield JetStream(connection)
    await connection.close()


async def durables(js: JetStream) -> set[str]:
    return set(await admin.consumer_states(js, names.stream(KEY.namespace)))


async def test_a_step_that_became_a_noop_while_the_operator_was_away_lets_go(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        assert (await broker.ensure(KEY, bound(HEARS, settings=settings))).problem is None
        assert (
            await broker.ensure(Key("shop", "other"), bound(PLAIN, settings=settings, name="other"))
        ).problem is None
    assert len(await durables(js)) == 10
    async with running(settings) as broker:
        assert await broker.release(KEY, UID)
        assert await broker.release(Key("empty", "work"), UID), "an app without a stream has nothing to let go of"
    assert await durables(js) == {"other"}


@pytest.mark.parametrize(
    ("uid", "installation"),
    [
        pytest.param("of another cluster", "", id="of another namespace of this name"),
        pytest.param(UID, "blue", id="of another installation"),
    ],
)
async def test_the_consumers_of_a_stream_stay(js: JetStream, settings: Settings, uid: str, installation: str) -> None:
    binding = bound(HEARS, settings=settings)
    stream = binding.stream.model_copy(
        update={
            "metadata": {
                **binding.stream.metadata,
                names.METADATA_NAMESPACE_UID: uid,
                names.METADATA_INSTALLATION: installation,
            }
        }
    )
    await admin.ensure_stream(js, stream)
    await subscriptions.ensure(js, binding)
    async with running(settings) as broker:
        assert await broker.release(KEY, UID)
    assert len(await durables(js)) == 9


async def test_what_could_not_be_released_is_tried_again(
    js: JetStream, settings: Settings, nats: brokers.NatsServer
) -> None:
    await admin.ensure_stream(js, bound(HEARS, settings=settings).stream)
    await subscriptions.ensure(js, bound(HEARS, settings=settings))
    cache = caches.Cache()
    cache.put(kinds.STEP, step())
    api: Any = Api()
    async with running(settings) as broker:
        reconciler = reconciles.Reconciler(
            settings, cache, api, broker, measures=Metrics(), clock=lambda: 0.0, time=lambda: "2026-01-01T00:00:00Z"
        )
        nats.pause()
        assert await reconciler.reconcile(KEY) == reconciles.LET_GO_AGAIN
        nats.go_on()
        assert await reconciler.reconcile(KEY) is None
    assert await durables(js) == set()


@pytest.mark.parametrize("spec", [{}, {"triggers": [ANSWERS], "code": CODE}], ids=["a noop", "an api Step"])
async def test_a_consumer_that_is_still_needed_is_looked_at_again(
    js: JetStream, settings: Settings, spec: dict[str, Any]
) -> None:
    binding = bound(PLAIN, settings=settings)
    await admin.ensure_stream(js, binding.stream)
    await subscriptions.ensure(js, binding)
    await js.publish(Outgoing(names.event(binding.root, "a"), b"{}"))
    async with running(settings) as broker:

        async def let_go() -> bool:
            if not spec:
                return await broker.release(KEY, UID)
            return not (await broker.ensure(KEY, bound(ANSWERS, settings=settings))).leftovers

        assert not await let_go()
        assert not await let_go(), "also at the second look"
        assert await durables(js) == {"work"}
        await js.purge(binding.stream.name, names.events(binding.root), below=None)
        assert await let_go()
    assert await durables(js) == set()
