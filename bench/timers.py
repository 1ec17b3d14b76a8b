"""`python -m bench.timers [--timers N] [--seconds S]`: timers across a restart of the server. Each fires once and never
early, also those that fell due while the server was away; prints how late they were.

Timers are set as the runtime sets them, in batches, spread over some seconds. The server is killed in the middle and
comes back a second later. Lateness is by the server's own clock: when it stored what fired, less when that was due;
of a timer that fell due while nobody was there, less when the server answered again.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bema.contract import bindings, names
from bema.contract.bindings import Broker, Installation, Owner
from bema.ports import admin, connections
from bema.ports.jetstream import ROLLUP, SCHEDULE, SCHEDULE_TARGET, JetStream, Outgoing
from tests.support import brokers, waits
from tests.support.brokers import NatsServer

APP = "timers"
TOPIC = "fired"
BATCH = 500
ROOT = names.root(APP)
AWAY = 1.0
"""Seconds between the kill and the new start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the timers."""

    timers: int
    fired: Counter[int]
    """How often each one did."""
    early: int
    """Timers that fired before they were due."""
    lateness: list[float]
    """Seconds, sorted."""
    overdue: int
    """Timers that fell due while the server was away."""
    left: int
    """Timers that are still set."""

    @property
    def problems(self) -> list[str]:
        """What should not be; empty when all is well."""
        lost = sum(not self.fired[number] for number in range(self.timers))
        found = {
            "never fired": lost,
            "fired more than once": sum(count > 1 for count in self.fired.values()),
            "fired early": self.early,
            "are still set": self.left,
        }
        return [f"{count} {what}" for what, count in found.items() if count]

    def late(self, share: float) -> float:
        """Seconds that this share of the timers were late at most."""
        return self.lateness[min(len(self.lateness) - 1, int(share * len(self.lateness)))]


async def run(folder: Path, *, timers: int, seconds: float) -> Outcome:
    """Set timers that fall due over `seconds`, and kill the server when half of them are due."""
    with brokers.running(folder) as server:
        first = time.time() + 2 + timers / 4000
        due = [round(first + seconds * number / timers, 3) for number in range(timers)]
        async with asyncio.timeout(120 + 5 * seconds):
            await _set(server, due)
            await waits.until(lambda: time.time() > first + seconds / 2, "the middle", timeout=60 + seconds)
            server.stop(signal.SIGKILL)
            gone = time.time()
            await waits.until(lambda: time.time() > gone + AWAY, "a second without the server", timeout=30)
            server.start()
            return await _outcome(server, due, gone, time.time())


async def _set(server: NatsServer, due: list[float]) -> None:
    connection = await connections.connect([server.url], name="bench", wait=10)
    try:
        js = JetStream(connection)
        installation = Installation(broker=Broker(urls=[server.url]))
        await admin.ensure_stream(js, bindings.app_stream(Owner(namespace=APP), installation))
        for start in range(0, len(due), BATCH):
            await js.publish_batch(
                [_timer(start + n, at) for n, at in enumerate(due[start : start + BATCH])], timeout=30
            )
    finally:
        await connection.close()


def _timer(number: int, at: float) -> Outgoing:
    when = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
    headers = {
        SCHEDULE: f"@at {when.replace('+00:00', 'Z')}",
        SCHEDULE_TARGET: names.event(ROOT, TOPIC),
        ROLLUP: "sub",
    }
    return Outgoing(names.timer(ROOT, f"t{number}"), str(number).encode(), headers, expected=0)


async def _outcome(server: NatsServer, due: list[float], gone: float, back: float) -> Outcome:
    connection = await connections.connect([server.url], name="bench", wait=10)
    try:
        js = JetStream(connection)
        stream = names.stream(APP)

        async def set_still() -> int:
            return len(await js.subjects(stream, names.timers(ROOT)))

        async def none_left() -> bool:
            return await set_still() == 0

        try:
            await waits.until(none_left, "all timers to fire", timeout=30 + due[-1] - due[0])
        except AssertionError:
            # Counted below
            left = await set_still()
        else:
            left = 0
        fired: Counter[int] = Counter()
        lateness = []
        early = 0
        async for stored in js.scan(stream, names.event_filter(ROOT, TOPIC)):
            number = int(stored.data)
            fired[number] += 1
            at = due[number]
            late = datetime.datetime.fromisoformat(stored.time).timestamp() - at
            early += late < 0
            lateness.append(max(0.0, late - (back - at)) if gone < at < back else late)
        overdue = sum(gone < at < back for at in due)
        return Outcome(len(due), fired, early, sorted(lateness), overdue, left)
    finally:
        await connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.timers", description=__doc__)
    parser.add_argument("--timers", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="over which they fall due")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bema-timers-") as folder:
        outcome = asyncio.run(run(Path(folder), timers=arguments.timers, seconds=arguments.seconds))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(
        f"{outcome.timers:,} timers, {outcome.overdue:,} of them due while the server was away: "
        f"p50 {outcome.late(0.5) * 1e3:.0f} ms late, p99 {outcome.late(0.99) * 1e3:.0f} ms, "
        f"worst {outcome.late(1) * 1e3:.0f} ms"
    )
    for problem in outcome.problems:
        console.print(f"[red]{problem}")
    return int(bool(outcome.problems))


if __name__ == "__main__":
    sys.exit(main())
