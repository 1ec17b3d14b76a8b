"""A node is lost in the midst of work: what its pod had in hand is done elsewhere, once, and the status says what is.

A cluster of three nodes of its own; a Step with three pods, one on each; NATS and the operator elsewhere than on the
node whose box is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import nats
import pytest

from bema.contract import names
from tests.chaos.contents import Entry, Reader
from tests.support import waits
from tests.support.spaces import EVENT, Space, step
from tools import installs
from tools.cluster import clusters, errors

pytestmark = pytest.mark.e2e

NAME = f"{(os.environ.get('BEMA_E2E_CLUSTER') or 'e2e')[:14]}-nodes"
APP = "orders"
VICTIM = 3
RATE = 40
"""Orders a second."""
HANDLER = """
import asyncio

config = {"triggers": [{"event": {"topics": ["order.created"]}}], "emits": ["order.charged"]}

async def handler(order, ctx):
    await asyncio.sleep(0.3)
    await ctx.state.increment("charges", order["id"])
    await ctx.emit("order.charged", {"id": order["id"]})
"""
TOLERATION = 30
"""Seconds for which a Step's pods stay bound to a node that is silent, whatever the cluster's default."""


@dataclass(frozen=True)
class Sight:
    """What the Step's status said, so many seconds after the node was lost."""

    seconds: float
    ready: str
    reason: str
    message: str
    progressing: str
    pods_ready: int


@dataclass
class Story:
    """What happened."""

    spread: list[str]
    """The nodes of the pods before, in order."""
    tolerations: Mapping[str, int]
    in_hand: int = 0
    """Events that all pods together had in hand at the end of the node."""
    sights: list[Sight] = field(default_factory=list)
    """Each time the status was another one."""
    sent: dict[str, float] = field(default_factory=dict)
    """Orders, and when the broker had them, in seconds since the loss."""
    entries: tuple[Entry, ...] = ()
    lost_at: float = 0.0
    """The time of day of the loss."""
    after: list[str] = field(default_factory=list)
    """The nodes of the pods that serve in the end."""

    def has_noticed(self) -> bool:
        return any(sight.seconds >= 0 and sight.ready == "False" for sight in self.sights)

    def is_whole(self) -> bool:
        return self.has_noticed() and self.sights[-1].ready == "True"

    def told(self) -> str:
        return "\n".join(map(str, self.sights))

    @property
    def charges(self) -> dict[str, list[Entry]]:
        """What the state says was charged: entries by order."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.words[:2] == ("state", "charges"):
                found.setdefault(entry.words[2], []).append(entry)
        return found

    @property
    def announced(self) -> Counter[str]:
        """Events that the handler emitted, by order."""
        ours = [entry for entry in self.entries if entry.words[0] == "evt" and entry.words[3] == "order.charged"]
        return Counter(entry.json()["id"] for entry in ours)

    def delays(self) -> dict[str, float]:
        """How long each order that came before the loss waited from then on."""
        done = {order: min(entry.stored for entry in found) for order, found in self.charges.items()}
        before = [order for order, sent in self.sent.items() if sent < 0]
        return {order: done[order] - self.lost_at for order in before if done[order] > self.lost_at}


@pytest.fixture(scope="module")
def cluster() -> Iterator[clusters.Cluster]:
    """Three nodes, the last of them without NATS and the operator."""
    try:
        with clusters.running(NAME, nodes=3) as running:
            running.verify()
            running.kubectl("cordon", f"n{VICTIM}")
            installs.install(running)
            running.kubectl("uncordon", f"n{VICTIM}")
            yield running
    except errors.CannotRunHere as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def story(cluster: clusters.Cluster) -> Story:
    cluster.kubectl("create", "namespace", APP)
    space = Space(cluster, APP)
    inline = {"language": "python", "entrypoint": "a_step.py", "inline": {"a_step.py": HANDLER}}
    space.apply(step("charge", EVENT, emits=[{"topic": "order.charged"}], replicas=3, code=inline))
    space.wait_ready("charge")
    told = Story(spread=nodes_of(space), tolerations=tolerations_of(space))
    asyncio.run(lose_a_node(cluster, space, told))
    told.after = nodes_of(space)
    return told


async def lose_a_node(cluster: clusters.Cluster, space: Space, story: Story) -> None:
    async with connected(cluster) as reader, asyncio.TaskGroup() as group:
        stopped = asyncio.Event()
        sending = group.create_task(send(reader, story, stopped))
        watching = group.create_task(watch(cluster, story))

        async def is_at_work() -> bool:
            return len(story.sent) > 3 * RATE and (await reader.waiting() or {}).get("charge", 0) > 0

        await waits.until(is_at_work, "the pods to be at work", timeout=60)
        story.in_hand = (await reader.waiting() or {})["charge"]
        story.lost_at = time.time()
        await asyncio.to_thread(cluster.lose, VICTIM)
        await waits.until(story.has_noticed, "the Step to say that a pod is gone", timeout=60, explain=story.told)
        await waits.until(story.is_whole, "the Step to be Ready again", timeout=120, explain=story.told)
        stopped.set()
        await sending

        async def is_done() -> bool:
            return (await reader.waiting()) == {"charge": 0, "timer": 0}

        await waits.until(is_done, "all orders to be done", timeout=60)
        watching.cancel()
        story.entries = await reader.everything()
    story.sent = {order: sent - story.lost_at for order, sent in story.sent.items()}


@contextlib.asynccontextmanager
async def connected(cluster: clusters.Cluster) -> AsyncIterator[Reader]:
    client = await nats.connect(installs.nats_url(cluster))
    try:
        yield Reader(client, APP)
    finally:
        await client.close()


async def send(reader: Reader, story: Story, stopped: asyncio.Event) -> None:
    """Orders at a steady rate, each acknowledged by the broker, until told to stop."""
    began = time.monotonic()
    for number in itertools.count():
        if stopped.is_set():
            return
        order = f"o{number}"
        subject = names.event(names.root(APP), "order.created")
        answer = await reader._connection.request(subject, json.dumps({"id": order}).encode(), timeout=10)
        assert "seq" in json.loads(answer.data), answer.data
        story.sent[order] = time.time()
        await asyncio.sleep(max(0.0, began + (number + 1) / RATE - time.monotonic()))


async def watch(cluster: clusters.Cluster, story: Story) -> None:
    """Note the Step's status whenever it has changed, for ever."""
    path = f"/apis/bema.dev/v1alpha1/namespaces/{APP}/steps/charge"
    while True:
        found = (await asyncio.to_thread(cluster.record.api().get, path))["status"]
        conditions = {item["type"]: item for item in found["conditions"]}
        ready = conditions["Ready"]
        seconds = round(time.time() - story.lost_at, 1) if story.lost_at else -1.0
        sight = Sight(
            seconds,
            ready["status"],
            ready["reason"],
            ready["message"],
            conditions["Progressing"]["status"],
            found.get("readyReplicas", 0),
        )
        if not story.sights or vars_of(story.sights[-1]) != vars_of(sight):
            story.sights.append(sight)
        await asyncio.sleep(0.1)


