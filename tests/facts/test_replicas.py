"""What three replicas rest on. One cluster of three servers for each version."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bema.contract import errors
from bema.ports import connections
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing
from tests.support import clusters, facts, waits
from tests.support.clusters import PATIENCE, Cluster
from tests.support.facts import Place


@pytest.fixture(scope="session")
def cluster(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clusters.running(tmp_path_factory.mktemp("cluster"), program=program) as found:
        yield found


@pytest.fixture
async def spread(cluster: Cluster) -> AsyncIterator[Place]:
    """A stream of its own with three replicas."""
    connection = await connections.connect(cluster.urls, name="facts", wait=PATIENCE)
    try:
        place = Place(JetStream(connection), f"F{secrets.token_hex(4)}")

        async def made() -> bool:
            try:
                await place.make(num_replicas=3)
            except errors.BrokerError:
                return False
            return True

        await waits.until(made, "a stream of three replicas", timeout=PATIENCE, explain=cluster.last_words)
        await cluster.wait_current(place.name)
        yield place
    finally:
        await connection.close()


async def commit(place: Place, run: int) -> None:
    """As the committer does: after a refusal or a silence the leader is asked for the marker."""
    batch = [
        Outgoing(place.subject("end", str(run)), expected=0),
        Outgoing(place.subject("state", str(run)), b"1", {ROLLUP: "sub"}),
        Outgoing(place.subject("event"), str(run).encode()),
    ]

    async def is_true() -> bool:
        try:
            await place.js.publish_batch(batch, timeout=2)
        except errors.BrokerError:
            try:
                return await place.last(f"end.{run}") is not None
            except errors.BrokerError:
                return False
        return True

    await waits.until(is_true, f"the commit of run {run}", timeout=PATIENCE)


async def test_asking_the_leader_after_each_refusal_loses_and_doubles_nothing(cluster: Cluster, spread: Place) -> None:
    """While the leader leaves, and while it is killed."""
    for run in range(30):
        if run % 10 == 5:
            await cluster.step_down(spread.name)
        await commit(spread, run)
    leader = await cluster.wait_leader(spread.name)
    leader.stop(signal.SIGKILL)
    for run in range(30, 60):
        await commit(spread, run)
    leader.start()
    await cluster.wait_current(spread.name)
    assert sorted(int(stored.data) for stored in await spread.all("event")) == list(range(60))
    assert len(await spread.all("end.*")) == 60


async def test_the_leader_knows_at_once_what_was_acknowledged(cluster: Cluster, spread: Place) -> None:
    """Though a follower does not."""
    leader = await cluster.wait_leader(spread.name)
    behind = next(node for node in cluster.nodes if node is not leader)
    async with facts.connected(leader.url, spread.name) as place:
        behind.pause()
        try:
            for number in range(50):
                await place.put("value", str(number).encode(), Nats_Rollup="sub")
                found = await place.last("value")
                assert found is not None
                assert int(found.data) == number
        finally:
            behind.go_on()
    await cluster.wait_current(spread.name)


async def test_timers_fire_once_though_their_leader_is_killed(cluster: Cluster, spread: Place) -> None:
    at = time.time() + 2
    await spread.js.publish_batch([spread.schedule(str(number), at=at + number / 100) for number in range(300)])
    leader = await cluster.wait_leader(spread.name)
    await waits.until(lambda: time.time() > at + 1, "the middle of the timers")
    leader.stop(signal.SIGKILL)

    async def all_fired() -> bool:
        try:
            return len(await spread.all("fired.*")) >= 300
        except errors.BrokerError:
            return False

    await waits.until(all_fired, "all timers", timeout=PATIENCE)
    leader.start()
    await cluster.wait_current(spread.name)
    assert len(await spread.all("fired.*")) == 300
    assert await spread.all("timer.*") == []


async def test_consumers_follow_their_stream_from_one_replica_to_three_and_back(
    cluster: Cluster, spread: Place
) -> None:
    await spread.js.api(f"STREAM.UPDATE.{spread.name}", spread.config(num_replicas=1), timeout=30)
    await spread.consumer("c")
    for number in range(20):
        await spread.put("a", str(number).encode())
    for message in await spread.pull("c", 5):
        await spread.answer(message, b"+ACK")
    for replicas in (3, 1):
        await spread.js.api(f"STREAM.UPDATE.{spread.name}", spread.config(num_replicas=replicas), timeout=30)

        async def spread_over(replicas: int = replicas) -> bool:
            try:
                found = (await spread.consumer_info("c")).get("cluster") or {}
            except errors.BrokerError:
                return False
            return bool(found.get("leader")) and 1 + len(found.get("replicas") or []) == replicas

        await waits.until(spread_over, f"{replicas} replicas of the consumer", timeout=PATIENCE)
        info = await spread.consumer_info("c")
        assert (info["num_pending"] + info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (15, 5)
        assert info["config"].get("num_replicas", 0) == 0, "0 follows the stream"
