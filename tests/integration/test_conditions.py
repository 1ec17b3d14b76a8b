"""Conditions on triggers: what is not for a Step does not run it, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from bema.contract import names
from tests.support import waits

STEP = """
from bema import Request
def large(data, ctx):
    if data["n"] < 0:
        raise ValueError("no condition for that")
    return data["n"] > 5
async def on_disk(data):
    return data["n"] % 2 == 0
config = {{"triggers": [
    {{"event": {{"topics": ["plain"], "condition": large}}}},
    {{"event": {{"topics": ["schema"], "condition": {{"properties": {{"n": {{"minimum": 6}}}}}}}}}},
    {{"api": {{"method": "POST", "path": "/x", "condition": {{"required": ["n"]}}}}}},
    {other}
], "retry": {{"maxAttempts": 2, "initialSeconds": 0.05, "maxSeconds": 0.05}}}}
{kind} handler(data, ctx):
    if isinstance(data, Request):
        return {{"ran": True}}
    {wait}ctx.state.append("ran", ctx.trigger.topic, data["n"])
"""
ASYNC = '{"event": {"topics": ["async"], "condition": on_disk}},'


@pytest.mark.parametrize("is_async", [True, False])
async def test_only_what_the_condition_holds_for_runs(start_app, is_async: bool) -> None:
    kind, wait, other = ("async def", "await ", ASYNC) if is_async else ("def", "", "")
    app = await start_app({"steps/cond_step.py": STEP.format(kind=kind, wait=wait, other=other)})
    topics = ["plain", "schema", *(["async"] if is_async else [])]
    for number in (4, 7, 6, 3, 8):
        for topic in topics:
            await app.emit(topic, {"n": number})
    await app.wait_idle()
    expected = {"plain": [6, 7, 8], "schema": [6, 7, 8], "async": [4, 6, 8]}
    for topic in topics:
        assert sorted(await app.state("ran", topic)) == expected[topic]
    metrics = app.worker.metrics()
    [skipped] = [value for name, value in metrics.items() if "runs_total" in name and 'outcome="skipped"' in name]
    assert skipped == 2 * len(topics)
    status, body, _ = app.request("POST", "/x", {"n": 1})
    assert (status, body) == (200, {"ran": True})
    status, body, _ = app.request("POST", "/x", {"m": 1})
    assert (status, body["title"]) == (422, "Condition not met")


async def test_a_condition_that_raises_is_a_failed_attempt(start_app) -> None:
    app = await start_app({"steps/cond_step.py": STEP.format(kind="async def", wait="await ", other="")})
    await app.emit("plain", {"n": -1})
    [letter] = await waits.until(app.dead_letters, "a dead letter", explain=app.explain)
    assert (letter.headers["Bema-Attempt"], letter.headers["Bema-Reason"]) == ("2", "AttemptsExhausted")
    assert "no condition for that" in letter.headers["Bema-Errors"]


ASKS = """
{kind} asks(data, ctx):
    {wait}ctx.state.set("g", "k", data)
    return True
config = {{"triggers": [{{"event": {{"topics": ["asks"], "condition": asks}}}}], "retry": {{"maxAttempts": 3}}}}
{kind} handler(data, ctx):
    {wait}ctx.state.set("ran", "k", data)
"""


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_condition_that_writes_fails_for_good_and_nothing_is_written(start_app, is_async: bool) -> None:
    kind, wait = ("async def", "await ") if is_async else ("def", "")
    app = await start_app({"steps/asks_step.py": ASKS.format(kind=kind, wait=wait)})
    await app.emit("asks", 1)
    ends = names.end_filter(app.root, "asks")
    [end] = await waits.until(lambda: app.messages(ends), "the end of the run", explain=app.explain)
    assert json.loads(end.data)["outcome"] == "dead"
    [letter] = await app.dead_letters()
    assert (letter.headers["Bema-Attempt"], letter.headers["Bema-Reason"]) == ("1", "NonRetryable")
    assert "expected a yes or no, found one that emits or writes" in letter.headers["Bema-Errors"]
    assert (await app.state("g", "k"), await app.state("ran", "k")) == (None, None)
