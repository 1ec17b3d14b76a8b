"""Reads of the state in a run, beside those of a bare client.

`python -m bench.reads URL STREAM ROOT COUNT`, the client's process: reads so many keys from the stream's leader, one
after the other; prints the seconds that each took, and CPU seconds.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from bema.contract import names
from bema.ports import connections
from bema.ports.jetstream import JetStream, Outgoing
from bench import measures
from bench.measures import Measure, Round
from tests.support import brokers, runtimes, waits

GROUP = "numbers"
STEP = """
import json, os, time
config = {{"triggers": [{{"event": {{"topics": ["read"]}}}}]}}
async def handler(count, ctx):
    latencies = []
    for number in range(count):
        began = time.perf_counter()
        await ctx.state.get("{group}", str(number))
        latencies.append(time.perf_counter() - began)
    with open({file!r} + ".new", "w") as out:
        json.dump(latencies, out)
    os.replace({file!r} + ".new", {file!r})
"""


async def reading(folder: Path, *, rounds: int, count: int) -> Measure:
    """Time of `ctx.state.get` in a handler, in ms, against `STREAM.MSG.GET` by a bare client. No key is read twice in
    a run: it would not be asked for again."""
    product: list[Round] = []
    baseline: list[Round] = []
    file = folder / "latencies.json"
    with brokers.running(folder / "nats") as server:
        step = STEP.format(group=GROUP, file=str(file))
        app = runtimes.App(server.url, folder / "app", {"steps/read_step.py": step})
        await app.start()
        try:
            for number in range(count):
                subject = names.state(app.root, GROUP, str(number))
                await app.js.publish(Outgoing(subject, b'{"number":%d}' % number))
            for number in range(rounds + 1):
                taken, raw = await _product_round(app, file, count), await _raw_round(app, count)
                if number:
                    product.append(taken)
                    baseline.append(raw)
        finally:
            await app.close()
    return measures.measure("state get in a run, p50", "ms", "≤ 2", product, baseline)


async def _product_round(app: runtimes.App, file: Path, count: int) -> Round:
    file.unlink(missing_ok=True)
    before = measures.cpu_seconds(app.worker.process.pid)
    await app.emit("read", count)
    await waits.until(file.exists, f"{count} reads", timeout=60, explain=app.explain)
    spent = measures.cpu_seconds(app.worker.process.pid) - before
    return _round(json.loads(file.read_text()), spent)


async def _raw_round(app: runtimes.App, count: int) -> Round:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.reads", app.nats_urls[0], app.stream, app.root, str(count)),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    found = json.loads(output)
    return _round(found["latencies"], found["cpu"])


def _round(latencies: list[float], spent: float) -> Round:
    return Round(sorted(latencies)[len(latencies) // 2] * 1000, spent / len(latencies))


async def main(url: str, stream: str, root: str, count: int) -> None:
    js = JetStream(await connections.connect([url], name="raw"))
    await js.api(f"STREAM.INFO.{stream}")
    latencies = []
    cpu = time.process_time()
    for number in range(count):
        began = time.perf_counter()
        await js.get_last(stream, names.state(root, GROUP, str(number)))
        latencies.append(time.perf_counter() - began)
    print(json.dumps({"latencies": latencies, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
