"""A Step's consumers as the broker has them: what the order rests on, and topics that move between consumers."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bema.contract import bindings, envelopes, names
from bema.contract.bindings import Binding, Installation, Owner
from bema.contract.steps import Step
from bema.ports import admin, connections, subscriptions
from bema.ports.connections import Connection, Message, publish_command
from bema.ports.jetstream import SCHEDULE, SCHEDULE_TARGET, JetStream, Outgoing, Stored
from bema.ports.pulls import Pull
from bema_operator.brokers import Broker
from bema_operator.facts import Key
from bema_operator.metrics import Metrics
from bema_operator.settings import Settings
from tests.support import brokers, operator_parts, waits

TOPIC = "work"
ORDERED = {"event": {"topics": [TOPIC], "ordering": {}}}
FREE = {"event": {"topics": [TOPIC]}}


@pytest.fixture
async def js(nats: brokers.NatsServer) -> AsyncIterator[JetStream]:
    connection = await connections.connect([nats.url], name="test", wait=5)
    try:
        yield JetStream(connection)
    finally:
        await connection.close()


def bound(*triggers: dict[str, Any], url: str = "nats://nats") -> Binding:
    """A Step that hears what comes from now on, so that nothing comes twice without need."""
    spec = {"triggers": list(triggers), "code": {"entrypoint": "a_step.py", "image": "none"}, "deliverFrom": "Now"}
    step = Step(name="work", spec=spec)  # type: ignore[arg-type]
    installation = Installation(broker=bindings.Broker(urls=[url]), memory=True)
    return bindings.bind(step, Owner(namespace="shop"), installation)


def from_beginning(binding: Binding) -> Binding:
    """The same, with partitions that hear all there is once they are made as new ones."""
    assert binding.ordered is not None
    consumers = [consumer.model_copy(update={"deliver_from": "Beginning"}) for consumer in binding.ordered.consumers]
    return binding.model_copy(update={"ordered": binding.ordered.model_copy(update={"consumers": consumers})})


async def publish(js: JetStream, binding: Binding, count: int, *, first: int = 0, key: str | None = None) -> None:
    for number in range(first, first + count):
        event = envelopes.Event(f"e{number}", TOPIC, "/test", "2026-01-01T00:00:00Z", b"%d" % number)
        partition = names.partition(key or f"k{number}", bindings.PARTITIONS)
        await js.publish(Outgoing(names.event(binding.root, TOPIC, partition), event.data, envelopes.encode(event)))


class Hearer:
    """Pulls from one consumer as much as it is given, and holds it."""

    def __init__(self, connection: Connection, stream: str, durable: str) -> None:
        self.held: list[Message] = []
        self.heard: list[int] = []
        self._connection = connection
        self.pull = Pull(connection, stream=stream, durable=durable, capacity=1000, deliver=self._take)

    def _take(self, burst: list[Message]) -> None:
        self.held += burst
        self.heard += [int(message.data) for message in burst]

    async def answer(self, word: bytes) -> None:
        """Say this of all that is held."""
        held, self.held = self.held, []
        self.pull.done(len(held))
        await self._connection.write(b"".join(publish_command(message.reply, word) for message in held))


async def hear_all(js: JetStream, binding: Binding, *, until: int) -> set[int]:
    """The numbers of events that the Step's consumers give out, each acknowledged, until there are so many."""
    hearers = [Hearer(js.connection, binding.stream.name, consumer.durable) for consumer in binding.consumers]
    for hearer in hearers:
        await hearer.pull.start()

    async def heard() -> set[int] | None:
        for hearer in hearers:
            await hearer.answer(b"+ACK")
        found = {number for hearer in hearers for number in hearer.heard if number >= 0}
        return found if len(found) >= until else None

    found: set[int] = await waits.until(heard, f"{until} events", timeout=30)
    for hearer in hearers:
        await hearer.pull.stop()
        await hearer.answer(b"+ACK")

    async def settled() -> bool:
        states = await admin.consumer_states(js, binding.stream.name)
        return all(state.backlog == 0 for state in states.values())

    await waits.until(settled, "every event settled")
    return found


