"""A server whose own store becomes full, again and again, while runs commit: it may store a part of a batch."""

from __future__ import annotations

import time
from pathlib import Path

from bema.contract import errors, names
from bema.ports import connections
from bema.ports.jetstream import JetStream, Outgoing
from tests.support import brokers, runtimes

MIB = 1 << 20
STORE = 160 * MIB
RUNS = 60
"""In each round."""
WRITES = 300
"""Of each run: large commits, so that the store becomes full in the midst of one now and then."""
SECONDS = 30.0
STEP = f"""
config = {{"triggers": [{{"event": {{"topics": ["write"]}}}}], "concurrency": 16}}
async def handler(number, ctx):
    for place in range({WRITES}):
        await ctx.state.set("written", f"{{number}}/{{place}}", "y" * 200)
"""
SAID = "The server has stored a part of a commit only; storing the rest"


async def fill(js: JetStream) -> None:
    """Another stream takes all that the server may store, and goes again. In the end in pieces that are smaller than a
    commit: whatever is larger than the room left is stored in part."""
    await js.api("STREAM.CREATE.FILL", {"name": "FILL", "subjects": ["fill"], "storage": "file", "num_replicas": 1})
    refused = 0
    while refused < 3:
        room = STORE - int((await js.api("INFO"))["storage"])
        try:
            await js.publish(Outgoing("fill", bytes(900_000 if room > 4 * MIB else 10_000)))
        except errors.BrokerError:
            refused += 1
    await js.api("STREAM.DELETE.FILL")


async def test_every_commit_is_whole_though_the_store_becomes_full_in_the_midst_of_some(tmp_path: Path) -> None:
    with brokers.running(tmp_path / "nats", store_bytes=STORE) as server:
        app = runtimes.App(server.url, tmp_path / "app", {"steps/write_step.py": STEP})
        filler = await connections.connect([server.url], name="filler", wait=10)
        try:
            await app.start()
            rounds, began = 0, time.monotonic()
            while time.monotonic() - began < SECONDS:
                for number in range(RUNS):
                    await app.emit("write", rounds * RUNS + number)
                await fill(JetStream(filler))
                await app.wait_idle(timeout=60)
                state = names.state_filter(app.root)
                assert len(await app.js.subjects(app.stream, state)) == RUNS * WRITES, (
                    f"round {rounds}: {app.explain()}"
                )
                await app.js.purge(app.stream, state, below=None)
                await app.js.purge(app.stream, names.event_filter(app.root, "write"), below=None)
                rounds += 1
            said = sum(line["message"] == SAID for line in app.worker.lines)
            assert said, f"no commit was stored in part in {rounds} rounds: this has shown nothing"
            print(f"{rounds * RUNS} runs while a store became full {rounds} times, {said} commits completed")
        finally:
            await filler.close()
            await app.close()
