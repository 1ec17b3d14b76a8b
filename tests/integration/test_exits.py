"""Handlers whose tasks call `sys.exit`, as the entry points of libraries do: the others go on, and somebody is told."""

from __future__ import annotations

import json

import pytest

from tests.support import waits

EXITS = """
import asyncio, sys
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 1}, "isolation": "%s",
          "timeoutSeconds": 10}
KEPT = []

async def library():
    sys.exit(2)

async def interrupted():
    raise KeyboardInterrupt()

async def handler(case, ctx):
    match case:
        case "wait_for":
            await asyncio.wait_for(library(), 5)
        case "gather":
            await asyncio.gather(asyncio.sleep(0), library())
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(library())
        case "task":
            await asyncio.create_task(library())
        case "interrupted":
            await asyncio.create_task(interrupted())
        case "forgotten":
            KEPT.append(asyncio.create_task(library()))
            await asyncio.sleep(0.01)
        case "caught":
            try:
                await asyncio.create_task(library())
            except SystemExit:
                pass
        case "returned":
            await asyncio.gather(library(), return_exceptions=True)
        case "later":
            asyncio.get_running_loop().call_later(0.01, lambda: KEPT.append(asyncio.ensure_future(library())))
        case "stop":
            asyncio.get_running_loop().stop()
        case "callback":
            asyncio.get_running_loop().call_soon(sys.exit, 2)
            await asyncio.sleep(5)
    await ctx.state.set("done", case, 1)
"""
OTHER = """
config = {"triggers": [{"api": {"method": "GET", "path": "/ping"}}]}
async def handler(request, ctx):
    return {"ok": True}
"""
FAILED = {
    "wait_for": "SystemExit",
    "gather": "SystemExit",
    "group": "SystemExit",
    "task": "SystemExit",
    "interrupted": "KeyboardInterrupt",
    "forgotten": "SystemExit",
}


@pytest.mark.parametrize("isolation", ["Thread", "Process"])
async def test_an_exit_in_a_task_of_a_handler_fails_its_run_and_stops_nobody_else(start_app, isolation: str) -> None:
    app = await start_app({"steps/exit_step.py": EXITS % isolation, "steps/other_step.py": OTHER})
    for case in [*FAILED, "caught", "returned", "later", "stop", "fine"]:
        await app.emit("a", case, id=case)
    for case in ("caught", "returned", "later", "stop", "fine"):
        await app.wait_state("done", case, 1)
    letters = await app.wait_dead(len(FAILED))
    assert {case: entry["type"] for case, [entry] in letters.items()} == FAILED
    assert "in library" in letters["wait_for"][0]["traceback"]
    assert app.request("GET", "/ping")[:2] == (200, {"ok": True})
    said = [line for line in app.worker.lines if "of the handlers" in line["message"]]
    assert {line["step"] for line in said if "run" in line} == {"exit"}
    await app.wait_idle()
    assert app.worker.process.poll() is None


async def test_an_exit_that_is_nobodys_ends_the_process(start_app) -> None:
    app = await start_app({"steps/exit_step.py": EXITS % "Thread"})
    await app.emit("a", "callback")
    assert await app.worker.wait_exit() == 70
    assert any(line["level"] == "CRITICAL" and "SystemExit" in line["message"] for line in app.worker.lines)


async def test_an_exit_that_is_nobodys_ends_the_worker_process(start_app) -> None:
    app = await start_app({"steps/exit_step.py": EXITS % "Process"})
    await app.emit("a", "callback")
    [letter] = await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    [entry] = json.loads(letter.headers["Bema-Errors"])
    assert (entry["type"], "ended with exit code 70" in entry["message"]) == ("WorkerDied", True)
    await app.emit("a", "fine")
    await app.wait_state("done", "fine", 1)
