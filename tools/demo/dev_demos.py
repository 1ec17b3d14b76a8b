"""`make demo`: the orders example in `bema dev`, its worker killed in mid-run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import stages
from tools.demo import brokers, devs, interruptions, providers, trials
from tools.demo.devs import Dev
from tools.demo.drivers import Driver
from tools.demo.interruptions import Interruption
from tools.demo.orderfiles import Line

FIRST_STRIKE = 0.3
"""Part of the file that is settled when the worker is killed for the first time."""
BETWEEN_STRIKES = 0.15
MOST_STRIKES = 5


@dataclass(frozen=True)
class Options:
    """What the caller chose."""

    lines: Sequence[Line]
    folder: Path
    log: Path
    """Where the app's own output goes."""
    stay: bool
    """Offer to stay up at the end."""


async def run(options: Options) -> bool:
    """Run it; whether the trial passed."""
    async with AsyncExitStack() as stack:
        provider = stack.enter_context(providers.running())
        stages.say(f"payment provider at {provider.url}")
        env = {"PAYMENT_URL": provider.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        with stages.stage("bema dev"):
            dev = await stack.enter_async_context(devs.running(options.folder, log=options.log, env=env))
        ready = dev.current
        stages.say(f"{ready.app} at {ready.url}, worker {ready.worker}, broker {ready.nats}; log: {options.log}")
        broker = await stack.enter_async_context(brokers.connected(ready.nats, ready.app))

        async def sabotage(driver: Driver) -> list[Interruption]:
            return await _kill_until_it_hurts(dev, broker, driver)

        scene = trials.Scene(ready.url, broker, provider.ledger, options.lines)
        outcome = await trials.run(scene, sabotage)
        trials.show(outcome)
        if options.stay:
            await _stay(dev)
        return outcome.passed


async def _kill_until_it_hurts(dev: Dev, broker: brokers.Broker, driver: Driver) -> list[Interruption]:
    """SIGKILL the worker in mid-run. A kill that interrupted nothing does not count: then again."""
    done: list[Interruption] = []
    while len(done) < MOST_STRIKES and not any(item.runs for item in done):
        await driver.progress.reached(FIRST_STRIKE + BETWEEN_STRIKES * len(done))
        what = f"killed the worker (pid {dev.current.worker}) with SIGKILL"
        done.append(await interruptions.kill(what, dev.kill_worker, driver=driver, broker=broker))
        stages.say(done[-1].text)
        ready = await dev.wait_ready(len(done) + 1)
        stages.say(f"worker {ready.worker} carries on")
    return done


async def _stay(dev: Dev) -> None:
    url = dev.current.url
    print(f"\nStill up: POST {url}/orders, GET {url}/orders/o-00001. Enter stops it.", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
