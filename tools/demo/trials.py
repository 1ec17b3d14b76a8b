"""One trial: the file is sent, somebody strikes meanwhile, everything settles, and the audit judges.

The same for an app in `bema dev` and for one on a cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from examples.orders.lib.catalogue import CATALOGUE
from tools.cluster import stages
from tools.demo import audits, drivers, screens
from tools.demo.brokers import Broker
from tools.demo.drivers import Driver
from tools.demo.histories import History, Sent
from tools.demo.interruptions import Interruption
from tools.demo.orderfiles import Kind, Line
from tools.demo.providers import Ledger

STANDSTILL = 45.0
"""Seconds without any progress after which what is missing is taken for lost, though there are events on their way. One
in a dead process's hand comes again after ten."""
QUIET = 5.0
"""The same, with nothing on its way."""
EVERY = 0.25

Sabotage = Callable[[Driver], Coroutine[Any, Any, Sequence[Interruption]]]


@dataclass(frozen=True)
class Scene:
    """Where a trial takes place."""

    url: str
    """Of the api Steps."""
    broker: Broker
    ledger: Ledger
    lines: Sequence[Line]


@dataclass(frozen=True)
class Outcome:
    """What a trial showed."""

    verdict: audits.Verdict
    interruptions: Sequence[Interruption]
    seconds: float
    """From the first request until everything had settled."""
    repeated_deliveries: int
    """Events that the broker delivered again, because whoever had them did not end them."""
    resent: int
    """Requests sent again because their answer was lost."""
    repeated_charges: int
    """Requests that the provider saw again with a key that it knew."""

    @property
    def passed(self) -> bool:
        """A trial that interrupted nothing has shown nothing."""
        return self.verdict.passed and self.interrupted > 0

    @property
    def interrupted(self) -> int:
        """Runs that were begun and had to be begun again: the broker and the driver know of each."""
        return self.repeated_deliveries + self.resent


@dataclass(frozen=True)
class _Settled:
    ended: int
    dead: int
    waiting: int


async def run(scene: Scene, sabotage: Sabotage) -> Outcome:
    """Send, strike, wait, audit."""
    started = time.monotonic()
    limits = httpx.Limits(max_connections=drivers.CONCURRENCY)
    good = sum(line.kind is Kind.ORDER for line in scene.lines)
    async with httpx.AsyncClient(base_url=scene.url, timeout=drivers.TIMEOUT, limits=limits, trust_env=False) as client:
        driver = Driver(client, scene.broker, scene.lines)
        with screens.bars(sent=len(scene.lines), ended=good) as bars:
            watching = asyncio.create_task(_watch(driver, scene.broker, bars))
            try:
                sent, interruptions = await _send(driver, sabotage)
                await _settle(scene.broker, sent)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await _look(driver, scene.broker, bars)
    seconds = time.monotonic() - started
    with stages.stage("audit"):
        verdict = audits.audit(
            History(
                sent=sent,
                entries=await scene.broker.entries(),
                charges=scene.ledger.charges(),
                initial_stock={name: product.initial for name, product in CATALOGUE.items()},
            )
        )
    return Outcome(
        verdict,
        interruptions,
        seconds,
        repeated_deliveries=await scene.broker.repeated_deliveries(),
        resent=sum(item.unanswered for item in sent),
        repeated_charges=scene.ledger.repeats(),
    )


async def _send(driver: Driver, sabotage: Sabotage) -> tuple[list[Sent], Sequence[Interruption]]:
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(driver.run())
        striking = group.create_task(sabotage(driver))
    return sending.result(), striking.result()


async def _watch(driver: Driver, broker: Broker, bars: screens.Bars) -> None:
    while True:
        await _look(driver, broker, bars)
        await asyncio.sleep(EVERY)


async def _look(driver: Driver, broker: Broker, bars: screens.Bars) -> None:
    bars.update(sent=driver.progress.settled, ended=await broker.count("state.notifications.*"))


async def _settle(broker: Broker, sent: Sequence[Sent]) -> None:
    """Wait until every accepted order has ended, every wrong event is dead-lettered and nothing is on its way. When
    nothing moves any more before that, say what is missing and leave the verdict to the audit."""
    accepted = sum(item.accepted for item in sent if item.line.kind is Kind.ORDER)
    wrong = sum(item.line.kind is Kind.WRONG_EVENT for item in sent)
    last = _Settled(-1, -1, -1)
    moved = time.monotonic()
    while True:
        now = _Settled(await broker.count("state.notifications.*"), await broker.count("dlq.>"), await broker.waiting())
        if now.ended >= accepted and now.dead >= wrong and now.waiting == 0:
            return
        if now != last:
            last, moved = now, time.monotonic()
        patience = STANDSTILL if now.waiting else QUIET
        if time.monotonic() - moved > patience:
            stages.say(
                f"nothing has moved for {patience:g} s: expected {accepted} orders ended and {wrong} dead letters, "
                f"found {now.ended} and {now.dead}, with {now.waiting} events on their way"
            )
            return
        await asyncio.sleep(EVERY)


def show(outcome: Outcome) -> None:
    """The outcome on standard output; its last line is the audit's sentence."""
    notes = [item.text for item in outcome.interruptions]
    if not outcome.interrupted:
        notes.append("no strike interrupted a run, so that this trial has shown nothing")
    notes.append(f"{outcome.repeated_deliveries} deliveries made again, because nobody ended them the first time")
    notes.append(f"{outcome.resent} requests sent again because their answer was lost")
    notes.append(f"{outcome.repeated_charges} charges asked for again with the same key")
    notes.append(f"{outcome.seconds:.1f} s from the first request until all was quiet")
    screens.show(outcome.verdict, notes)
