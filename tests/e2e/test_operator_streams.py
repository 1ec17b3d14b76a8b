"""What becomes of a Step's place in its app's stream, in a real cluster."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml

from bema.contract import names
from bema.ports import connections
from bema.ports.jetstream import JetStream
from tests.support import operators, waits
from tests.support.spaces import API, EVENT, Space, step
from tools import installs

pytestmark = pytest.mark.e2e


def consumer(space: Space, name: str) -> dict[str, Any] | None:
    """The Step's consumer as the server has it."""

    async def ask() -> dict[str, Any] | None:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            found = await JetStream(connection).api(f"CONSUMER.LIST.{names.stream(space.name)}")
            return next((item for item in found["consumers"] or [] if item["name"] == name), None)
        finally:
            await connection.close()

    return asyncio.run(ask())


def publish(space: Space, topic: str, count: int) -> None:
    async def send() -> None:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            for number in range(count):
                subject = names.event(names.root(space.name), topic)
                await connection.request(subject, json.dumps(number).encode())
        finally:
            await connection.close()

    asyncio.run(send())


def test_a_deleted_step_keeps_its_place_in_the_stream(space: Space) -> None:
    manifest = step("orders", EVENT, replicas=0)
    space.apply(manifest)
    space.wait_ready("orders")
    publish(space, "order.created", 3)

    def backlog() -> bool:
        return bool((space.get("step", "orders") or {}).get("status", {}).get("backlog") == 3)

    waits.until_sync(backlog, "a backlog of 3 in the status", timeout=30)
    before = consumer(space, "orders")
    space.kubectl("delete", "step", "orders")
    waits.until_sync(lambda: space.children("orders") == [], "the children to be gone", timeout=10)
    assert consumer(space, "orders") is not None
    space.apply(manifest)
    space.wait_ready("orders")
    after = consumer(space, "orders")
    assert before is not None
    assert after is not None
    assert (after["created"], after["num_pending"]) == (before["created"], 3)
    uid = (space.get("step", "orders") or {})["metadata"]["uid"]
    assert after["config"]["metadata"][names.METADATA_STEP_UID] == uid


HOLDS = """
import asyncio
config = {"triggers": [{"event": {"topics": ["order.created"]}}]}

async def handler(number, ctx):
    while number == 0 and ctx.step == "old":
        await asyncio.sleep(0.05)
    await ctx.state.append("seen", str(number), ctx.step)
"""


def test_a_renamed_step_goes_on_from_the_place_of_the_one_that_it_was(space: Space) -> None:
    code = {"language": "python", "entrypoint": "a_step.py", "inline": {"a_step.py": HOLDS}}

    async def seen() -> dict[str, list[str]]:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            js, root = JetStream(connection), names.root(space.name)
            found = [stored async for stored in js.scan(names.stream(space.name), names.state_filter(root, "seen"))]
            return {names.state_of(root, stored.subject)[1]: json.loads(stored.data) for stored in found}
        finally:
            await connection.close()

    def wait_seen(*numbers: int) -> dict[str, list[str]]:
        wanted = set(map(str, numbers))
        waits.until_sync(
            lambda: set(asyncio.run(seen())) >= wanted,
            f"events {numbers}",
            timeout=60,
            explain=lambda: str(asyncio.run(seen())),
        )
        return asyncio.run(seen())

    space.apply(step("old", EVENT, code=code))
    space.wait_ready("old")
    publish(space, "order.created", 5)
    assert set(wait_seen(1, 2, 3, 4)) == {"1", "2", "3", "4"}, "event 0 is in hand, and holds the floor"

    # While the former one is there, nothing happens to either.
    space.apply(step("new", EVENT, code=code, adoptFrom="old"))
    message = space.wait_reason("new", "AdoptionWaits")
    assert message.startswith("The Step old, whose place this one takes over (adoptFrom), is still there.")
    assert space.condition("new", "Stalled") == {}
    assert (space.children("new"), consumer(space, "new")) == ([], None)
    assert space.condition("old")["status"] == "True"

    space.cluster.kubectl(*message.partition("kubectl ")[2].split())
    space.wait_ready("new")
    assert "It has taken over the place of old." in space.condition("new", "SubscriptionReady")["message"]
    assert consumer(space, "old") is None
    publish(space, "order.created", 1)
    found = wait_seen(0, 1, 2, 3, 4)
    waits.until_sync(
        lambda: (
            (consumer(space, "new") or {}).get("num_pending") == 0 == (consumer(space, "new") or {})["num_ack_pending"]
        ),
        "everything settled",
        timeout=30,
    )
    found = asyncio.run(seen())
    assert found == {"0": ["new", "new"], **{str(number): ["old"] for number in (1, 2, 3, 4)}}, "0 was sent twice"

    # Its name is not free: the stream would take the two for one.
    space.apply(step("old", EVENT, code=code))
    assert "The Step new has taken over the place of old" in space.wait_reason("old", "TakenOver")
    assert space.children("old") == []

    # Nor does anybody else take what one Step has taken.
    space.apply(step("other", EVENT, code=code, adoptFrom="old"))
    assert "The Step new has taken over the place of old" in space.wait_reason("other", "TakenOver")
    assert consumer(space, "other") is None

    # A renaming is undone by one in the other direction.
    space.cluster.kubectl("delete", "step", "old", "other", "-n", space.name)
    space.apply(step("old", EVENT, code=code, adoptFrom="new"))
    message = space.wait_reason("old", "AdoptionWaits")
    space.cluster.kubectl(*message.partition("kubectl ")[2].split())
    space.wait_ready("old")
    assert "It has taken over the place of new." in space.condition("old", "SubscriptionReady")["message"]
    assert consumer(space, "new") is None


