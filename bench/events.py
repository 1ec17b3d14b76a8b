"""Events through a Step that asks for nothing, beside a raw pull loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bema.contract import names
from bema.contract.bindings import Consumer
from bema.ports import admin
from bema.ports.connections import publish_command
from bench import measures
from bench.measures import Measure, Round
from tests.support import brokers, runtimes, waits

CONCURRENCY = 1024
PAUSE = 0.004
"""Between two events of a hop measurement, in seconds."""

STEP = """
import json, os, time
latencies = []
config = {{"triggers": [{{"event": {{"topics": ["work"]}}}}], "concurrency": {concurrency}}}
async def handler(data, ctx):
    if data == "dump":
        with open({file!r}, "w") as out:
            json.dump(latencies, out)
        latencies.clear()
    elif data:
        latencies.append(time.time() - data["t"])
"""


class Pair:
    """A product and a baseline process on one broker, each with a consumer of its own."""

    def __init__(self, app: runtimes.App, raw: subprocess.Popen[bytes], folder: Path) -> None:
        self.app = app
        self.raw = raw
        self.product_file = folder / "product.json"
        self.raw_file = folder / "raw.json"

    def pid(self, *, product: bool) -> int:
        return self.app.worker.process.pid if product else self.raw.pid

    async def send(self, topic: str, data: bytes, count: int = 1) -> None:
        """Events without an envelope: nothing is measured of their making."""
        subject = names.event(self.app.root, topic)
        headers = b"NATS/1.0\r\nce-id: %d-%d\r\nce-type: work\r\n\r\n"
        for first in range(0, count, 500):
            last = min(first + 500, count)
            commands = [
                publish_command(subject, data, headers % (time.time_ns(), number)) for number in range(first, last)
            ]
            await self.app.connection.write(b"".join(commands))
            await self.app.connection.flush()

    async def backlog(self, durable: str) -> int:
        return (await admin.consumer_states(self.app.js, self.app.stream))[durable].backlog

    async def holds(self, durable: str, count: int) -> bool:
        """Whether so much work waits: the server stores what it was sent without an answer in its own time."""
        return await self.backlog(durable) >= count

    async def settled(self, durable: str) -> bool:
        return await self.backlog(durable) == 0


@contextlib.asynccontextmanager
async def pair(folder: Path, *, concurrency: int) -> AsyncIterator[Pair]:
    with brokers.running(folder / "nats") as server:
        source = STEP.format(concurrency=concurrency, file=str(folder / "product.json"))
        app = runtimes.App(server.url, folder / "app", {"steps/work_step.py": source})
        await app.start(memory=True)
        consumer = Consumer(
            durable="raw",
            filter_subjects=[names.event_filter(app.root, "raw")],
            max_ack_pending=concurrency * 10,
            deliver_from="Now",
            metadata={},
        )
        await admin.ensure_consumer(app.js, app.stream, consumer)
        raw = subprocess.Popen(
            [sys.executable, "-m", "bench.raw", server.url, app.stream, "raw", str(concurrency), folder / "raw.json"],
            stdout=subprocess.PIPE,
        )
        try:
            assert raw.stdout is not None
            await asyncio.to_thread(raw.stdout.readline)
            yield Pair(app, raw, folder)
        finally:
            raw.kill()
            raw.wait(10)
            await app.close()


async def hop(folder: Path, *, rounds: int, count: int) -> Measure:
    """Time from the publish to the first line of the handler, in ms. One event at a time: the next one is sent when
    the one before is long settled, so that this is a latency and no throughput in disguise."""
    product: list[Round] = []
    baseline: list[Round] = []
    async with pair(folder, concurrency=16) as both:
        for number in range(rounds + 1):
            for is_product in (number % 2 == 0, number % 2 == 1):
                taken = await _hop_round(both, count, product=is_product)
                if number:  # the first pair warms up
                    (product if is_product else baseline).append(taken)
    return measures.measure("event hop p50", "ms", "≤ 1.5", product, baseline)


async def _hop_round(both: Pair, count: int, *, product: bool) -> Round:
    topic, file = ("work", both.product_file) if product else ("raw", both.raw_file)
    file.unlink(missing_ok=True)
    before = measures.cpu_seconds(both.pid(product=product))
    for _ in range(count):
        await asyncio.sleep(PAUSE)
        await both.send(topic, json.dumps({"t": time.time()}).encode())
    await both.send(topic, b'"dump"')
    await waits.until(lambda: file.exists() and file.stat().st_size > 0, f"the latencies of {topic}", timeout=30)
    latencies = sorted(await waits.until(lambda: _read(file), f"the latencies of {topic}"))
    spent = measures.cpu_seconds(both.pid(product=product)) - before
    return Round(latencies[len(latencies) // 2] * 1000, spent / count)


def _read(file: Path) -> list[float] | None:
    try:
        found: list[float] = json.loads(file.read_text())
    except ValueError:
        return None
    return found


async def throughput(folder: Path, *, rounds: int, count: int) -> Measure:
    """Events a second of one process, from a standing backlog until the last acknowledgement."""
    product: list[Round] = []
    baseline: list[Round] = []
    async with pair(folder, concurrency=CONCURRENCY) as both:
        for number in range(rounds + 1):
            for is_product in (number % 2 == 0, number % 2 == 1):
                taken = await _throughput_round(both, count, product=is_product)
                if number:
                    (product if is_product else baseline).append(taken)
    return measures.measure("throughput without effects, one process", "events/s", "≥ 0.35", product, baseline)


async def _throughput_round(both: Pair, count: int, *, product: bool) -> Round:
    topic, durable = ("work", "work") if product else ("raw", "raw")
    process = both.app.worker.process if product else both.raw
    process.send_signal(signal.SIGSTOP)
    try:
        await both.send(topic, b"0", count)
        await waits.until(lambda: both.holds(durable, count), f"{count} events waiting", timeout=60)
    finally:
        before = measures.cpu_seconds(process.pid)
        began = time.perf_counter()
        process.send_signal(signal.SIGCONT)
    await waits.until(lambda: both.settled(durable), f"{count} events settled by {durable}", timeout=120)
    seconds = time.perf_counter() - began
    return Round(count / seconds, (measures.cpu_seconds(process.pid) - before) / count)