async def pass_by(js: JetStream, old: Binding, new: Binding) -> None:
    """Have the consumers that are to hear the topic go past all that waits for the others, by something else that they
    hear after it: an attempt, or another topic's events."""
    places = [(names.retry(old.root, old.step, "run"), names.durable(old.step))]
    if new.ordered is not None:
        places = [
            (names.event(old.root, "other", partition), consumer.durable)
            for partition, consumer in enumerate(new.ordered.consumers)
        ]
    for subject, durable in places:
        await js.publish(Outgoing(subject, b"-1"))
        hearer = Hearer(js.connection, old.stream.name, durable)
        await hearer.pull.start()
        await waits.until(lambda hearer=hearer: hearer.heard == [-1], "what comes after")
        await hearer.answer(b"+ACK")
        await hearer.pull.stop()


async def test_a_partition_gives_out_one_event_at_a_time_to_all_that_ask(js: JetStream) -> None:
    """What the order rests on: without a pinned client, two that both believe to have a partition never hold two of
    its events at once, and one that is given back comes before the next."""
    binding = bound(ORDERED)
    assert binding.ordered is not None
    await admin.ensure_stream(js, binding.stream)
    await subscriptions.ensure(js, binding)
    partition = names.partition("ann", bindings.PARTITIONS)
    durable = binding.ordered.consumers[partition].durable
    two = [Hearer(js.connection, binding.stream.name, durable) for _ in range(2)]
    for hearer in two:
        await hearer.pull.start()
    await publish(js, binding, 50, key="ann")
    order: list[int] = []
    while len(order) < 50 + 10:
        await waits.until(lambda: any(hearer.held for hearer in two), "the next event")
        await js.connection.flush()
        held = [(hearer, int(message.data)) for hearer in two for message in hearer.held]
        assert len(held) == 1, "one at a time"
        hearer, number = held[0]
        given_back = number % 5 == 2 and order[-1] != number
        order.append(number)
        await hearer.answer(b"-NAK" if given_back else b"+ACK")
    assert order == sorted(order), "what was given back came before the next"
    assert all(hearer.heard for hearer in two), "both were asked"
    for hearer in two:
        await hearer.pull.stop()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([FREE], [ORDERED], id="becomes ordered"),
        pytest.param([ORDERED], [FREE], id="is not ordered any more"),
        pytest.param(
            [FREE, {"event": {"topics": ["other"], "ordering": {}}}],
            [{"event": {"topics": ["other", TOPIC], "ordering": {}}}],
            id="joins another ordered one",
        ),
    ],
)
async def test_no_event_is_lost_when_a_topic(
    js: JetStream, before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    old, new = bound(*before), bound(*after)
    await admin.ensure_stream(js, old.stream)
    await publish(js, old, 5)
    await subscriptions.ensure(js, old)
    await publish(js, old, 20, first=5)
    handled = await hear_all(js, old, until=20)
    assert handled == set(range(5, 25))
    await publish(js, old, 20, first=25)
    if before != [FREE]:
        await pass_by(js, old, new)
    await subscriptions.ensure(js, new)
    await subscriptions.ensure(js, new)
    await publish(js, new, 20, first=45)
    assert set(range(25, 65)) <= await hear_all(js, new, until=40)
    states = await admin.consumer_states(js, new.stream.name)
    assert states.keys() == {consumer.durable for consumer in new.consumers}


async def test_what_was_handled_is_not_given_out_again_when_a_topic_moves_without_a_backlog(js: JetStream) -> None:
    free, ordered = bound(FREE), bound(ORDERED)
    await admin.ensure_stream(js, free.stream)
    await subscriptions.ensure(js, free)
    total = 0
    for binding, count in ((free, 10), (ordered, 10), (free, 10), (ordered, 10), (free, 0), (ordered, 10)):
        await subscriptions.ensure(js, binding)
        await publish(js, binding, count, first=total)
        if count:
            assert await hear_all(js, binding, until=count) == set(range(total, total + count))
        total += count


async def test_the_operator_counts_the_backlog_of_all_partitions_and_makes_a_lost_consumer_again(
    js: JetStream, nats: brokers.NatsServer
) -> None:
    looked_at: list[Key] = []
    broker = Broker(Settings(nats_urls=[nats.url]), Metrics(), looked_at.append)
    running = asyncio.create_task(broker.run())
    try:
        await broker.wait_connected(10)
        key, binding = Key("shop", "work"), bound(ORDERED)
        assert (await operator_parts.ensure(broker, key, binding)).problem is None
        await publish(js, binding, 30)
        await broker.look()
        assert broker.backlog(key) == 30
        await admin.delete_consumer(js, binding.stream.name, names.durable("work", 6))
        looked_at.clear()
        await broker.look()
        assert looked_at == [key]
        assert (await operator_parts.ensure(broker, key, binding)).problem is None
        assert len(await admin.consumer_states(js, binding.stream.name)) == 9
        apps = await broker.apps()
        assert {admin.step_of(state) for state in apps[0].consumers.values()} == {"work"}, "all are the Step's"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_step_that_hears_no_events_any_more_keeps_only_consumers_that_hold_some(js: JetStream) -> None:
    binding = bound(ORDERED)
    await admin.ensure_stream(js, binding.stream)
    await subscriptions.ensure(js, binding)
    await publish(js, binding, 3, key="ann")
    left = await subscriptions.let_go(js, binding.stream.name, binding.step)
    kept = names.durable("work", names.partition("ann", bindings.PARTITIONS))
    assert len(left.removed) == 8
    assert left.kept == [kept]
    assert set(await admin.consumer_states(js, binding.stream.name)) == {kept}


async def set_retry(js: JetStream, binding: Binding, *, seconds: float) -> None:
    """A retry that waits for its time, as a run leaves it that has failed."""
    at = datetime.datetime.fromtimestamp(time.time() + seconds, datetime.UTC).isoformat().replace("+00:00", "Z")
    headers = {SCHEDULE: f"@at {at}", SCHEDULE_TARGET: names.retry(binding.root, binding.step, "run")}
    await js.publish(Outgoing(names.retry_timer(binding.root, binding.step, "run"), b"-1", headers))


async def wait_retry(js: JetStream, binding: Binding) -> None:
    """Until the retry has come."""

    async def come() -> bool:
        return await js.get_last(binding.stream.name, names.retry(binding.root, binding.step, "run")) is not None

    await waits.until(come, "the retry to come")


async def hear_retry(js: JetStream, binding: Binding) -> None:
    """Execute the retry, as the runtime does once the Step hears events again."""
    hearer = Hearer(js.connection, binding.stream.name, names.durable(binding.step))
    await hearer.pull.start()
    await waits.until(lambda: hearer.heard == [-1], "the retry to be heard")
    await hearer.answer(b"+ACK")
    await hearer.pull.stop()

    async def settled() -> bool:
        states = await admin.consumer_states(js, binding.stream.name)
        return all(state.backlog == 0 for state in states.values())

    await waits.until(settled, "the retry to be settled")


async def test_a_retry_that_waits_keeps_the_consumer_of_a_step_that_hears_no_events_any_more(js: JetStream) -> None:
    hears, silent = bound(ORDERED), bound({"api": {"path": "/a"}})
    await admin.ensure_stream(js, hears.stream)
    await subscriptions.ensure(js, hears)
    await set_retry(js, hears, seconds=1)
    left = await subscriptions.ensure(js, silent)
    assert (left.kept, len(left.removed)) == (["work"], 8), "partitions hear no retries"
    await wait_retry(js, hears)
    assert (await subscriptions.ensure(js, silent)).kept == ["work"], "the retry is in it now"
    await hear_retry(js, hears)
    assert (await subscriptions.ensure(js, silent)).removed == ["work"], "the last retry has come"
    assert await subscriptions.ensure(js, silent) == subscriptions.Leftovers()
    assert await admin.consumer_states(js, hears.stream.name) == {}


async def test_a_consumer_that_is_kept_for_a_retry_gathers_nothing_else(js: JetStream) -> None:
    hears, silent = bound(FREE), bound({"api": {"path": "/a"}})
    await admin.ensure_stream(js, hears.stream)
    await subscriptions.ensure(js, hears)
    await set_retry(js, hears, seconds=60)
    await subscriptions.ensure(js, silent)
    await publish(js, hears, 3)
    state = (await admin.consumer_states(js, hears.stream.name))["work"]
    assert (state.filters, state.backlog) == ([names.retry_filter(hears.root, "work")], 0)
    await subscriptions.ensure(js, hears)
    await publish(js, hears, 3, first=3)
    assert {3, 4, 5} <= await hear_all(js, hears, until=3), "it hears its topic again"
    await subscriptions.ensure(js, silent)
    await js.purge(hears.stream.name, names.retry_timers(hears.root, "work"), below=None)
    await publish(js, hears, 3, first=6)
    assert (await subscriptions.ensure(js, silent)).removed == ["work"]


async def test_a_run_that_is_in_hand_keeps_the_consumer_until_its_retry_has_come(js: JetStream) -> None:
    """Its retry is written before it is acknowledged, so one of the two is always there to be seen."""
    hears = bound(FREE)
    await admin.ensure_stream(js, hears.stream)
    await subscriptions.ensure(js, hears)
    await publish(js, hears, 1)
    hearer = Hearer(js.connection, hears.stream.name, "work")
    await hearer.pull.start()
    await waits.until(lambda: hearer.held, "the event")

    class Between(JetStream):
        """The run fails while the timers are looked at."""

        async def get_next(self, stream: str, subject_filter: str, *, start: int = 1) -> Stored | None:
            found = await super().get_next(stream, subject_filter, start=start)
            await set_retry(js, hears, seconds=60)
            await hearer.answer(b"+ACK")
            await js.connection.flush()
            return found

    left = await subscriptions.let_go(Between(js.connection), hears.stream.name, "work")
    assert left.kept == ["work"]
    assert (await subscriptions.let_go(js, hears.stream.name, "work")).kept == ["work"]
    await hearer.pull.stop()


async def test_a_step_that_hears_nothing_any_more_lets_go_of_what_is_empty(js: JetStream) -> None:
    hears = bound(ORDERED, {"state": {"group": "g"}})
    await admin.ensure_stream(js, hears.stream)
    await subscriptions.ensure(js, hears)
    assert len(await admin.consumer_states(js, hears.stream.name)) == 9
    await subscriptions.ensure(js, bound({"api": {"path": "/a"}}))
    assert await admin.consumer_states(js, hears.stream.name) == {}
    watch = await js.get_last(hears.stream.name, names.watch(hears.root, "work"))
    assert watch is not None
    assert watch.data == b'{"groups": []}'


async def test_a_topic_that_is_heard_in_order_from_today_on_begins_today(js: JetStream) -> None:
    other = bound({"event": {"topics": ["other"]}})
    await admin.ensure_stream(js, other.stream)
    await subscriptions.ensure(js, other)
    await publish(js, other, 20)
    await subscriptions.ensure(js, from_beginning(bound({"event": {"topics": ["other"]}}, ORDERED)))
    states = await admin.consumer_states(js, other.stream.name)
    assert sum(state.backlog for state in states.values()) == 0
    await publish(js, other, 5, first=20)
    states = await admin.consumer_states(js, other.stream.name)
    assert sum(state.backlog for state in states.values()) == 5


async def test_a_partition_that_was_lost_does_not_begin_today(js: JetStream) -> None:
    binding = from_beginning(bound(ORDERED))
    await admin.ensure_stream(js, binding.stream)
    await subscriptions.ensure(js, binding)
    await publish(js, binding, 5, key="ann")
    lost = names.durable("work", names.partition("ann", bindings.PARTITIONS))
    await admin.delete_consumer(js, binding.stream.name, lost)
    await subscriptions.ensure(js, binding)
    assert (await admin.consumer_states(js, binding.stream.name))[lost].backlog == 5
