"""The partitions of an ordered Step that this process pulls: those that its membership gives it.

A partition that goes to somebody else is let go gently: no more is asked for, what is in hand is finished. Nobody waits
for that, since its consumer gives out the next event only after the one before was acknowledged.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Callable
from typing import NamedTuple

from bema.contract.bindings import Partitions as Bound
from bema.ports.connections import Connection, Message
from bema.ports.pulls import Pull
from bema_runtime import rendezvous
from bema_runtime.memberships import Membership
from bema_runtime.runs import Unit
from bema_runtime.tasks import Tasks
from bema_runtime.turns import Turns

log = logging.getLogger(__name__)

CAPACITY = 1
"""Events that are asked for at once. The consumer gives out one at a time anyway."""


class _Held(NamedTuple):
    unit: Unit
    pull: Pull


class Partitions:
    """One Step's, in this process. `deliver` gets what arrives, with a unit that stands for the partition."""

    def __init__(
        self,
        connection: Connection,
        unit: Unit,
        bound: Bound,
        *,
        tasks: Tasks,
        deliver: Callable[[Unit, list[Message]], None],
    ) -> None:
        self._connection = connection
        self._unit = unit
        self._bound = bound
        self._tasks = tasks
        self._deliver = deliver
        self._turns = Turns(unit.binding.concurrency)
        self._held: dict[int, _Held] = {}
        self._released: list[Unit] = []
        """Units of partitions that went away with events in hand."""
        self._own = secrets.token_hex(8)
        self._membership = Membership(connection, bound.members, self._own, tasks=tasks, changed=self._changed)
        self._wanted: set[int] = set()
        self._moving = asyncio.Lock()
        self._stopping = False
        self._is_held = False
        unit.metrics.partitions = lambda: len(self._held)
        unit.metrics.in_flight = self._in_flight

    async def start(self) -> None:
        await self._membership.start()

    @property
    def problems(self) -> list[str]:
        """Why nothing comes, by partition."""
        return [f"partition {number}: {held.pull.problem}" for number, held in self._held.items() if held.pull.problem]

    def hold(self, held: bool) -> None:
        """Take nothing more until told otherwise."""
        self._is_held = held
        for each in self._held.values():
            each.pull.hold(held)

    async def stop(self) -> None:
        """Take no more events, and give back at once those that wait for their turn or their next attempt."""
        self._stopping = True
        self._turns.stop()
        await self._membership.leave()
        self._wanted = set()
        await self._move()

    def _in_flight(self) -> int:
        return sum(
            unit.in_flight for unit in (self._unit, *self._released, *(held.unit for held in self._held.values()))
        )

    def _changed(self, members: frozenset[str]) -> None:
        if self._stopping:
            return
        partitions = len(self._bound.consumers)
        self._wanted = rendezvous.owned(self._own, members, partitions)
        log.info(
            "Partitions %s of %d are this process's; %d members",
            ", ".join(map(str, sorted(self._wanted))) or "none",
            partitions,
            len(members),
            extra={"app": self._unit.binding.app, "step": self._unit.binding.step},
        )
        self._tasks.spawn(self._move())

    async def _move(self) -> None:
        """Bring what is pulled to what is wanted, one change after the other."""
        async with self._moving:
            lost = [number for number in self._held if number not in self._wanted]
            await asyncio.gather(*(self._release(number) for number in lost))
            for number in self._wanted - self._held.keys():
                await self._gain(number)

    async def _gain(self, number: int) -> None:
        # A unit of its own for each pull: what is done counts for the pull that brought it
        unit = dataclasses.replace(self._unit, partition=number, turns=self._turns, in_flight=0)
        pull = Pull(
            self._connection,
            stream=self._unit.binding.stream.name,
            durable=self._bound.consumers[number].durable,
            capacity=CAPACITY,
            deliver=lambda burst: self._deliver(unit, burst),
        )
        unit.release = pull.done
        self._held[number] = _Held(unit, pull)
        pull.hold(self._is_held)
        await pull.start()

    async def _release(self, number: int) -> None:
        held = self._held.pop(number)
        self._released = [*(unit for unit in self._released if unit.in_flight), held.unit]
        await held.pull.stop()