def test_without_anybody_to_take_over_a_step_begins_as_it_says(space: Space) -> None:
    space.apply(step("new", EVENT, replicas=0, adoptFrom="nobody"))
    space.wait_ready("new")
    message = space.condition("new", "SubscriptionReady")["message"]
    assert message.endswith("There was no consumer of nobody to take over; it has a place of its own.")


def test_a_stream_that_vanishes_is_made_again(space: Space) -> None:
    space.apply(step("orders", API, replicas=0))
    space.wait_ready("orders")
    stream = names.stream(space.name)

    async def ask(endpoint: str) -> Any:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            return await JetStream(connection).api(endpoint)
        finally:
            await connection.close()

    asyncio.run(ask(f"STREAM.DELETE.{stream}"))
    waits.until_sync(
        # Null where there is none at all
        lambda: stream in (asyncio.run(ask("STREAM.NAMES"))["streams"] or ()),
        "the stream to be made again",
        timeout=30,
    )


def test_a_topic_is_not_taken_from_a_step_while_events_wait_on_it(space: Space) -> None:
    both = {"event": {"topics": ["order.created", "order.paid"]}}
    space.apply(step("orders", both, replicas=0))
    space.wait_ready("orders")
    publish(space, "order.paid", 3)
    space.apply(step("orders", EVENT, replicas=0, version=2))
    message = space.wait_reason("orders", "BacklogOnRemovedTopic", "SubscriptionReady")
    assert message.startswith("3 events wait on order.paid, which the Step is not to hear any more.")
    assert len(space.all("configmaps")) == 2, "the version before and kube-root-ca.crt"
    command = message.partition("kubectl ")[2].split()
    space.cluster.kubectl(*command)
    space.wait_ready("orders")
    found = consumer(space, "orders")
    assert found is not None
    assert not any("paid" in subject for subject in found["config"]["filter_subjects"])


def test_a_step_that_hears_no_events_keeps_no_empty_consumer(space: Space) -> None:
    space.apply(step("orders", EVENT, replicas=0))
    space.wait_ready("orders")
    assert consumer(space, "orders") is not None
    space.kubectl("replace", "-f", "-", input=yaml.safe_dump(step("orders")))
    space.wait_reason("orders", "NoWorkload")
    waits.until_sync(lambda: consumer(space, "orders") is None, "the consumer to be gone", timeout=10)
    publish(space, "order.created", 3)
    space.kubectl("replace", "-f", "-", input=yaml.safe_dump(step("orders", EVENT, replicas=0, deliverFrom="Now")))
    space.wait_ready("orders")
    assert (consumer(space, "orders") or {})["num_pending"] == 0


