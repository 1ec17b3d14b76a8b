"""What the operator removes of a Step that hears no events any more. The broker is real, the API server a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats as nats_client
import pytest
from nats.aio.msg import Msg

from bema.contract import bindings, names
from bema.contract.bindings import Binding, Owner
from bema.contract.steps import Step
from bema.ports import admin, connections, subscriptions
from bema.ports.jetstream import JetStream, Outgoing
from bema_operator import caches, kinds, reconciles
from bema_operator.brokers import Broker
from bema_operator.facts import Key, Subscription
from bema_operator.metrics import Metrics
from bema_operator.settings import Settings
from tests.support import brokers, operator_parts, waits

KEY = Key("shop", "work")
UID = "n-uid"
PLAIN = {"event": {"topics": ["a"]}}
HEARS = {"event": {"topics": ["a"], "ordering": {}}}
ANSWERS = {"api": {"path": "/a"}}
CODE = {"entrypoint": "a_step.py", "image": "none"}


class Api:
    """Knows the namespace, and takes whatever it is given."""

    async def uid(self, kind: kinds.Kind, name: str, namespace: str | None = None) -> str:
        return UID

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
        assert (await operator_parts.ensure(broker, KEY, bound(HEARS, settings=settings))).problem is None
        assert (
            await operator_parts.ensure(broker, Key("shop", "other"), bound(PLAIN, settings=settings, name="other"))
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
        reconciler = operator_parts.reconciler(settings, cache, api, broker, Metrics())
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
            found = await operator_parts.ensure(broker, KEY, bound(ANSWERS, settings=settings))
            return found.problem is None and not found.leftovers

        assert not await let_go()
        assert not await let_go(), "also at the second look"
        assert await durables(js) == {"work"}
        await js.purge(binding.stream.name, names.events(binding.root), below=None)
        assert await let_go()
    assert await durables(js) == set()


BOTH = {"event": {"topics": ["a", "b"]}}
THREE = {"event": {"topics": ["a", "b", "c"]}}
IN_ORDER = {"event": {"topics": ["b", "c"], "ordering": {}}}


async def send(js: JetStream, topic: str, count: int, *, partition: int = 0) -> None:
    for _ in range(count):
        await js.publish(Outgoing(names.event(names.root(KEY.namespace), topic, partition), b"1", {}))


def begins(found: Subscription) -> str:
    """What keeps the Step from hearing less, as far as its comma."""
    assert found.problem is not None
    return found.problem.message.partition(", which")[0]


@asynccontextmanager
async def taken(settings: Settings, durable: str, count: int) -> AsyncIterator[list[Msg]]:
    """Be the version before: take so many events."""
    client = await nats_client.connect(settings.nats_urls[0])
    pull = await client.jetstream().pull_subscribe_bind(durable, stream=names.stream(KEY.namespace))
    try:
        yield await pull.fetch(count, timeout=5)
    finally:
        await client.close()


async def settle(settings: Settings, durable: str, count: int) -> None:
    for _ in range(count):
        async with taken(settings, durable, 1) as [message]:
            await message.ack_sync()


@pytest.mark.parametrize(
    ("before", "after", "topics"),
    [
        pytest.param(BOTH, PLAIN, ["b"], id="one topic of two"),
        pytest.param(BOTH, ANSWERS, ["a", "b"], id="all topics"),
        pytest.param(IN_ORDER, PLAIN, ["b", "c"], id="topics in order"),
    ],
)
async def test_a_step_goes_on_as_it_was_while_events_wait_that_it_would_hear_no_more(
    js: JetStream, settings: Settings, before: dict[str, Any], after: dict[str, Any], topics: list[str]
) -> None:
    async with running(settings) as broker:
        assert (await operator_parts.ensure(broker, KEY, bound(before, settings=settings))).problem is None
        was = await durables(js)
        for topic in topics:
            await send(js, topic, 2)
        problem = (await operator_parts.ensure(broker, KEY, bound(after, settings=settings))).problem
        assert problem is not None
        assert problem.reason == "BacklogOnRemovedTopic"
        waiting = ", ".join(f"2 events wait on {topic}" for topic in topics)
        assert problem.message == (
            f"{waiting}, which the Step is not to hear any more. The version before goes on until they are done; then "
            f"this one follows by itself. To give them up: kubectl annotate step work -n shop "
            f"bema.dev/discard-backlog={','.join(topics)}"
        )
        assert await durables(js) == was
        states = await admin.consumer_states(js, names.stream(KEY.namespace))
        assert sum(state.backlog for state in states.values()) == 2 * len(topics)


async def test_what_is_sent_after_the_edit_holds_nothing_up(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, bound(THREE, settings=settings))
        await send(js, "b", 2)
        edited = bound(PLAIN, settings=settings)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "2 events wait on b"
        await send(js, "b", 3)
        await send(js, "c", 1)
        await settle(settings, "work", 1)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "1 event waits on b"
        await settle(settings, "work", 1)
        assert (await operator_parts.ensure(broker, KEY, edited)).problem is None
        found = await admin.consumer_info(js, names.stream(KEY.namespace), "work")
        assert found is not None
        assert not any(".b" in subject for subject in admin.filters(found["config"]))


async def test_what_is_in_hand_holds_an_edit_up(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, bound(BOTH, settings=settings))
        await send(js, "b", 2)
        edited = bound(PLAIN, settings=settings)
        async with taken(settings, "work", 2) as messages:
            assert begins(await operator_parts.ensure(broker, KEY, edited)) == "2 events wait on b"
            for message in messages:
                await message.ack_sync()
        assert (await operator_parts.ensure(broker, KEY, edited)).problem is None


async def test_events_that_the_step_goes_on_hearing_hold_nothing_up(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, bound(BOTH, settings=settings))
        await send(js, "a", 2)
        assert (await operator_parts.ensure(broker, KEY, bound(PLAIN, settings=settings))).problem is None


async def test_a_partition_that_is_ahead_gives_up_nothing_of_the_others(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, bound(IN_ORDER, settings=settings))
        await send(js, "b", 2, partition=0)
        await send(js, "b", 1, partition=1)
        edited = bound(PLAIN, settings=settings)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "3 events wait on b"
        await send(js, "b", 3, partition=1)
        await settle(settings, names.durable("work", 1), 3)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "2 events wait on b"
        await settle(settings, names.durable("work", 0), 2)
        assert (await operator_parts.ensure(broker, KEY, edited)).problem is None


async def test_another_topic_that_is_taken_later_is_counted_from_then_on(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, bound(THREE, settings=settings))
        await send(js, "b", 1)
        without_b = bound({"event": {"topics": ["a", "c"]}}, settings=settings)
        assert begins(await operator_parts.ensure(broker, KEY, without_b)) == "1 event waits on b"
        await send(js, "c", 2)
        await send(js, "b", 1)
        edited = bound(PLAIN, settings=settings)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "1 event waits on b, 2 events wait on c"
        await send(js, "c", 1)
        await settle(settings, "work", 1)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "2 events wait on c"
        await settle(settings, "work", 2)
        assert (await operator_parts.ensure(broker, KEY, edited)).problem is None


async def test_a_topic_that_was_given_back_meanwhile_is_counted_anew(js: JetStream, settings: Settings) -> None:
    before, edited = bound(BOTH, settings=settings), bound(PLAIN, settings=settings)
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, before)
        await send(js, "b", 1)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "1 event waits on b"
        assert (await operator_parts.ensure(broker, KEY, before)).problem is None
        await settle(settings, "work", 1)
        await send(js, "b", 2)
        assert begins(await operator_parts.ensure(broker, KEY, edited)) == "2 events wait on b"


async def test_events_that_a_person_gives_up_hold_nothing_up(js: JetStream, settings: Settings) -> None:
    async with running(settings) as broker:
        await operator_parts.ensure(broker, KEY, bound(IN_ORDER, settings=settings))
        await send(js, "b", 1)
        await send(js, "c", 1)
        edited = bound(PLAIN, settings=settings)
        problem = (await operator_parts.ensure(broker, KEY, edited, discards=frozenset({"b"}))).problem
        assert problem is not None
        assert problem.message.startswith("1 event waits on c,")
        assert (await operator_parts.ensure(broker, KEY, edited, discards=frozenset({"b", "c"}))).problem is None
        assert await durables(js) == {"work"}
