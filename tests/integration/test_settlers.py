"""The settler of each of two processes that have the same events in hand, with a real server between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from bema.contract import bindings, names
from bema.contract.bindings import AppStream, Installation, Owner
from bema.contract.effects import EmitEvent
from bema.contract.frames import End, Failure, ItemEnd, Outcome
from bema.ports import admin, connections
from bema.ports.connections import Connection
from bema.ports.jetstream import JetStream
from bema_runtime import gatherers
from bema_runtime.hands import Hands
from bema_runtime.lanes import Lanes
from bema_runtime.metrics import Metrics
from bema_runtime.runs import Run
from bema_runtime.settlers import Settler
from bema_runtime.tasks import Tasks
from tests.support import units, waits
from tests.support.brokers import NatsServer

LATER = [EmitEvent("order.paid", b"{}", 1), EmitEvent("order.paid", b"{}", 2, at=4e9)]
FAILED = ItemEnd(Outcome.FAILED, Failure("ValueError", "a hiccup"))


class Process:
    """A settler, with what it asks to be executed again."""

    def __init__(self, connection: Connection, stream: AppStream) -> None:
        self.again: list[Run] = []
        self._tasks = Tasks()
        self._unit = units.unit(
            units.binding(triggers=[{"event": {"topics": ["order.created"], "batch": {"size": 2}}}])
        )
        lanes = Lanes()
        self.settler = Settler(
            connection,
            stream.name,
            Hands(connection, lanes),
            lanes,
            Metrics(),
            tasks=self._tasks,
            execute=self._execute,
            watched=frozenset,
            resume=lambda run: asyncio.sleep(0),
        )
        self.settler.committer.start()

    async def _execute(self, run: Run) -> None:
        self.again.append(run)

    def takes(self, *ids: str) -> Run:
        """A batch of the runs with these ids."""
        return gatherers.batch_of(self._unit, [units.run(unit=self._unit, id=id, delivery=None) for id in ids])

    def ends(self, batch: Run, items: Mapping[int, ItemEnd] | None = None) -> None:
        """The batch's handler has returned, and has failed some items alone."""
        self.settler.ended([(batch, End(1, Outcome.OK, effects=LATER, items=dict(items or {})))])

    async def close(self) -> None:
        await self.settler.committer.close()
        await self._tasks.close()


class Shop:
    """The app's stream, and processes of its Step."""

    def __init__(self, connection: Connection) -> None:
        self.js = JetStream(connection)
        self.stream = bindings.app_stream(Owner(namespace="shop"), Installation(broker=units.BROKER))
        self.processes = [Process(connection, self.stream) for _ in range(2)]

    async def found(self, subject: str) -> list[Any]:
        return [stored async for stored in self.js.scan(self.stream.name, f"{units.ROOT}.{subject}")]

    async def wait_ends(self, count: int) -> None:
        async def ended() -> bool:
            return len(await self.found("end.>")) == count

        await waits.until(ended, f"{count} markers")


@pytest.fixture
async def shop(nats: NatsServer) -> AsyncIterator[Shop]:
    connection = await connections.connect([nats.url], name="test", wait=5)
    shop = Shop(connection)
    await admin.ensure_stream(shop.js, shop.stream)
    yield shop
    for process in shop.processes:
        await process.close()
    await connection.close()


async def _overtaken(shop: Shop) -> None:
    """The first fails b and commits a; the second, overtaken in a, then commits b."""
    one, other = shop.processes
    first, second = one.takes("a", "b"), other.takes("a", "b")
    one.ends(first, {1: FAILED})
    await shop.wait_ends(1)
    other.ends(second)
    await waits.until(lambda: other.again, "what is left of the second batch")
    [rest] = other.again
    assert [item.id for item in rest.members] == ["b"]
    other.ends(rest)


async def _beside_each_other(shop: Shop) -> None:
    """The first fails b and commits a, the second fails a and commits b."""
    one, other = shop.processes
    one.ends(one.takes("a", "b"), {1: FAILED})
    other.ends(other.takes("a", "b"), {0: FAILED})


@pytest.mark.parametrize("how", [_overtaken, _beside_each_other], ids=["one is overtaken", "each fails another item"])
async def test_two_processes_that_commit_parts_of_one_batch_emit_under_ids_of_their_own(shop: Shop, how: Any) -> None:
    await how(shop)
    await shop.wait_ends(2)
    markers = {stored.subject.rpartition(".")[2] for stored in await shop.found("end.>")}
    events: Sequence[Any] = await shop.found("evt.>")
    timers = {stored.headers["ce-id"] for stored in await shop.found("timer.*")}
    assert markers == {"a", "b"}
    assert len({stored.headers["ce-id"] for stored in events}) == len(events) == 2, "two events, each with its own id"
    assert len(timers) == 2, "no timer has taken the place of another"


async def _broken() -> None:
    raise ZeroDivisionError("a mistake of the runtime")


async def test_a_run_that_cannot_be_settled_is_undeliverable_in_the_end(shop: Shop) -> None:
    [process, _] = shop.processes
    for delivered in (53, 54):
        delivery = units.DELIVERY._replace(delivered=delivered)
        process.settler.begin(units.run(id=f"r{delivered}", delivery=delivery), _broken())
    await shop.wait_ends(1)
    [letter] = await shop.found("dlq.>")
    assert letter.subject == names.dead_letter(units.ROOT, "pay", "r54")
    [entry] = json.loads(letter.headers["Bema-Errors"])
    assert entry["message"] == "delivered 54 times without an end: ZeroDivisionError: a mistake of the runtime"
