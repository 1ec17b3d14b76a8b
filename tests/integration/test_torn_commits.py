"""A commit that a server has stored in part, because its store became full in the midst of it, is made whole by the
worker that sent it. The server stores in part whatever is larger than the room that is left: see the facts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bema.contract import names
from bema.ports.jetstream import JetStream, Outgoing
from tests.support import brokers, waits
from tests.support.runtimes import App

MIB = 1 << 20
STORE = 8 * MIB
WRITES = 100
"""Of each run, of 3,000 bytes: some 330,000 bytes."""
PIECE = 50_000
SAID = "The server has stored a part of a commit only; storing the rest"
FILES = {
    "steps/write_step.py": f"""
import asyncio
config = {{"triggers": [{{"event": {{"topics": ["write"]}}}}], "emits": ["written"], "concurrency": 16}}
together = None
async def handler(input, ctx):
    global together
    together = together or asyncio.Barrier(input["runs"])
    async with asyncio.timeout(10):
        await together.wait()
    for place in range({WRITES}):
        await ctx.state.append("written", f"{{input['number']}}/{{place}}", "y" * 3000)
    await ctx.emit("written", input["number"])
""",
    "steps/hear_step.py": """
config = {"triggers": [{"event": {"topics": ["written"]}}]}
async def handler(number, ctx):
    await ctx.state.append("heard", "all", number)
""",
}


async def fill(js: JetStream, *, room: int, piece: int = PIECE) -> None:
    """Another stream takes all that the server may store, but for so many bytes, or a piece less."""
    await js.api("STREAM.CREATE.FILL", {"name": "FILL", "subjects": ["fill"], "storage": "file", "num_replicas": 1})
    while STORE - int((await js.api("INFO"))["storage"]) > room:
        await js.publish(Outgoing("fill", bytes(piece)))


async def give_back(js: JetStream, pieces: int) -> None:
    held = (await js.api("STREAM.INFO.FILL"))["state"]["messages"]
    await js.api("STREAM.PURGE.FILL", {"keep": held - pieces})


@asynccontextmanager
async def torn(folder: Path, *, runs: int, room: int) -> AsyncIterator[App]:
    """Runs whose commits are one batch, which the server has stored in part."""
    with brokers.running(folder / "nats", store_bytes=STORE) as server:
        app = App(server.url, folder / "app", FILES)
        try:
            await app.start()
            await fill(app.js, room=room)
            for number in range(runs):
                await app.emit("write", {"number": number, "runs": runs})
            await waits.until(
                lambda: SAID in [line["message"] for line in app.worker.lines],
                "the worker to say that a commit was stored in part",
                timeout=30,
                explain=app.explain,
            )
            yield app
        finally:
            await app.close()


async def stored(app: App) -> int:
    return len(await app.js.subjects(app.stream, names.state_filter(app.root, "written")))


async def check(app: App, *, runs: int) -> None:
    """Every run has happened, whole and once."""
    await app.wait_idle(timeout=60)
    for number in range(runs):
        found = [await app.state("written", f"{number}/{place}") for place in range(WRITES)]
        assert [place for place, value in enumerate(found) if value != ["y" * 3000]] == [], f"of run {number}"
    assert sorted(await app.state("heard", "all")) == list(range(runs))


@pytest.mark.parametrize(
    ("runs", "room"),
    [pytest.param(1, 200_000, id="of one run"), pytest.param(3, 500_000, id="the second of three runs in a batch")],
)
async def test_what_is_missing_is_stored_once_there_is_room(tmp_path: Path, runs: int, room: int) -> None:
    async with torn(tmp_path, runs=runs, room=room) as app:
        assert 0 < await stored(app) < runs * WRITES
        await app.js.api("STREAM.DELETE.FILL")
        await check(app, runs=runs)


async def test_what_is_missing_may_be_stored_in_part_too(tmp_path: Path) -> None:
    async with torn(tmp_path, runs=1, room=200_000) as app:
        before = await stored(app)
        await give_back(app.js, 2)

        async def some_more() -> bool:
            return await stored(app) > before

        await waits.until(some_more, "a part of the rest to be stored", timeout=30, explain=app.explain)
        assert await stored(app) < WRITES
        await app.js.api("STREAM.DELETE.FILL")
        await check(app, runs=1)


ITEMS = 200
BATCH = {
    "steps/gather_step.py": f"""
config = {{"triggers": [{{"event": {{"topics": ["gather"], "batch": {{"size": {ITEMS}, "timeoutSeconds": 30}}}}}}],
          "emits": ["gathered"]}}
async def handler(items, ctx):
    await ctx.state.append("gathered", "sizes", len(items))
    await ctx.emit("gathered", len(items))
""",
    "steps/count_step.py": """
config = {"triggers": [{"event": {"topics": ["gathered"]}}]}
async def handler(count, ctx):
    await ctx.state.append("counted", "all", count)
""",
}


async def test_a_batch_of_which_some_markers_only_were_stored_is_made_whole(tmp_path: Path) -> None:
    """Its first items have their end then, and nobody would have their effects."""
    with brokers.running(tmp_path / "nats", store_bytes=STORE) as server:
        app = App(server.url, tmp_path / "app", BATCH)
        try:
            await app.start()
            for number in range(ITEMS - 1):
                await app.emit("gather", number)
            await fill(app.js, room=20_000, piece=2_000)
            await app.emit("gather", ITEMS - 1)
            await waits.until(
                lambda: SAID in [line["message"] for line in app.worker.lines],
                "the worker to say that a commit was stored in part",
                timeout=30,
                explain=app.explain,
            )
            markers = len(await app.js.subjects(app.stream, names.end_filter(app.root, "gather")))
            assert 0 < markers < ITEMS
            await app.js.api("STREAM.DELETE.FILL")
            await app.wait_idle(timeout=60)
            assert await app.state("gathered", "sizes") == [ITEMS]
            assert await app.state("counted", "all") == [ITEMS]
        finally:
            await app.close()
