"""The faults: each strikes once, says when, and leaves the world whole. Whether it hit anything is asked afterwards.

They wait for the time that a fault is to last: that is the fault, and no synchronisation.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import nats.errors

from tests.chaos import contents
from tests.chaos.places import PATIENCE
from tests.chaos.worlds import WORKERS, World
from tests.support import waits
from tests.support.brokers import NatsServer


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault that has struck."""

    at: float
    """When, on the monotonic clock: what was in hand then is hit."""
    pid: int | None = None
    """The process whose runs are hit; None for all."""
    since: float | None = None
    """From when on, for a fault that lasts as long as a process and has all of its runs."""


Strike = Callable[[World, random.Random], Awaitable[Blow | None]]
"""None when there was nothing to strike."""


def _near(chance: random.Random) -> int:
    return chance.randrange(WORKERS)


async def kill_worker(world: World, chance: random.Random) -> Blow:
    place = _near(chance)
    victim = world.workers[place]
    await world.busy(victim.process.pid)
    blow = Blow(time.monotonic(), victim.process.pid)
    victim.stop(signal.SIGKILL)
    world.workers[place] = world.spawn(place)
    await world.ready(world.workers[place])
    return blow


async def stop_worker(world: World, chance: random.Random) -> Blow:
    """Longer than the broker waits for an ack: others get its events, and then it goes on."""
    victim = world.workers[_near(chance)]
    await world.busy(victim.process.pid)
    blow = Blow(time.monotonic(), victim.process.pid)
    victim.stop(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(11, 13))
    victim.stop(signal.SIGCONT)
    return blow


async def wrong_clock(world: World, chance: random.Random) -> Blow:
    """A worker more whose clock is wrong; it leaves by SIGTERM."""
    began = time.monotonic()
    worker = world.spawn(0, skew=chance.choice([-20.0, -3.0, 4.0, 8.0]))
    await world.ready(worker)
    await asyncio.sleep(chance.uniform(1, 3))
    blow = Blow(time.monotonic(), worker.process.pid, since=began)
    worker.stop(signal.SIGTERM)
    await worker.wait_exit(PATIENCE)
    return blow


async def _network(world: World, seconds: float, harm: Callable[[], None]) -> Blow:
    await world.busy(world.far.process.pid)
    blow = Blow(time.monotonic(), world.far.process.pid)
    harm()
    await asyncio.sleep(seconds)
    for proxy in world.proxies:
        proxy.mend()
    await world.ready(world.far)
    return blow


async def cut_network(world: World, chance: random.Random) -> Blow:
    def harm() -> None:
        for proxy in world.proxies:
            proxy.cut()

    return await _network(world, chance.uniform(0.1, 3), harm)


async def hold_network(world: World, chance: random.Random) -> Blow:
    """A black hole for one direction or both; what was sent into it arrives when it is gone."""
    ways = chance.choice(["up", "down", "both"])

    def harm() -> None:
        for proxy in world.proxies:
            if ways != "down":
                proxy.up.hold()
            if ways != "up":
                proxy.down.hold()

    return await _network(world, chance.choice([2.0, 7.0, 12.0]), harm)


async def slow_network(world: World, chance: random.Random) -> Blow:
    up, down = chance.uniform(0, 0.2), chance.uniform(0, 0.2)

    def harm() -> None:
        for proxy in world.proxies:
            proxy.up.delay, proxy.down.delay = up, down

    return await _network(world, chance.uniform(2, 4), harm)


async def _victim(world: World, chance: random.Random) -> NatsServer:
    """The stream's leader, or now and then one who follows."""
    leader = await world.leader()
    return leader if chance.random() < 0.8 else chance.choice(world.nodes)


async def _broker(world: World, chance: random.Random, how: signal.Signals) -> Blow:
    victim = await _victim(world, chance)
    await world.busy()
    blow = Blow(time.monotonic())
    await asyncio.to_thread(victim.stop, how)
    await asyncio.sleep(chance.uniform(0, 2))
    await asyncio.to_thread(victim.launch)
    await world.wait_whole()
    return blow


async def kill_broker(world: World, chance: random.Random) -> Blow:
    return await _broker(world, chance, signal.SIGKILL)


async def restart_broker(world: World, chance: random.Random) -> Blow:
    return await _broker(world, chance, signal.SIGTERM)


async def stop_broker(world: World, chance: random.Random) -> Blow:
    """Three replicas have another leader by the time the old one, who knows nothing of it, goes on."""
    victim = await _victim(world, chance)
    await world.busy()
    blow = Blow(time.monotonic())
    victim.pause()
    try:
        await asyncio.sleep(chance.uniform(2, 4) if world.cluster is None else chance.uniform(4, 12))
    finally:
        victim.go_on()
    await world.wait_whole()
    return blow


async def step_down(world: World, chance: random.Random) -> Blow:
    assert world.cluster is not None
    await world.busy()
    blow = Blow(time.monotonic())
    for _ in range(chance.randint(1, 3)):
        await world.cluster.step_down(world.app.stream)
    await world.wait_whole()
    return blow


async def lose_quorum(world: World, chance: random.Random) -> Blow:
    victims = chance.sample(world.nodes, 2)
    how = chance.choice([signal.SIGKILL, signal.SIGSTOP])
    await world.busy()
    blow = Blow(time.monotonic())
    for victim in victims:
        if how is signal.SIGSTOP:
            victim.pause()
        else:
            await asyncio.to_thread(victim.stop, how)
    await asyncio.sleep(chance.uniform(1, 8))
    for victim in victims:
        if how is signal.SIGSTOP:
            victim.go_on()
        else:
            await asyncio.to_thread(victim.launch)
    await world.wait_whole()
    return blow


async def fill_store(world: World, chance: random.Random) -> Blow:
    """Another stream takes all that the servers may store, and goes again. Timers that fell due meanwhile are the
    janitor's business."""
    async with contents.client(world.urls) as connection:
        js = connection.jetstream(timeout=5)
        await js.add_stream(name="FILL", subjects=["fill"], num_replicas=world.replicas)
        piece, refused, blow = b"x" * 900_000, 0, None

        async def put() -> bool:
            """Whether the store was full, three times in a row."""
            nonlocal refused
            try:
                await js.publish("fill", piece if not refused else b"x" * 50_000)
            except nats.errors.Error:
                refused += 1
            return refused >= 3

        await waits.until(put, "a full store", timeout=PATIENCE)
        blow = Blow(time.monotonic())
        await asyncio.sleep(chance.uniform(1, 3))
        await waits.until(lambda: _deleted(js), "the store to be emptied", timeout=PATIENCE)
    return blow


async def _deleted(js: object) -> bool:
    try:
        await js.delete_stream("FILL")  # type: ignore[attr-defined]
    except nats.errors.Error:
        return False
    return True


OF_WORKERS: Mapping[str, Strike] = {
    "worker killed": kill_worker,
    "worker stopped": stop_worker,
    "wrong clock": wrong_clock,
    "network cut": cut_network,
    "network held": hold_network,
    "network slow": slow_network,
}
OF_BROKERS: Mapping[str, Strike] = {
    "broker killed": kill_broker,
    "broker stopped": stop_broker,
    "broker restarted": restart_broker,
    "store full": fill_store,
}
OF_CLUSTERS: Mapping[str, Strike] = {
    "leader stepped down": step_down,
    "quorum lost": lose_quorum,
}
