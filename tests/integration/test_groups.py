"""Runs that change one key without reading it share a batch, beside runs that do read it, in two processes."""

from __future__ import annotations

from typing import Any

from bema.ports.jetstream import Outgoing

BLIND = """
config = {"triggers": [{"event": {"topics": ["blind"]}}], "concurrency": 64}
async def handler(data, ctx):
    await ctx.state.increment("counts", "n")
    await ctx.state.append("lists", "all", data)
"""
READING = """
config = {"triggers": [{"event": {"topics": ["reading"]}}], "concurrency": 4}
async def handler(data, ctx):
    await ctx.state.increment_and_get("counts", "n", 1000)
"""
FAILING = """
config = {"triggers": [{"event": {"topics": ["failing"]}}], "concurrency": 64, "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    await ctx.state.increment("counts", "n", 1_000_000)
    await ctx.state.increment("words", "hello")
"""


async def test_blind_changes_of_one_key_share_batches_and_each_is_made_once(start_app: Any) -> None:
    steps = {"steps/blind_step.py": BLIND, "steps/reading_step.py": READING, "steps/failing_step.py": FAILING}
    app = await start_app(steps, workers=0)
    await app.js.publish(Outgoing(f"{app.root}.state.words.hello", b'"a text"'))
    for number in range(300):
        await app.emit("blind", number)
        if number % 30 == 0:
            await app.emit("reading", number)
            await app.emit("failing", number)
    for _ in range(2):
        app.spawn()
    await app.wait_idle(timeout=60)

    assert await app.state("counts", "n") == 10_300
    assert sorted(await app.state("lists", "all")) == list(range(300))
    assert len(await app.messages(f"{app.root}.end.blind.>")) == 300
    assert len(await app.dead_letters()) == 10
    figures = [worker.metrics() for worker in app.workers]
    assert sum(figure["bema_commit_runs_sum"] for figure in figures) == 320
    assert sum(figure["bema_commit_runs_count"] for figure in figures) < 250
