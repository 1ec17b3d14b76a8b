"""`python -m bench.months [--events N] [--days N] [--day SECONDS]`: a month of an app with 20 Steps, to see that its
stream does not grow. A day lasts some seconds, and so does all that the janitor measures in days.

Twelve Steps are busy; one of them is suspended for two days and catches up. Six handled one event at the very
beginning and nothing since; one never got any; one stays a second subscriber throughout. Each run leaves its marker
before its event is acknowledged, as the runtime does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bema.contract import bindings, names
from bema.contract.bindings import Broker, Consumer, Installation, Owner
from bema.contract.retentions import Retentions
from bema.ports import admin, connections
from bema.ports.connections import Message, publish_command
from bema.ports.janitors import Janitor
from bema.ports.jetstream import JetStream, Outgoing
from bema.ports.pulls import Pull
from tests.support import brokers, waits

APP = "month"
BATCH = 500
BUSY = 12
IDLE = 6
SUSPENDED = "busy0"
SUSPENSION = (10, 12)
"""Days between which it does not run."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a month is."""

    events: int = 1_000_000
    days: int = 30
    day: float = 6.0
    """Seconds that a day lasts, at least."""
    sweeps: int = 6
    """Sweeps a day; on a cluster there are 2,880."""

    @property
    def kept(self) -> Retentions:
        """A day and an hour, scaled."""
        hour = self.day / 24
        return Retentions(
            storage_bytes=2**40, events=self.day, dead_letters=30 * self.day, markers=hour, lost=hour, unheard=hour / 6
        )


@dataclass(slots=True)
class Day:
    """What a day ended with, and the most there was in it."""

    messages: int = 0
    bytes: int = 0
    events: int = 0
    markers: int = 0
    peak: int = 0
    purged: int = 0
    sweep: float = 0.0
    """Seconds of the longest sweep."""


@dataclass(slots=True)
class Month:
    """What was seen."""

    days: list[Day] = field(default_factory=list)
    emitted: int = 0
    handled: int = 0
    seconds: float = 0.0

    def peak(self, first: int, last: int) -> int:
        """The most messages there were from one day on up to another."""
        return max(day.peak for day in self.days[first:last])


class Worker:
    """Handles a Step's events: a marker for each, then the ack."""

    def __init__(self, js: JetStream, stream: str, root: str, step: str) -> None:
        self.step = step
        self.handled = 0
        self._js = js
        self._root = root
        self._queue: asyncio.Queue[list[Message]] = asyncio.Queue()
        self.pull = Pull(js.connection, stream=stream, durable=step, capacity=BATCH, deliver=self._queue.put_nowait)

    async def run(self) -> None:
        await self.pull.start()
        while True:
            burst = await self._queue.get()
            await self._js.publish_batch([self._marker(message) for message in burst], timeout=30)
            await self._js.connection.write(b"".join(publish_command(each.reply, b"+ACK") for each in burst))
            self.handled += len(burst)
            self.pull.done(len(burst))

    def _marker(self, message: Message) -> Outgoing:
        run = message.reply.split(".")[5]
        return Outgoing(names.end(self._root, self.step, "event", run), b'{"outcome":"ok","attempt":1}', expected=0)