def test_a_namespace_that_was_made_again_may_take_over_its_stream(space: Space) -> None:
    manifest = step("orders", EVENT, replicas=0)
    space.apply(manifest)
    space.wait_ready("orders")
    publish(space, "order.created", 3)
    space.cluster.kubectl("delete", "namespace", space.name, "--wait=true", seconds=90)
    space.cluster.kubectl("create", "namespace", space.name)
    space.apply(manifest)
    message = space.wait_reason("orders", "AppStreamOwned")
    command = message[message.index("kubectl annotate") : message.index("; or delete")]
    space.cluster.kubectl(*command.split()[1:])
    space.wait_ready("orders")
    assert (consumer(space, "orders") or {})["num_pending"] == 3


def test_the_consumer_of_a_step_that_is_gone_is_removed_after_its_grace(space: Space) -> None:
    where = ("-n", installs.SYSTEM)
    change = (*where, "set", "env", "deployment/bema-operator")
    space.cluster.kubectl(*change, "BEMA_ORPHAN_GRACE_SECONDS=3")
    space.cluster.kubectl(*where, "rollout", "status", "deployment/bema-operator", "--timeout=60s", seconds=70)
    try:
        space.apply(step("gone", EVENT, replicas=0), step("stays", EVENT, replicas=0))
        space.wait_ready("gone")
        space.wait_ready("stays")
        space.kubectl("delete", "step", "gone")
        waits.until_sync(lambda: consumer(space, "gone") is None, "the orphan to be removed", timeout=30)
        assert consumer(space, "stays") is not None
        assert "forbidden" not in operators.log(space.cluster)
    finally:
        space.cluster.kubectl(*change, "BEMA_ORPHAN_GRACE_SECONDS-")
        operators.restart(space.cluster)


def test_the_stream_of_another_owner_is_not_touched(space: Space) -> None:
    stream = names.stream(space.name)
    theirs = {names.METADATA_NAMESPACE_UID: "another"}

    async def ask(endpoint: str, request: dict[str, Any]) -> Any:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            return await JetStream(connection).api(f"{endpoint}.{stream}", request)
        finally:
            await connection.close()

    config = {"name": stream, "subjects": [names.everything(names.root(space.name))], "metadata": theirs}
    asyncio.run(ask("STREAM.CREATE", config))
    space.apply(step("orders", EVENT, API))
    assert f"stream {stream} belongs to another owner" in space.wait_reason("orders", "AppStreamOwned")
    assert space.children("orders") == []
    found = asyncio.run(ask("STREAM.INFO", {}))
    assert found["config"]["metadata"][names.METADATA_NAMESPACE_UID] == "another"


def test_without_a_broker_what_runs_is_kept_and_what_is_new_waits(space: Space) -> None:
    where = ("-n", installs.SYSTEM)
    space.apply(step("old", EVENT, replicas=0))
    space.wait_ready("old")
    space.cluster.kubectl(*where, "scale", "statefulset/nats", "--replicas=0")
    try:
        space.cluster.kubectl(*where, "wait", "--for=delete", "pod/nats-0", "--timeout=60s", seconds=70)
        for type_ in ("SubscriptionReady", "Ready"):
            assert "does not answer" in space.wait_reason("old", "BrokerUnavailable", type_)
        operators.restart(space.cluster)
        space.apply(step("new", EVENT, replicas=0))
        assert "does not answer" in space.wait_reason("new", "BrokerUnavailable")
        space.wait_reason("old", "BrokerUnavailable", "SubscriptionReady")
        assert space.get("deployment", "new") is None
        assert space.get("deployment", "old") is not None
    finally:
        space.cluster.kubectl(*where, "scale", "statefulset/nats", "--replicas=1")
        space.cluster.kubectl(*where, "rollout", "status", "statefulset/nats", "--timeout=60s", seconds=70)
    for name in ("old", "new"):
        space.wait_ready(name)