def vars_of(sight: Sight) -> tuple[Any, ...]:
    return sight.ready, sight.reason, sight.message, sight.progressing, sight.pods_ready


def pods_of(space: Space) -> list[dict[str, Any]]:
    listed = space.kubectl("get", "pods", "-l", f"{names.LABEL_STEP}=charge", "-o", "json")
    return [pod for pod in json.loads(listed)["items"] if not pod["metadata"].get("deletionTimestamp")]


def nodes_of(space: Space) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in pods_of(space))


def tolerations_of(space: Space) -> dict[str, int]:
    """For how long the pods tolerate which taint, in seconds."""
    given = [item for pod in pods_of(space) for item in pod["spec"]["tolerations"]]
    return {item["key"].partition("/")[2]: item["tolerationSeconds"] for item in given if "tolerationSeconds" in item}


def test_the_pods_of_a_step_are_spread_over_the_nodes(story: Story) -> None:
    assert story.spread == ["n1", "n2", "n3"]


def test_no_order_is_lost_or_doubled(story: Story) -> None:
    assert story.in_hand > 0
    charges = story.charges
    lost = story.sent.keys() - charges.keys()
    doubled = {order for order, found in charges.items() if len(found) > 1 or found[0].json() != 1}
    print(f"\n{len(story.sent)} orders, {len(charges)} charged, {len(lost)} lost, {len(doubled)} doubled")
    assert (lost, doubled) == (set(), set())
    assert story.announced == dict.fromkeys(story.sent, 1)


def test_what_the_lost_pod_had_in_hand_is_done_within_seconds(story: Story) -> None:
    """The broker waits 10 s for a sign of life. Nothing has to be started for this: the other pods go on."""
    delays = story.delays()
    slow = {order: seconds for order, seconds in delays.items() if seconds > 2}
    print(
        f"\n{story.in_hand} in hand, {len(slow)} of them delayed; the last was done after {max(delays.values()):.1f} s"
    )
    assert slow, "the lost pod had nothing in hand, so nothing was tested"
    assert max(slow.values()) < 20
    meanwhile = [
        order for order, sent in story.sent.items() if 1 < sent < 8 and _done(story, order) - sent - story.lost_at < 2
    ]
    assert len(meanwhile) > 4 * RATE


def _done(story: Story, order: str) -> float:
    return story.charges[order][0].stored


def test_the_status_names_the_lost_node_and_then_the_step_is_ready_again(story: Story) -> None:
    told = [sight for sight in story.sights if sight.seconds >= 0]
    for sight in story.sights:
        print(
            f"\n{sight.seconds:6.1f} s Ready={sight.ready} ({sight.reason}) {sight.pods_ready} ready: {sight.message}"
        )
    noticed = next(sight for sight in told if sight.ready == "False")
    named = next(sight for sight in told if f"node n{VICTIM} does not answer for pod charge-" in sight.message)
    whole = next(sight for sight in told if sight.ready == "True" and sight.seconds > noticed.seconds)
    print(f"noticed after {noticed.seconds} s, named after {named.seconds} s, whole after {whole.seconds} s")
    assert (noticed.reason, noticed.progressing, noticed.pods_ready) == ("RollingOut", "True", 2)
    assert "2 available" in noticed.message
    assert named.reason == "WorkloadUnavailable"
    assert story.tolerations == {"not-ready": TOLERATION, "unreachable": TOLERATION}
    # Kubernetes takes 8 s here to give a silent node up, and 50 s by default; then the toleration, and a new pod.
    assert noticed.seconds + TOLERATION - 2 < whole.seconds < noticed.seconds + TOLERATION + 15
    assert whole.pods_ready == 3
    assert set(story.after) == {"n1", "n2"}
    assert len(story.after) == 3
