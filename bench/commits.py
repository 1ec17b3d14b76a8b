"""Runs that emit one event each, beside the same batches replayed by a bare client."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from bema.contract import names
from bema.contract.bindings import AppStream
from bema.ports import admin
from bema.ports.jetstream import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, EXPECTED_LAST, Stored
from bench import measures
from bench.measures import Measure, Round
from tests.support import brokers, runtimes, waits

STEP = """
config = {"triggers": [{"event": {"topics": ["work"]}}], "emits": ["done"], "concurrency": 256}
async def handler(data, ctx):
    await ctx.emit("done", {"n": data})
"""


async def emitting(folder: Path, *, memory: bool, rounds: int, count: int) -> Measure:
    """Runs a second, each with a marker and one event, against the same batches sent by a bare client."""
    product: list[Round] = []
    baseline: list[Round] = []
    with brokers.running(folder / "nats") as server:
        app = runtimes.App(server.url, folder / "app", {"steps/work_step.py": STEP})
        await app.start(memory=memory)
        try:
            for number in range(rounds + 1):
                taken = await _product_round(app, count)
                replayed = await _replay_round(server, app, folder / "batches.json", count, memory=memory)
                if number:
                    product.append(taken)
                    baseline.append(replayed)
                await _empty(app)
        finally:
            await app.close()
    place = "memory" if memory else "R1 file"
    return measures.measure(f"runs with one emit, {place}, one process", "runs/s", "≥ 0.5", product, baseline)


async def _product_round(app: runtimes.App, count: int) -> Round:
    process = app.worker.process
    process.send_signal(signal.SIGSTOP)
    try:
        for number in range(count):
            headers = {"ce-id": f"{time.time_ns()}-{number}", "ce-type": "work"}
            await app.connection.publish(names.event(app.root, "work"), b"%d" % number, headers)
        await waits.until(lambda: _backlog(app, count), f"{count} events waiting", timeout=60)
    finally:
        before = measures.cpu_seconds(process.pid)
        began = time.perf_counter()
        process.send_signal(signal.SIGCONT)

    async def settled() -> bool:
        return (await admin.consumer_states(app.js, app.stream))["work"].backlog == 0

    await waits.until(settled, f"{count} runs settled", timeout=120, explain=app.explain)
    seconds = time.perf_counter() - began
    return Round(count / seconds, (measures.cpu_seconds(process.pid) - before) / count)


async def _backlog(app: runtimes.App, count: int) -> bool:
    return (await admin.consumer_states(app.js, app.stream))["work"].backlog >= count


async def _replay_round(
    server: brokers.NatsServer, app: runtimes.App, file: Path, count: int, *, memory: bool
) -> Round:
    """The batches that the product made just now, in their order, one at a time, by a process of its own."""
    recorded = [stored for stored in await app.messages(f"{app.root}.>") if BATCH_ID in stored.headers]
    batches: dict[str, list[list[object]]] = {}
    for stored in recorded:
        batches.setdefault(stored.headers[BATCH_ID], []).append(_plain(app, stored))
    file.write_text(json.dumps(list(batches.values())))
    stream = AppStream(name="REPLAY", subjects=["replay.>"], replicas=1, memory=memory, metadata={})
    await admin.ensure_stream(app.js, stream)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.replay", server.url, str(file), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    await admin.delete_stream(app.js, stream)
    found = json.loads(output)
    return Round(count / found["seconds"], found["cpu"] / count)


def _plain(app: runtimes.App, stored: Stored) -> list[object]:
    own = {k: v for k, v in stored.headers.items() if k not in (BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT, EXPECTED_LAST)}
    expected = 0 if f"{app.root}.end." in stored.subject else None
    return ["replay" + stored.subject.removeprefix(app.root), stored.data.decode(), own, expected]


async def _empty(app: runtimes.App) -> None:
    await app.js.api(f"STREAM.PURGE.{app.stream}")
