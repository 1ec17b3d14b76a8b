"""Runs that emit one event each, beside the same batches replayed by a bare client."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bema.contract import names
from bema.ports import admin
from bema.ports.jetstream import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, EXPECTED_LAST, Stored
from bench import measures
from bench.measures import Measure, Round
from tests.support import brokers, runtimes, waits

STEP = """
config = {{"triggers": [{{"event": {{"topics": ["{name}"]}}}}], "emits": ["done"], "concurrency": {concurrency}}}
async def handler(data, ctx):
    await ctx.emit("done", {{"n": data}})
"""

Batch = Sequence[Sequence[object]]
"""Messages as a replay reads them: subject, data, headers, expected sequence."""


async def emitting(folder: Path, *, memory: bool, rounds: int, count: int) -> Measure:
    """Runs a second, each with a marker and one event, against the same batches sent by a bare client."""
    product: list[Round] = []
    baseline: list[Round] = []
    with brokers.running(folder / "nats") as server:
        app = runtimes.App(server.url, folder / "app", {"steps/work_step.py": step("work", 256)})
        await app.start(memory=memory)
        try:
            for number in range(rounds + 1):
                taken = await run_backlog(app, "work", count)
                replayed = await replay(app, await recorded(app), folder / "batches.json")
                if number:
                    product.append(taken)
                    baseline.append(replayed)
        finally:
            await app.close()
    place = "memory" if memory else "R1 file"
    return measures.measure(f"runs with one emit, {place}, one process", "runs/s", "≥ 0.5", product, baseline)


def step(name: str, concurrency: int) -> str:
    """A Step that hears the topic of its name and emits one event a run."""
    return STEP.format(name=name, concurrency=concurrency)


async def run_backlog(app: runtimes.App, name: str, count: int) -> Round:
    """Runs a second of a Step, from a standing backlog until the last acknowledgement."""
    process = app.worker.process
    process.send_signal(signal.SIGSTOP)
    try:
        for number in range(count):
            headers = {"ce-id": f"{time.time_ns()}-{number}", "ce-type": name}
            await app.connection.publish(names.event(app.root, name), b"%d" % number, headers)
        await waits.until(lambda: _holds(app, name, count), f"{count} events waiting", timeout=60)
    finally:
        before = measures.cpu_seconds(process.pid)
        began = time.perf_counter()
        process.send_signal(signal.SIGCONT)
    await waits.until(lambda: _is_settled(app, name), f"{count} runs settled", timeout=120, explain=app.explain)
    seconds = time.perf_counter() - began
    return Round(count / seconds, (measures.cpu_seconds(process.pid) - before) / count)


async def _backlog(app: runtimes.App, name: str) -> int:
    return (await admin.consumer_states(app.js, app.stream))[name].backlog


async def _holds(app: runtimes.App, name: str, count: int) -> bool:
    return await _backlog(app, name) >= count


async def _is_settled(app: runtimes.App, name: str) -> bool:
    return await _backlog(app, name) == 0


async def recorded(app: runtimes.App) -> list[Batch]:
    """The batches that the product made since the stream was emptied, in their order."""
    batches: dict[str, list[Sequence[object]]] = {}
    for stored in await app.messages(f"{app.root}.>"):
        if BATCH_ID in stored.headers:
            batches.setdefault(stored.headers[BATCH_ID], []).append(_plain(app, stored))
    return list(batches.values())


def _plain(app: runtimes.App, stored: Stored) -> Sequence[object]:
    own = {k: v for k, v in stored.headers.items() if k not in (BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT, EXPECTED_LAST)}
    return stored.subject, stored.data.decode(), own, 0 if is_marker(app, stored.subject) else None


def is_marker(app: runtimes.App, subject: object) -> bool:
    return str(subject).startswith(f"{app.root}.end.")


async def replay(
    app: runtimes.App, batches: Sequence[Batch], file: Path, *, concurrency: int = 1, seconds: float = 60
) -> Round:
    """Runs a second when a process of its own sends these batches again, at most for so long, to the stream that they
    were made for, which is empty before and after."""
    file.write_text(json.dumps(batches))
    await app.js.api(f"STREAM.PURGE.{app.stream}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.replay", app.nats_urls[0], app.stream, str(file), str(concurrency)),
        str(seconds),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    await app.js.api(f"STREAM.PURGE.{app.stream}")
    found = json.loads(output)
    runs = sum(is_marker(app, message[0]) for batch in batches[: found["batches"]] for message in batch)
    return Round(runs / found["seconds"], found["cpu"] / runs)
