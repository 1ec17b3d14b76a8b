"""Runs of event Steps: effects committed once, conflicts, retries, dead letters."""

from __future__ import annotations

import json

from tests.support import waits

RELAY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"]}
async def handler(data, ctx):
    await ctx.state.set("seen", data["id"], {"attempt": ctx.attempt, "run": ctx.run_id})
    await ctx.emit("b", {"id": data["id"]}, key="k")
"""


async def test_a_run_commits_its_state_its_emits_and_its_marker(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY})
    event_id = await app.emit("a", {"id": "x"})
    seen = await waits.until(lambda: app.state("seen", "x"), "the state of x", explain=app.explain)
    [emitted] = await app.events("b")
    assert json.loads(emitted.data) == {"id": "x"}
    assert emitted.headers["ce-id"] == f"{seen['run']}.1"
    assert emitted.headers["ce-partitionkey"] == "k"
    [marker] = await app.messages(f"{app.root}.end.>")
    assert marker.subject == f"{app.root}.end.relay.event.{seen['run']}"
    assert json.loads(marker.data)["outcome"] == "ok"
    await app.wait_idle()
    assert event_id