class Simulation:
    """One month on one server."""

    def __init__(self, js: JetStream, size: Size, *, janitor: bool) -> None:
        self._js = js
        self._size = size
        self._root = names.root(APP)
        self._stream = names.stream(APP)
        self._janitor = Janitor(js, self._stream, size.kept) if janitor else None
        self._workers: dict[str, Worker] = {}
        self._emitted = 0

    async def set_up(self, url: str) -> None:
        installation = Installation(broker=Broker(urls=[url]))
        await admin.ensure_stream(self._js, bindings.app_stream(Owner(namespace=APP), installation))
        for number in range(BUSY):
            await self._subscribe(f"busy{number}", f"topic{number}")
        for number in range(IDLE):
            await self._subscribe(f"idle{number}", f"seldom{number}")
        await self._subscribe("never", "never")
        await self._subscribe("second", "topic1")

    async def _subscribe(self, step: str, topic: str) -> None:
        consumer = Consumer(
            durable=names.durable(step),
            filter_subjects=[names.event_filter(self._root, topic), names.retry_filter(self._root, step)],
            max_ack_pending=10 * BATCH,
            deliver_from="Beginning",
            metadata={names.METADATA_STEP: step, names.METADATA_STEP_UID: ""},
        )
        await admin.ensure_consumer(self._js, self._stream, consumer)
        self._workers[step] = Worker(self._js, self._stream, self._root, step)

    async def run(self) -> Month:
        month, began = Month(), time.perf_counter()
        tasks = [asyncio.create_task(worker.run()) for worker in self._workers.values()]
        for number in range(IDLE):
            await self._emit(f"seldom{number}", 1)
        for number in range(self._size.days):
            self._workers[SUSPENDED].pull.hold(SUSPENSION[0] <= number < SUSPENSION[1])
            month.days.append(await self._live(number))
        month.emitted = self._emitted
        month.handled = sum(worker.handled for worker in self._workers.values())
        month.seconds = time.perf_counter() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return month

    async def _live(self, number: int) -> Day:
        """One day: its events in as many parts as there are sweeps, all handled before it ends."""
        day = Day()
        for part in range(self._size.sweeps):
            deadline = asyncio.get_running_loop().time() + self._size.day / self._size.sweeps
            for topic in range(BUSY):
                await self._emit(f"topic{topic}", self._size.events // self._size.days // self._size.sweeps // BUSY)
            held = SUSPENSION[0] <= number < SUSPENSION[1]
            await waits.until(lambda: self._handled(held=held), f"day {number}, part {part}", timeout=120)  # noqa: B023
            await asyncio.sleep(deadline - asyncio.get_running_loop().time())
            day.peak = max(day.peak, (await admin.stream_state(self._js, self._stream)).messages)
            if self._janitor is not None:
                began = time.perf_counter()
                report = await self._janitor.sweep()
                day.sweep = max(day.sweep, time.perf_counter() - began)
                day.purged += report.purged.total()
        await self._count(day)
        return day

    async def _handled(self, *, held: bool) -> bool:
        states = await admin.consumer_states(self._js, self._stream)
        return all(state.backlog == 0 for step, state in states.items() if not held or step != SUSPENDED)

    async def _emit(self, topic: str, count: int) -> None:
        subject = names.event(self._root, topic)
        for start in range(0, count, BATCH):
            part = range(start, min(count, start + BATCH))
            await self._js.publish_batch([Outgoing(subject, b'{"id":%d}' % each) for each in part], timeout=30)
        self._emitted += count

    async def _count(self, day: Day) -> None:
        state = await admin.stream_state(self._js, self._stream)
        request = {"subjects_filter": names.events(self._root)}
        info = await self._js.api(f"STREAM.INFO.{self._stream}", request)
        meta = len(await self._js.subjects(self._stream, names.meta(self._root, ">")))
        day.messages, day.bytes = state.messages, state.bytes
        day.events = sum((info["state"].get("subjects") or {}).values())
        day.markers = state.messages - day.events - meta


async def simulate(url: str, size: Size, *, janitor: bool = True) -> Month:
    """Live a month on a server. Without its janitor, to see what difference it makes."""
    connection = await connections.connect([url], name="month", wait=5)
    try:
        simulation = Simulation(JetStream(connection), size, janitor=janitor)
        await simulation.set_up(url)
        return await simulation.run()
    finally:
        await connection.close()


def table(month: Month) -> Table:
    found = Table(title="at the end of each day")
    for column in ("day", "messages", "peak", "MiB", "events", "markers", "purged", "longest sweep, ms"):
        found.add_column(column, justify="right")
    for number, day in enumerate(month.days):
        counts = (day.messages, day.peak, day.bytes / 2**20, day.events, day.markers, day.purged, day.sweep * 1000)
        found.add_row(str(number), *(f"{count:,.0f}" for count in counts))
    return found


def main() -> None:
    usual = Size()
    parser = argparse.ArgumentParser(prog="python -m bench.months", description=__doc__)
    parser.add_argument("--events", type=int, default=usual.events)
    parser.add_argument("--days", type=int, default=usual.days)
    parser.add_argument("--day", type=float, default=usual.day, help="seconds that a day lasts")
    given = parser.parse_args()
    size = Size(events=given.events, days=given.days, day=given.day)
    with tempfile.TemporaryDirectory(prefix="bema-month-") as folder, brokers.running(Path(folder)) as server:
        month = asyncio.run(simulate(server.url, size))
    console = Console(width=120)
    console.print(table(month))
    console.print(f"{month.emitted:,} events, {month.handled:,} runs, {month.seconds:.0f} s")
    early, late = month.peak(2, SUSPENSION[0]), month.peak(2 * size.days // 3, size.days)
    console.print(f"most messages: {early:,} before the suspension, {late:,} in the last third: {late / early:.2f}")
    sys.exit(0 if late <= early * 1.5 else 1)


if __name__ == "__main__":
    main()
