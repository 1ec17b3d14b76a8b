"""Keyed events through an ordered Step, and the proof that each was done once and in the order of its key.

Every event carries a number that counts within its key. The Step appends it to a list in the state: what ends up there
is what was committed, in the order in which it was.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import signal
from collections.abc import AsyncIterator
from typing import Any

from bema.contract import bindings, envelopes, names
from bema.ports import admin
from bema.ports.jetstream import Outgoing
from tests.support import runtimes, waits

STEP = """
import asyncio, os
from bema import operations
config = {"triggers": [{"event": {"topics": ["work"], "ordering": {}}}],
          "retry": {"maxAttempts": 5, "initialSeconds": 0.05, "maxSeconds": 1}}
async def handler(data, ctx):
    if data.get("fails") and ctx.attempt < 2:
        raise RuntimeError("not yet")
    if data.get("reads"):
        await ctx.state.get("seen", data["key"])
        await asyncio.sleep(0.005)
    await ctx.state.update("seen", data["key"], operations.append(data["n"]))
    await ctx.state.set("last", data["key"], {"n": data["n"], "pid": os.getpid()})
"""
PER_BATCH = 400


class Sender:
    """Sends events of many keys, some of which fail at first or take their time."""

    def __init__(self, app: runtimes.App, *, keys: int, chance: random.Random | None = None) -> None:
        self._app = app
        self._keys = [f"key-{number}" for number in range(keys)]
        self._chance = chance
        self.sent: collections.Counter[str] = collections.Counter()

    def _next(self, number: int) -> dict[str, Any]:
        key = self._chance.choice(self._keys) if self._chance else self._keys[number % len(self._keys)]
        data: dict[str, Any] = {"key": key, "n": self.sent[key]}
        self.sent[key] += 1
        if self._chance and self._chance.random() < 0.005:
            data[self._chance.choice(["fails", "reads"])] = True
        return data

    async def send(self, count: int) -> None:
        """Store so many events, in atomic batches."""
        for first in range(0, count, PER_BATCH):
            await self._app.js.publish_batch(
                [self._message(self._next(number)) for number in range(first, min(first + PER_BATCH, count))]
            )

    def _message(self, data: dict[str, Any]) -> Outgoing:
        key, body = data["key"], json.dumps(data).encode()
        event = envelopes.Event(f"{key}.{data['n']}", "work", "/test", "2026-01-01T00:00:00Z", body, key)
        subject = names.event(self._app.root, "work", names.partition(key, bindings.PARTITIONS))
        return Outgoing(subject, body, envelopes.encode(event))


async def verify(app: runtimes.App, sent: collections.Counter[str]) -> None:
    """Each event of each key was committed once, and in order."""
    wrong = {}
    for key, count in sent.items():
        found = await app.state("seen", key) or []
        if found != list(range(count)):
            wrong[key] = next((n, number) for n, number in enumerate([*found, None]) if n != number)
    assert wrong == {}, f"by key, the first place that holds another number: {wrong}"


def pulled(worker: runtimes.Worker, step: str) -> int:
    """How many partitions a worker pulls; -1 before it is ready."""
    if worker.readiness()[0] != 200:
        return -1
    return int(worker.metrics().get(f'bema_partitions{{app="{runtimes.NAMESPACE}",step="{step}"}}', -1))


async def wait_shared(app: runtimes.App, step: str, *, workers: list[runtimes.Worker]) -> list[int]:
    """Until every partition has one worker that pulls it, and each worker its share; the shares, largest first."""
    least, extra = divmod(bindings.PARTITIONS, len(workers))
    wanted = [least + 1] * extra + [least] * (len(workers) - extra)

    def shares() -> list[int] | None:
        found = sorted((pulled(worker, step) for worker in workers), reverse=True)
        return found if found == wanted else None

    shared: list[int] = await waits.until(shares, f"shares {wanted}", timeout=60, explain=app.explain)
    return shared


async def wait_done(app: runtimes.App, *, timeout: float) -> None:
    """Until no consumer holds anything."""

    async def done() -> bool:
        return all(state.backlog == 0 for state in (await admin.consumer_states(app.js, app.stream)).values())

    await waits.until(done, "all events done", timeout=timeout)


class Harm:
    """Members that join and leave in every way, at random times. In the end some of them run."""

    def __init__(self, app: runtimes.App, chance: random.Random, *, most: int = 4, pause: float = 1.2) -> None:
        self._app = app
        self._chance = chance
        self._most = most
        self._pause = pause
        self._alive = list(app.workers)
        self._stopped: set[runtimes.Worker] = set()
        self.done: collections.Counter[str] = collections.Counter()

    @contextlib.asynccontextmanager
    async def doing(self) -> AsyncIterator[Harm]:
        """Harm until the end of the block."""
        work = asyncio.create_task(self._go_on())
        try:
            yield self
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            self._continue()

    async def _go_on(self) -> None:
        actions = ["join", "term", "kill", "stop", "continue"]
        while True:
            await asyncio.sleep(self._chance.uniform(0.2, self._pause))
            action = self._chance.choice(actions)
            if action == "join" and len(self._alive) < self._most:
                self._alive.append(self._app.spawn())
            elif action in ("term", "kill") and len(self._alive) > 1:
                self._end(self._chance.choice(self._alive), action)
            elif action == "stop" and len(self._stopped) + 1 < len(self._alive):
                worker = self._chance.choice(self._alive)
                worker.stop(signal.SIGSTOP)
                self._stopped.add(worker)
            elif action == "continue" and self._stopped:
                self._continue()
            else:
                continue
            self.done[action] += 1

    def _end(self, worker: runtimes.Worker, action: str) -> None:
        self._alive.remove(worker)
        if worker in self._stopped:
            self._stopped.discard(worker)
            action = "kill"
        worker.stop(signal.SIGTERM if action == "term" else signal.SIGKILL)

    def _continue(self) -> None:
        for worker in self._stopped:
            worker.stop(signal.SIGCONT)
        self._stopped.clear()
